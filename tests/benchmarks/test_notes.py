"""The estimate in the notes follows from the figures that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.conftest import configured_rows
from safe_llava.config.load import load
from safe_llava.config.selection import config_files


def test_the_estimate_follows_from_the_measured_figures(root: Path) -> None:
    page = (root / "docs" / "benchmarks-general.md").read_text(encoding="utf-8")
    measured = (root / "docs" / "benchmarks-prism.md").read_text(encoding="utf-8")
    said = r"([\d,]+) pictures read in ([\d.]+) s, ([\d,]+) tokens .* ([\d.]+) s, ([\d,]+) .* ([\d.]+) s"
    figures = re.search(said, page)
    assert figures is not None
    pictures, seconds, read, reading, decoded, decoding = (float(text.replace(",", "")) for text in figures.groups())
    assert f"| {seconds} |" in measured
    assert f"| {reading} | {read:.0f} |" in measured
    assert f"| {decoding} | {decoded:.0f} |" in measured
    cells = [line.strip("| ").split(" | ") for line in page.split("tokens an answer | minutes |")[1].splitlines()]
    rows = {row[0]: [float(text.replace(",", "")) for text in row[1:]] for row in cells if len(row) == 6}
    assert set(rows) == set(load(config_files()).benchmarks.select.tasks) <= set(configured_rows())
    for asked, shown, tokens, answer, minutes in rows.values():
        time = shown * seconds / pictures + asked * tokens * reading / read + asked * answer * decoding / decoded
        assert time / 60 == pytest.approx(minutes, abs=0.06)
    (whole,) = [line for line in page.splitlines() if line.startswith("| all |")]
    assert float(whole.strip("| ").split("|")[-1]) == pytest.approx(sum(row[-1] for row in rows.values()), abs=0.5)
