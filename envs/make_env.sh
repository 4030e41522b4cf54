#!/usr/bin/env bash
# Make the environment of `make env`: envs/make_env.sh FOLDER
# Everything but torch comes from envs/local.lock, hash by hash, the same versions for every Python.
# torch is its CPU build, of which the package index carries none: from a folder of wheels that pip knows (PIP_FIND_LINKS),
# or from PyTorch's own index; where neither has it, CUDA's build from the package index, as envs/train-cuda.lock has it.
# TORCH_INDEX= asks for CUDA's build, TORCH_INDEX=URL for a mirror's: the same for every call, or it is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?folder of the environment}
version=2.13.0
stamp="$folder/.complete"
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
wanted=$({ cat envs/local.lock envs/installer.lock envs/make_env.sh pyproject.toml && echo "$index"; } | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

fail() { # MESSAGE REMEDY
    printf 'error: %s\n  remedy: %s\n' "$1" "$2" >&2
    exit 1
}

fits() { # PYTHON: whether it can hold the environment. For 3.14 one package has to be compiled, as it has no wheel.
    "$1" - 2> /dev/null << 'END'
import shutil, sys, sysconfig, venv, ensurepip
from pathlib import Path

compiles = shutil.which(sysconfig.get_config_var("CC").split()[0]) and Path(sysconfig.get_path("include"), "Python.h").is_file()
sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14) or sys.version_info[:2] == (3, 14) and compiles))
END
}

with_uv() { # Make the environment with a Python that uv finds here, or brings.
    local uv work remedy="apt-get install python3-venv (for 3.14 python3-dev and gcc too), or name one: make env PYTHON=/path/to/python3"
    work=$(mktemp -d)
    trap "rm -rf '$work'" EXIT
    echo "python3 is not 3.11 to 3.14 with its venv module (for 3.14 its headers and a C compiler): uv looks for another"
    uv=$(command -v uv) || {
        uv=$work/bin/uv
        python3 -m venv "$work" && "$work/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r envs/installer.lock
    } || fail "no Python fits, and there is no uv to bring one" "$remedy"
    "$uv" venv -q --seed --python '>=3.11,<3.14' "$folder" ||
        fail "no Python fits, and uv could not download one" "$remedy; or a mirror: export UV_PYTHON_INSTALL_MIRROR=URL"
}

# A half-made environment is never completed, only made again.
rm -rf "$folder"
if fits "${PYTHON:-python3}"; then
    "${PYTHON:-python3}" -m venv "$folder"
elif [ -n "${PYTHON:-}" ]; then
    fail "$PYTHON is not Python 3.11 to 3.14 with its venv module (for 3.14 its headers and a C compiler)" \
        "name another, or none: uv brings one"
else
    with_uv
fi
echo "installing into $folder (about a minute)"
pip=("$folder/bin/python" -m pip install -q --disable-pip-version-check)
uv=("$folder/bin/uv" pip install -q --compile-bytecode --python "$folder/bin/python")
"${pip[@]}" --require-hashes -r envs/installer.lock
# uv installs in parallel (and compiles only when told to); pip does the same from the same lock where uv cannot reach the index.
"${uv[@]}" --no-deps --require-hashes -r envs/local.lock || "${pip[@]}" --no-deps --require-hashes -r envs/local.lock

cpu_build() {
    "${pip[@]}" --no-deps --no-index "torch==$version+cpu" 2> /dev/null && return
    # Ten seconds for a first answer: an index that no packet reaches would be waited for and tried again for minutes.
    if timeout 10 "$folder/bin/python" -m pip index versions torch --retries 0 --index-url "$index" 2> /dev/null | grep -qF "$version+cpu"; then
        "${pip[@]}" --no-deps --index-url "$index" "torch==$version+cpu"
        return
    fi
    echo "$index does not answer: torch comes with CUDA's libraries, from the package index (about 3 GB)"
    echo "  for less: TORCH_INDEX=URL of a mirror, or PIP_FIND_LINKS=FOLDER with the wheel of torch $version+cpu"
    return 1
}
[ -n "$index" ] && cpu_build || "${uv[@]}" --constraint envs/train-cuda.lock "torch==$version" || "${pip[@]}" "torch==$version"
"${pip[@]}" --no-deps --no-build-isolation -e .
# Snakemake imports every executor plugin at each start, in the path's order: the published one alone would import pandas.
# So the clone's code goes before the packages, and stays behind PYTHONPATH.
"$folder/bin/python" -c 'import pathlib, sys, sysconfig
site = sysconfig.get_path("purelib")
line = f"import sys; sys.path.insert(sys.path.index({site!r}) if {site!r} in sys.path else 0, {sys.argv[1]!r})\n"
pathlib.Path(site, "safe_llava_first.pth").write_text(line)' "$PWD/scripts"
"$folder/bin/python" -c 'import torch, transformers, snakemake, safe_llava'
printf '%s' "$wanted" > "$stamp"
