"""Annotations beside those that they were made from: whatever the order, every difference once, and no other."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.errors import DataError
from safe_llava.data import compare as step
from safe_llava.data.pages.compare import mark_changes
from safe_llava.data.samples.pairing import moved, pairs
from safe_llava.formats.annotations import Sample, Turn


def row(name: str, *turns: str, image: str | None = "a.jpg") -> dict[str, Any]:
    said = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(turns)]
    return {"id": name, **({"image": image} if image else {}), "conversations": said}


ORIGINAL = [
    row("1", "Who?", "An old man.", "Where?", "Outside."),
    row("2", "What?", "A cup."),
    row("3", "Who?", "A girl.", "Her age?", "Nine.", "Where?", "At home."),
    row("4", "What?", "A car.", image="b.jpg"),
    row("5", "Hm?", "Gone."),
    row("6", "How old?", "Forty."),
]
SAFE = [
    row("1", "Who?", "A person.", "Where?", "Outside."),
    row("2", "What?", "A cup."),
    row("3", "Who?", "A person.", "Where?", "At home."),
    row("4", "What?", "A car.", image="c.jpg"),
    row("6", "What can you say?", "Nothing."),
    row("7", "New?", "Yes."),
]
FOUND = {
    ("1", "2", "gpt", "changed", "An old man.", "A person."),
    ("3", "2", "gpt", "changed", "A girl.", "A person."),
    ("3", "3", "human", "dropped", "Her age?", ""),
    ("3", "4", "gpt", "dropped", "Nine.", ""),
    ("4", "", "", "image", "b.jpg", "c.jpg"),
    ("5", "", "", "sample dropped", "Hm?\nGone.", ""),
    ("6", "1", "human", "changed", "How old?", "What can you say?"),
    ("6", "2", "gpt", "changed", "Forty.", "Nothing."),
    ("7", "", "", "sample added", "", "New?\nYes."),
}


def run(folder: Path, original: list[Any], safe: list[Any], name: str = "out") -> tuple[dict[str, Any], list[Any]]:
    for which, rows in (("original", original), ("safe", safe)):
        (folder / f"{which}.json").write_text(json.dumps(rows))
    step.main(
        [
            *("--original", str(folder / "original.json"), "--safe", str(folder / "safe.json")),
            *("--differences", str(folder / f"{name}.csv.gz"), "--page", str(folder / f"{name}.html")),
            *("--summary", str(folder / f"{name}.json")),
        ]
    )
    with gzip.open(folder / f"{name}.csv.gz", "rt", newline="") as stream:
        return json.loads((folder / f"{name}.json").read_text()), list(csv.DictReader(stream))


def listed(rows: list[dict[str, str]]) -> list[tuple[str, ...]]:
    return [tuple(r[key] for key in ("id", "turn", "speaker", "what", "original", "safe")) for r in rows]


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_every_difference_is_found_in_any_order(seed: int | None, tmp_path: Path) -> None:
    safe = list(SAFE)
    if seed is not None:
        random.Random(seed).shuffle(safe)
    summary, rows = run(tmp_path, ORIGINAL, safe)
    found = listed(rows)
    assert set(found) == FOUND
    assert len(found) == len(FOUND)
    counts = summary["comparison"]
    assert counts.pop("samples in another order") == (0 if seed is None else counts_moved(safe))
    assert counts == {
        "samples paired": 5,
        "samples added": 1,
        "samples dropped": 1,
        "samples that differ": 4,
        "images that differ": 1,
        "samples with turns that differ": 3,
        "questions changed": 1,
        "questions added": 0,
        "questions dropped": 1,
        "answers changed": 3,
        "answers added": 0,
        "answers dropped": 1,
    }


def counts_moved(safe: list[dict[str, Any]]) -> int:
    """How many of the paired samples stand elsewhere, by trying every subset of them that could have stayed."""
    places = [int(one["id"]) for one in safe if one["id"] != "7"]
    subsets = [[p for bit, p in enumerate(places) if kept >> bit & 1] for kept in range(1 << len(places))]
    return len(places) - max(len(subset) for subset in subsets if subset == sorted(subset))


@pytest.mark.parametrize(("places", "count"), [([], 0), ([3, 5, 9], 0), ([2, 3, 1], 1), ([4, 3, 2, 1], 3)])
def test_moved(places: list[int], count: int) -> None:
    assert moved(places) == count


def sample(number: int, *turns: str, image: str = "a.jpg") -> Sample:
    return Sample(number, "x", image, tuple(Turn(("human", "gpt")[n % 2], text) for n, text in enumerate(turns)))


def test_samples_that_share_an_id_are_paired_by_what_they_share() -> None:
    original = [sample(1, "q", "a"), sample(2, "q", "b", image="b.jpg"), sample(3, "r", "c"), sample(4, "s", "d")]
    safe = [sample(1, "new", "D"), sample(2, "r", "C"), sample(3, "q", "B", image="b.jpg"), sample(4, "q", "A")]
    found = {
        (one.turns[1].text, other.turns[1].text) for one, other in pairs(original, safe) if one is not None and other
    }
    assert found == {("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")}


def test_equal_inputs_give_equal_bytes_and_the_page_shows_the_words(tmp_path: Path) -> None:
    run(tmp_path, ORIGINAL, SAFE, "one")
    run(tmp_path, ORIGINAL, SAFE, "two")
    for suffix in ("csv.gz", "html", "json"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    page = (tmp_path / "one.html").read_text()
    assert "<del>An old man</del>." in page
    assert "<ins>A person</ins>." in page
    assert "9 differences" in page


def test_a_page_holds_text_and_no_markup_of_the_annotations() -> None:
    assert mark_changes("<b>old</b>", "<b>new</b>") == (
        "&lt;b&gt;<del>old</del>&lt;/b&gt;",
        "&lt;b&gt;<ins>new</ins>&lt;/b&gt;",
    )


def test_equal_files_have_no_difference(tmp_path: Path) -> None:
    summary, rows = run(tmp_path, ORIGINAL, ORIGINAL)
    assert rows == []
    assert summary["comparison"]["samples paired"] == len(ORIGINAL)
    assert summary["comparison"]["samples that differ"] == 0


def test_sets_without_a_common_id_are_no_pair(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sample has an id of") as caught:
        run(tmp_path, ORIGINAL[:2], SAFE[-1:])
    assert "data.audit.pairs" in caught.value.remedy
    assert not list(tmp_path.glob("out*"))


def test_a_bad_sample_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"safe\.json: sample 2 \(id '9'\)"):
        run(tmp_path, ORIGINAL, [SAFE[0], {"id": "9"}])
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".*.part"))
