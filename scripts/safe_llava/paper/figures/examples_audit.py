"""Which sentences the audit's figure shows: what an answer named of a person before, and what it says now."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import blake2b
from pathlib import Path

from safe_llava.core.errors import PaperError
from safe_llava.formats.prism import Attribute
from safe_llava.lexicon.mentions import find_mentions, named_span

LONGEST = 170  # characters of a sentence that is shown
LONGEST_FIELD = 1 << 28  # a conversation may be longer than what the csv module allows by itself
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
TableRow = dict[str, str]


@dataclass(frozen=True)
class Change:
    """A sentence that named an attribute, where it did so, and the sentence that stands for it now."""

    attribute: Attribute
    before: str
    span: tuple[int, int]
    after: str


def choose_changes(files: Sequence[Path], count: int, seed: int) -> list[Change]:
    """Return up to ``count`` changes of each attribute, drawn by ``seed`` from all answers that were changed.

    Only answers that no longer name the attribute take part, and sentences that are short and plain enough to be read.

    Args:
        files: differences (``data.compare``), compressed.

    Raises:
        PaperError: a file cannot be read.
    """
    best: dict[Attribute, list[tuple[bytes, Change]]] = {attribute: [] for attribute in Attribute}
    for place, path in enumerate(files):
        for number, row in enumerate(_changed_answers(path)):
            for attribute, drawn in best.items():
                lot = blake2b(f"{seed} {place} {number} {attribute}".encode(), digest_size=8).digest()
                if len(drawn) == count and lot >= drawn[-1][0]:
                    continue
                if change := _change(row, attribute):
                    drawn.append((lot, change))
                    drawn.sort(key=lambda one: one[0])
                    del drawn[count:]
    return [change for drawn in best.values() for _, change in drawn]


def _changed_answers(path: Path) -> Iterator[TableRow]:
    remedy = "compare the annotations again"
    csv.field_size_limit(LONGEST_FIELD)
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            if missing := {"speaker", "what", "original", "safe"} - set(reader.fieldnames or []):
                raise PaperError(f"{path}: no column {', '.join(sorted(missing))}", remedy)
            yield from (row for row in reader if (row["speaker"], row["what"]) == ("gpt", "changed"))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise PaperError(f"{path}: no differences can be read: {error}", remedy) from error


def _change(row: TableRow, attribute: Attribute) -> Change | None:
    before, after = row["original"], row["safe"]
    # The words alone are looked for first: that is fast, and seldom finds anything.
    if not named_span(before, attribute) or named_span(after, attribute):
        return None
    for sentence in _SENTENCE_END.split(before):
        span = named_span(sentence, attribute)
        if span and _is_readable(sentence) and attribute in find_mentions(sentence).named:
            rest = [one for one in _SENTENCE_END.split(after) if one.strip()]
            nearest = max(rest, key=lambda one: SequenceMatcher(None, sentence, one).ratio(), default="")
            return Change(attribute, sentence, span, nearest) if not nearest or _is_readable(nearest) else None
    return None


def _is_readable(sentence: str) -> bool:
    return sentence.isascii() and sentence.isprintable() and len(sentence) <= LONGEST
