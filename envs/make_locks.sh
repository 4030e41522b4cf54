#!/usr/bin/env bash
# Lock what `make env` installs and what the images hold: envs/make_locks.sh [FOLDER]. What is in a lock already stays as long as it fits; versions are
# those of local.lock, with which the tests run, but for the eval image, where vLLM holds some of them back.
# local.lock holds for every Python from 3.11 on and every machine, one version a package; the others for that of the images.
# A CPU lock is its CUDA lock less what only a GPU needs (cpu.txt), and less torch, whose CPU build is not on the index.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}
uv=${UV:-../.venv/bin/uv}

lock() { # NAME REQUIREMENTS OPTION…
    local name=$1 requirements=$2
    shift 2
    "$uv" pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate "$requirements" --output-file "$out/$name.lock" "$@"
}

image=(--python-platform x86_64-manylinux_2_36)
lock local local.in --universal --fork-strategy fewest --override cpu.txt --no-emit-package torch
lock build build.in "${image[@]}"
lock compiler compiler.in --no-deps "${image[@]}"
lock flash-attn flash-attn.in --no-deps "${image[@]}"
lock paper paper.in --constraint "$out/local.lock" "${image[@]}"
lock train-cuda train.in --constraint "$out/local.lock" "${image[@]}"
lock eval-cuda eval.in "${image[@]}"
for name in train eval; do
    lock $name-cpu $name.in --override cpu.txt --constraint "$out/$name-cuda.lock" --no-emit-package torch "${image[@]}"
done
