"""What planning takes: the program that measures it, and its page."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

from safe_llava.speed.plan import main

ROOT = Path(__file__).parents[2]


def test_a_dry_run_of_more_models_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert main(["--clones", str(ROOT), "--models", "11", "--rounds", "1", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["models"] == 11 and row["cpu_s"] > 0


def test_the_page_follows_from_its_log() -> None:
    taken: dict[tuple[int, str], list[float]] = {}
    for line in (ROOT / "docs/benchmarks/plan-2cpu.jsonl").read_text().splitlines():
        row = json.loads(line)
        taken.setdefault((row["models"], "old" if row["clone"] == "2e84161" else "now"), []).append(row["cpu_s"])
    lines = (ROOT / "docs" / "benchmarks-plan.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    counts = [int(row[0]) for row in rows]
    old, now = ([statistics.median(taken[count, which]) for count in counts] for which in ("old", "now"))
    assert [row[1:3] for row in rows] == [[f"{a:.2f}", f"{b:.2f}"] for a, b in zip(old, now, strict=True)]
    assert [row[3] for row in rows] == [f"{b / a:.2f}" for a, b in zip(old, now, strict=True)]
    added = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(zip(counts, now, strict=True))]
    assert [row[4] for row in rows[1:]] == [f"{one:.3f}" for one in added]


def test_the_demos_figures_follow_from_their_log() -> None:
    rows = [json.loads(line) for line in (ROOT / "docs/benchmarks/demo-2cpu-busy.jsonl").read_text().splitlines()]
    old, now = (row["user_s"] + row["sys_s"] for row in rows[:2])
    page = " ".join((ROOT / "docs/benchmarks-plan.md").read_text().split())
    assert f"{old:.0f} s at {rows[0]['clone']} and {now:.0f} s at {rows[1]['clone']}" in page
    for row in rows[4:]:
        assert f"{row['user_s'] + row['sys_s']:.0f} s with {row['python']}" in page
    old, now = (row["step_ms_second_epoch"] for row in rows[2:4])
    assert f"{old:.0f} ms at {rows[2]['clone']} and {now:.0f} ms at {rows[3]['clone']}" in page
