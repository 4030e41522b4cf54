"""Words without which a regular expression cannot match: what lets long texts be judged fast.

The lexicon's patterns cost microseconds a character. Nearly all of them need a certain word ("years", "woman"), so a
sentence without any such word need not be looked at. The words are derived from the patterns: an edited lexicon has
its own, without anything to be kept in step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

EDGE = "\x00"  # a word's edge, as `\b` says it
MOST = 400  # ways of writing a piece of a pattern that are followed up
CACHED_WORDS = 1 << 18
WORD = re.compile(r"\w+")
_PART = re.compile(f"{EDGE}?\\w+{EDGE}?")
Words = frozenset[str]


def suspicion(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a test of single words: true for every word that a match of any of the patterns must have one of.

    A text none of whose words (``WORD``) passes it is matched by no pattern, nor is any text made by leaving out
    whole words of it. The patterns must be meant for lower-case text.
    """
    wanted = sorted(set().union(*(required_words(pattern) for pattern in patterns)))
    expression = re.compile("|".join(part.replace(EDGE, r"\b") for part in wanted) or r"(?!)", re.IGNORECASE)

    return lambda word: expression.search(word) is not None


def required_words(pattern: str) -> Words:
    """Return word pieces (with ``EDGE`` where a word must begin or end) of which every match has at least one.

    Where nothing can be said, the empty piece alone: it is in every word.
    """
    return _needs(list(_parser.parse(pattern, re.IGNORECASE)), "", "") or frozenset({""})


def _needs(items: Sequence[Any], left: str, right: str) -> Words | None:
    """Return the pieces of the run of the sequence that says most, or None where none says anything."""
    candidates: list[Words | None] = []
    run: set[str] = {left}
    for place, item in enumerate(items):
        ways = _ways(item)
        if ways is not None and len(ways) * len(run) <= MOST:
            run = {a + b for a, b in product(run, ways)}
            continue
        candidates.append(_pieces(run))
        before = (EDGE if _is_edge(items[place - 1]) else "") if place else left
        after = (EDGE if _is_edge(items[place + 1]) else "") if place + 1 < len(items) else right
        candidates.append(_alone(item, before, after))
        run = {""}
    candidates.append(_pieces({one + right for one in run}))
    known = [one for one in candidates if one]
    return max(known, key=lambda one: (min(len(part.strip(EDGE)) for part in one), -len(one)), default=None)


def _alone(item: Any, left: str, right: str) -> Words | None:
    """Return what an item needs that cannot be written out as a whole."""
    kind, value = item
    if kind is op.SUBPATTERN:
        return _needs(list(value[-1]), left, right)
    if kind is op.BRANCH:
        parts = [_needs(list(way), left, right) for way in value[1]]
        return None if None in parts else frozenset().union(*(part for part in parts if part))
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT) and value[0] > 0:
        return _needs(list(value[2]), left, "")
    return None


def _ways(item: Any) -> set[str] | None:
    """Return every way to write what an item matches, or None where there are too many."""
    kind, value = item
    if kind is op.LITERAL:
        return {chr(value).lower()}
    if kind is op.AT:
        return {EDGE if value is op.AT_BOUNDARY else ""}
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return {""}  # takes no letters; that it may forbid a match only makes the test too careful
    if kind is op.IN:
        return {chr(code).lower() for _, code in value} if all(one is op.LITERAL for one, _ in value) else None
    if kind is op.SUBPATTERN:
        return _ways_of_all(value[-1])
    if kind is op.BRANCH:
        parts = [_ways_of_all(way) for way in value[1]]
        return None if None in parts else set().union(*(part for part in parts if part))
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT) and value[1] == 1:
        ways = _ways_of_all(value[2])
        return None if ways is None else ways | ({""} if value[0] == 0 else set())
    return None


def _ways_of_all(items: Iterable[Any]) -> set[str] | None:
    run = {""}
    for item in items:
        ways = _ways(item)
        if ways is None or len(ways) * len(run) > MOST:
            return None
        run = {a + b for a, b in product(run, ways)}
    return run


def _is_edge(item: Any) -> bool:
    kind, value = item
    if kind is op.AT:
        return bool(value is op.AT_BOUNDARY)
    return kind is op.LITERAL and not WORD.match(chr(value))


def _pieces(run: Iterable[str]) -> Words | None:
    """Return the longest word piece of each way, or None where one has none."""
    found = set()
    for way in run:
        # Beside anything that is no letter, a word begins or ends.
        marked = re.sub(r"[^\w\x00]+", f"{EDGE} {EDGE}", way)
        parts = _PART.findall(re.sub(f"{EDGE}+", EDGE, marked))
        if not parts:
            return None
        found.add(max(parts, key=lambda part: len(part.strip(EDGE))))
    return frozenset(found)
