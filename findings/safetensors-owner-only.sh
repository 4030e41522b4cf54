#!/usr/bin/env bash
# safetensors 0.8.0: what `save_file` writes can be read by its owner alone (mode 0600), whatever the umask; 0.7.0 left
# the mode to the umask (0644). Weights that a group shares on a cluster cannot be read by the rest of the group any more.
# Run it without arguments; it installs the published packages into a temporary folder, and fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
cat > "$work/mode.py" << 'PYTHON'
import importlib.metadata
import os
import stat
import sys

import numpy
from safetensors.numpy import save_file

path = sys.argv[1]
save_file({"weight": numpy.zeros(4, numpy.float32)}, path)
mode = stat.S_IMODE(os.stat(path).st_mode)
version = importlib.metadata.version("safetensors")
print(f"safetensors {version}: umask 022, mode {mode:04o}")
assert mode == {"0.7.0": 0o644, "0.8.0": 0o600}[version], "the mode is another now"
PYTHON
python3 -m venv "$work/venv"
for version in 0.7.0 0.8.0; do
    "$work/venv/bin/pip" -q install numpy==2.4.4 "safetensors==$version"
    "$work/venv/bin/python" "$work/mode.py" "$work/model-$version.safetensors"
done
