#!/usr/bin/env bash
# Make the environment of `make env`: envs/make_env.sh FOLDER
# Everything but torch comes from envs/local.lock, hash by hash; torch is its CPU build, of which the package index
# carries none: it is taken from PyTorch's own index where that answers, or from a folder of wheels that pip knows.
# TORCH_INDEX= takes what the package index has, CUDA's libraries with it: the same for every call, or it is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?folder of the environment}
torch=torch==2.13.0
stamp="$folder/.complete"
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
wanted=$({ cat envs/local.lock envs/installer.lock envs/make_env.sh pyproject.toml && echo "$index"; } | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or 3.12 with its venv module" >&2
    echo "  remedy: apt-get install python3-venv, or name another: make env PYTHON=/path/to/python3.11" >&2
    exit 1
fi

# A half-made environment is never completed, only made again.
rm -rf "$folder"
"$python" -m venv "$folder"
echo "installing into $folder (about a minute)"
pip=("$folder/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" --require-hashes -r envs/installer.lock
# uv installs in parallel (and compiles only when told to); pip does the same from the same lock where uv cannot reach the index.
"$folder/bin/uv" pip install -q --compile-bytecode --python "$folder/bin/python" --no-deps --require-hashes -r envs/local.lock ||
    "${pip[@]}" --no-deps --require-hashes -r envs/local.lock
[ -n "$index" ] && "${pip[@]}" --no-deps --extra-index-url "$index" --retries 1 --timeout 15 "$torch" ||
    "${pip[@]}" "$torch"
"${pip[@]}" --no-deps --no-build-isolation -e .
"$folder/bin/python" -c 'import torch, transformers, snakemake, safe_llava'
printf '%s' "$wanted" > "$stamp"
