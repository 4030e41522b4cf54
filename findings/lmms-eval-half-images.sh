#!/usr/bin/env bash
# lmms-eval 0.7.3: importing its tasks sets Pillow's LOAD_TRUNCATED_IMAGES for the whole process. From then on half a
# JPEG loads without an error, its missing rows grey, in every other code of that process, and a model is asked about it.
# Run it without arguments; it installs the published package into a temporary folder, and fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install lmms_eval==0.7.3
"$work/venv/bin/python" - << 'PYTHON' 2> "$work/log" || { cat "$work/log"; exit 1; }
import importlib.metadata
import io

from PIL import Image

whole = io.BytesIO()
Image.effect_noise((64, 64), 50).save(whole, "JPEG")
half = whole.getvalue()[: len(whole.getvalue()) // 2]


def last_row() -> object:
    try:
        return set(Image.open(io.BytesIO(half)).convert("L").crop((0, 63, 64, 64)).tobytes())
    except OSError as error:
        return f"OSError: {error}"


before = last_row()
import lmms_eval.api.task  # noqa: E402, F401

after = last_row()
print("Pillow", importlib.metadata.version("pillow"), "alone:", before)
print("lmms-eval", importlib.metadata.version("lmms_eval"), "imported: grey values of the last row", after)
assert str(before).startswith("OSError")
assert after == {128}, "half an image is an error again"
PYTHON
