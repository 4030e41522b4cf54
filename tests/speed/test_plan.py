"""What planning takes: the program that measures it, and its page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from safe_llava.speed.plan import main

ROOT = Path(__file__).parents[2]


def test_a_dry_run_of_more_models_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert main(["--clones", str(ROOT), "--models", "11", "--rounds", "1", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["models"] == 11 and row["cpu_s"] > 0


def test_the_shares_follow_from_the_seconds_beside_them() -> None:
    lines = (ROOT / "docs" / "benchmarks-plan.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    now: list[tuple[int, float]] = [(int(models), float(seconds)) for models, _, seconds, *_ in rows]
    assert [row[3] for row in rows] == [f"{float(row[2]) / float(row[1]):.2f}" for row in rows]
    added = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(now)]
    assert [row[4] for row in rows[1:]] == [f"{one:.3f}" for one in added]
