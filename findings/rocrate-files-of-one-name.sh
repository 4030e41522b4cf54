#!/usr/bin/env bash
# rocrate 0.16.0: a file that is added without a place of its own goes to the crate's top under its bare name. Of two
# files with one name in two folders (each run's scores.csv) the second takes the first one's place, in the crate and in
# its metadata, without a word. Run it without arguments; it installs the published package into a temporary folder, and
# fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install rocrate==0.16.0
cd "$work"
mkdir plain cleaned
echo "leakage,91.2" > plain/scores.csv
echo "leakage,0.1" > cleaned/scores.csv
venv/bin/python -W error - << 'PYTHON'
import importlib.metadata
from pathlib import Path

from rocrate.rocrate import ROCrate

print("rocrate", importlib.metadata.version("rocrate"))
crate = ROCrate()
for path in ("plain/scores.csv", "cleaned/scores.csv"):
    crate.add_file(path)
crate.write("crate")
kept = [path for path in Path("crate").rglob("*") if path.is_file() and path.suffix == ".csv"]
print(f"added 2 files, described {len(crate.data_entities)}, in the crate {[path.name for path in kept]}:", end=" ")
print(kept[0].read_text().strip())
assert len(crate.data_entities) == len(kept) == 1
assert kept[0].read_text() == "leakage,0.1\n"
PYTHON
