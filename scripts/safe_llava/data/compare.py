"""Compare a set of annotations with the one that it was made from: same ids, same images, which turns differ.

`python -m safe_llava.data.compare --original FILE… --safe FILE… --differences OUT.csv.gz --page OUT.html
--summary OUT.json`. The differences have a row a turn that differs (all of them), a sample that only one side has, and
an image that is another; the page shows a draw of them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import Any

from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import atomic_path, file_digest, write_json, write_text
from safe_llava.core.progress import track
from safe_llava.data.pages.compare import compare_page
from safe_llava.data.samples.pairing import TurnDifference, What, moved, pairs
from safe_llava.formats.annotations import Facts, Sample, Turn, read_all

logger = logging.getLogger(__name__)
SHOWN_DIFFERENCES = 30  # differences on the page
SEED = 20251120


@dataclass
class AnnotationComparison:
    """What was counted, and which sample (by number) was paired with which."""

    counts: Counter[str] = field(default_factory=Counter)
    places: list[tuple[int, int]] = field(default_factory=list)

    def add(self, one: Sample | None, other: Sample | None) -> list[TurnDifference]:
        """Count one pair and return its differences."""
        if one is None or other is None:
            sample = one or other
            assert sample is not None
            what: What = "sample added" if one is None else "sample dropped"
            self.counts[what.replace("sample", "samples")] += 1
            return [TurnDifference(sample.id, sample.number, None, "", what, *_sides(one, other))]
        self.counts["samples paired"] += 1
        self.places.append((one.number, other.number))
        if one.turns == other.turns and one.image == other.image:
            return []
        found = list(turn_differences(one, other))
        if one.image != other.image:
            found.insert(0, TurnDifference(one.id, other.number, None, "", "image", one.image or "", other.image or ""))
            self.counts["images that differ"] += 1
        self.counts["samples that differ"] += 1
        turns = [each for each in found if each.turn is not None]
        self.counts["samples with turns that differ"] += bool(turns)
        for each in turns:
            self.counts[f"{'questions' if each.speaker == 'human' else 'answers'} {each.what}"] += 1
        return found

    def summary(self) -> dict[str, Any]:
        """Return the counts, ready to be written."""
        names = ["samples paired", "samples added", "samples dropped", "samples that differ", "images that differ"]
        names += ["samples with turns that differ"]
        names += [f"{kind} {what}" for kind in ("questions", "answers") for what in ("changed", "added", "dropped")]
        out_of_order = moved([place for _, place in sorted(self.places)])
        return {name: self.counts[name] for name in names} | {"samples in another order": out_of_order}


def _sides(one: Sample | None, other: Sample | None) -> tuple[str, str]:
    said = ["" if sample is None else "\n".join(turn.text for turn in sample.turns) for sample in (one, other)]
    return said[0], said[1]


def turn_differences(one: Sample, other: Sample) -> Iterator[TurnDifference]:
    """Yield the turns that differ; where their numbers differ, the equal ones are found first."""
    if len(one.turns) == len(other.turns):
        blocks: Iterable[tuple[int, int, int, int]] = [(0, len(one.turns), 0, len(other.turns))]
    else:
        matcher = SequenceMatcher(None, one.turns, other.turns, autojunk=False)
        blocks = [code[1:] for code in matcher.get_opcodes() if code[0] != "equal"]
    for begin, end, safe_begin, safe_end in blocks:
        numbers = zip_longest(range(begin, end), range(safe_begin, safe_end))
        for place, safe_place in numbers:
            before = None if place is None else one.turns[place]
            after = None if safe_place is None else other.turns[safe_place]
            if before != after:
                number = (safe_place if place is None else place) + 1
                yield _turn_difference(one.id, other.number, number, before, after)


def _turn_difference(name: str, sample: int, number: int, before: Turn | None, after: Turn | None) -> TurnDifference:
    known = before or after
    assert known is not None
    what: What = "added" if before is None else "dropped" if after is None else "changed"
    texts = (before.text if before else "", after.text if after else "")
    return TurnDifference(name, sample, number, known.speaker, what, *texts)


class Draw:
    """A draw of so many of a stream of unknown length, each with the same chance; the same seed draws the same."""

    def __init__(self, size: int, seed: int) -> None:
        self.drawn: list[TurnDifference] = []
        self._size, self._rng, self._seen = size, random.Random(seed), 0

    def offer(self, one: TurnDifference) -> None:
        """Let one take part."""
        self._seen += 1
        if len(self.drawn) < self._size:
            self.drawn.append(one)
        elif (place := self._rng.randrange(self._seen)) < self._size:
            self.drawn[place] = one


@contextmanager
def writer(path: Path) -> Iterator[Any]:
    """Yield a CSV writer into a compressed file that is whole or absent; equal rows give equal bytes."""
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as stream,
    ):
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow([one.name for one in fields(TurnDifference)])
        yield rows


def compare_annotations(
    original: Sequence[Path], safe: Sequence[Path], out: Path
) -> tuple[dict[str, Any], list[TurnDifference]]:
    """Compare two sets, write their differences, and return the summary and a draw of differences.

    Raises:
        DataError: a file has a sample that is none, or no sample of one set has its id in the other.
    """
    facts, result, draw = (Facts(), Facts()), AnnotationComparison(), Draw(SHOWN_DIFFERENCES, SEED)
    sides = (read_all(original, facts[0]), read_all(safe, facts[1]))
    with writer(out) as rows:
        for one, other in track(pairs(*sides), f"compare {', '.join(path.name for path in safe)}", unit="samples"):
            for difference in result.add(one, other):
                rows.writerow(astuple(difference))
                draw.offer(difference)
        if not result.places:
            raise DataError(
                f"{', '.join(map(str, safe))}: no sample has an id of {', '.join(map(str, original))}",
                "name the set that it was made from in `data.audit.pairs`",
            )
    return {
        "comparison": result.summary(),
        "original": _described(original, facts[0]),
        "safe": _described(safe, facts[1]),
    }, draw.drawn


def _described(files: Sequence[Path], facts: Facts) -> dict[str, Any]:
    return {"files": {path.name: file_digest(path) for path in files}, **facts.as_json()}


def main(argv: Sequence[str] | None = None) -> None:
    """Compare two sets of annotations."""
    parser = argparse.ArgumentParser(description="Compare a set of annotations with the one that it was made from.")
    parser.add_argument("--original", type=Path, nargs="+", required=True, metavar="FILE.json")
    parser.add_argument("--safe", type=Path, nargs="+", required=True, metavar="FILE.json")
    parser.add_argument("--differences", type=Path, required=True, metavar="FILE.csv.gz", help="a row a difference")
    parser.add_argument("--page", type=Path, required=True, metavar="FILE.html", help="counts and a draw of them")
    parser.add_argument("--summary", type=Path, required=True, metavar="FILE.json", help="counts")
    args = parser.parse_args(argv)
    summary, drawn = compare_annotations(args.original, args.safe, args.differences)
    for name, count in summary["comparison"].items():
        logger.info("%s: %s", name, f"{count:,}")
    write_text(args.page, compare_page(summary, drawn))
    write_json(args.summary, summary)


if __name__ == "__main__":
    cli.run(main)
