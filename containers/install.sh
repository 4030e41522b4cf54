#!/bin/sh
# The Python environment of an image, from its lock, in %post: install.sh [cpu|cuda] [yes]. The base brings Python 3.11.
set -eu
home=/opt/safe-llava
python=$home/environment/bin/python
cd "$home"

# The machine's own settings (index, certificates, folders of wheels) are bound while the image is built, never copied.
[ ! -f /mnt/settings.sh ] || . /mnt/settings.sh
export UV_LINK_MODE=copy UV_NO_PROGRESS=1

python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "error: the base's python3 is not Python 3.11, for which the locks are made" >&2
    echo "  remedy: another base (images.base, containers/base.yaml)" >&2
    exit 1
}
python3 -m venv installer
installer/bin/python -m pip install -q --require-hashes -r installer.lock
python3 -m venv --without-pip environment
if [ "${1:-}" = cpu ]; then
    installer/bin/python -m pip --python "$python" install -q --no-deps --no-compile --retries 1 --timeout 15 -r torch-cpu.txt
fi
install="installer/bin/uv pip install --python $python --no-deps --require-hashes"
# Nothing can be compiled in an image that runs; without the bytecode every job would do it anew.
$install --compile-bytecode --build-constraints build.lock -r requirements.lock
if [ "${2:-no}" = yes ]; then # images.flash_attn
    $install -r compiler.lock
    # The wheels of CUDA lack the two names under which compilers look for its libraries.
    CUDA_HOME=$("$python" -c 'import nvidia.cu13; print(nvidia.cu13.__path__[0])')
    ln -sfn lib "$CUDA_HOME/lib64"
    ln -sfn libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"
    export CUDA_HOME PATH="$home/environment/bin:$CUDA_HOME/bin:$PATH"
    # MAX_JOBS compilers at a time (docs/images.md). For A100 and H100/H200; never the binary that its setup would look
    # for on its release page.
    export MAX_JOBS="${MAX_JOBS:-1}" NVCC_THREADS=1
    FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS="80;90" $install --no-build-isolation -r flash-attn.lock
fi
rm -rf installer
echo "safe-llava.lock $(sha256sum requirements.lock | cut -d' ' -f1)" >> "$APPTAINER_LABELS"
