"""The page of benchmark notes says what its raw logs say, and the logs what is aimed at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.speed.data import decode_medians, layout_medians

NOTES = Path(__file__).parents[2] / "docs" / "benchmarks-data.md"


def log(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((NOTES.parent / "benchmarks" / f"data-{name}.json").read_text())
    return found


def table(first: str) -> list[list[str]]:
    """The cells of the table whose first heading is given."""
    lines = NOTES.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" *") for cell in line.strip("|").split("|")])
    return rows


def test_decoding_follows_from_its_log() -> None:
    found = log("decode")
    medians = decode_medians(found)
    assert medians == found["medians"]
    keys = ("workers", "storage", "images_per_s", "share", "images_per_cpu_s", "cpu_share")
    formats = ("{}", "{}", "{:.1f}", "{:.3f}", "{:.1f}", "{:.3f}")
    assert table("workers") == [[f.format(one[k]) for f, k in zip(formats, keys, strict=True)] for one in medians]


def test_stored_members_decode_as_fast_as_files() -> None:
    shares = {
        one["workers"]: (one["share"], one["cpu_share"])
        for one in log("decode")["medians"]
        if one["storage"] == "stored"
    }
    assert len(shares) == 3
    assert min(min(pair) for pair in shares.values()) >= 0.95


def test_the_layout_check_follows_from_its_log() -> None:
    found = log("layout")
    medians = layout_medians(found)
    assert medians == found["medians"]
    keys = ("cpu_seconds", "fastest_seconds", "seconds")
    expected = [
        [one["storage"], one["decode"], *(f"{one[key]:.1f}" for key in keys), f"{one['peak_gb']:.2f}"]
        for one in medians
    ]
    assert table("storage") == expected


def test_the_layout_check_stays_within_its_limits() -> None:
    found = log("layout")
    assert found["samples"] > 1_200_000 and found["images"] > 1_150_000 and found["cores"] == 2
    assert max(one["cpu_seconds"] for one in found["medians"]) <= 30
    assert max(line["peak_gb"] for line in [*found["rounds"], *found["indexing"]]) <= 2


def test_other_figures_of_the_page() -> None:
    text, decode, layout = NOTES.read_text(), log("decode"), log("layout")
    assert f"{decode['images']} JPEGs" in text and f"({decode['bytes'] / decode['images'] / 1000:.0f} kB" in text
    assert f"{layout['samples']:,} samples with {layout['images']:,} different images" in text
    indexed = {one["members"]: one for one in layout["indexing"]}
    assert f"{indexed[558_128]['cpu_seconds']:.1f} processor seconds and {indexed[558_128]['peak_gb']:.2f} GB" in text
    assert f"{indexed[72_140]['cpu_seconds']:.1f} s for 72,140" in text


@pytest.mark.parametrize("name", ["decode", "layout"])
def test_logs_say_when_and_on_what_they_were_made(name: str) -> None:
    found = log(name)
    assert found["what"] == name and found["date"] in NOTES.read_text()
    assert len({line["round"] for line in found["rounds"]}) == found["arguments"]["rounds"]
