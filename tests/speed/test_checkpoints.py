"""The benchmark of checkpoints runs on two processes, and says how far each way is from plain files."""

from __future__ import annotations

import json
from pathlib import Path

from safe_llava.speed.checkpoints import PAIRS
from safe_llava.train import launch


def test_it_measures_each_way_beside_plain_files(tmp_path: Path) -> None:
    work = ["--folder", str(tmp_path / "disk"), "--out", str(tmp_path / "log"), "--gb", "0.002", "--repeats", "1"]
    assert launch.main(["--processes", "2", "--module", "safe_llava.speed.checkpoints", "--", *work]) == 0
    lines = {line["kind"]: line for line in map(json.loads, (tmp_path / "log").read_text().splitlines())}
    assert lines["conditions"]["processes"] == 2
    assert lines["seconds"].keys() == {"kind", *PAIRS, *PAIRS.values()}
    assert all(lines["times plain"][way] > 0 for way in PAIRS)
    assert not any((tmp_path / "disk").iterdir())
