#!/usr/bin/env bash
# ijson reads half of a surrogate pair as a question mark with its C parser, and as it stands with its Python one.
#
# JSON may hold the escape \ud83d without its other half. The standard library gives back the lone surrogate, which no
# UTF-8 file can hold, so that the fault shows at once. ijson's default backend (yajl2_c) silently gives "?" instead:
# a text is changed and nothing says so. Its pure Python backend gives what the standard library gives. So whoever streams
# annotations and must refuse broken characters has to look for them before the C parser does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ijson==3.6.0
"$work/venv/bin/python" - <<'PYTHON'
import io
import json

import ijson

RAW = rb'["a \ud83d b", "\ud83d\ude00"]'
print("ijson", ijson.__version__, "default backend", ijson.backend)
assert ijson.backend == "yajl2_c", "no wheel with the C parser here"
standard = json.loads(RAW)
compiled = list(ijson.items(io.BytesIO(RAW), "item"))
plain = list(ijson.get_backend("python").items(io.BytesIO(RAW), "item"))
for name, got in (("json", standard), ("ijson, C", compiled), ("ijson, Python", plain)):
    print(f"{name:14}", ascii(got))
assert standard == plain == ["a \ud83d b", "\U0001f600"]
assert compiled == ["a ? b", "\U0001f600"], "the behaviour changed"
PYTHON
