"""Which attributes of people a text mentions: by PRISM's rules, and by words that name them outright."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Literal, NamedTuple

from safe_llava.formats.prism import Attribute
from safe_llava.lexicon.attributes import ATTRIBUTE_PATTERNS
from safe_llava.lexicon.named_words import WORDS
from safe_llava.lexicon.prefilter import CACHED_WORDS, WORD, suspicion
from safe_llava.lexicon.rules import OPEN_QUESTION, clauses, normalise, states, with_eyes_named, without_open_question

Measure = Literal["implied", "named"]
MEASURES: tuple[Measure, ...] = ("implied", "named")
# Short answers are frequent ("Yes", "Two"); long ones hardly ever repeat.
CACHED_CHARACTERS = 80
CACHED_TEXTS = 1 << 17
NOTHING: frozenset[Attribute] = frozenset()
_OF_EYES = frozenset({Attribute.EYE_COLOR})

_EYE = re.compile(r"\b(?:eye|iris)")
_TESTS = {one: suspicion((*ATTRIBUTE_PATTERNS[one], *WORDS[one])) for one in Attribute}


class Mentions(NamedTuple):
    """The attributes of people that a text mentions.

    Args:
        implied: those that it mentions or implies, by PRISM's rules (``judge_leakage``).
        named: those of them whose value it says outright, by the word lists (``named_words``).
    """

    implied: frozenset[Attribute]
    named: frozenset[Attribute]


NONE = Mentions(NOTHING, NOTHING)


def find_mentions(text: str) -> Mentions:
    """Return what a text mentions: the same as the rules on the whole text say, in a fraction of the time."""
    return _cached(text) if len(text) <= CACHED_CHARACTERS else _find(text)


def named_span(sentence: str, attribute: Attribute) -> tuple[int, int] | None:
    """Return where a sentence names an attribute first, as its first character and the one behind its last."""
    found = _expression(attribute).search(sentence.lower())
    return found.span() if found else None


@lru_cache(CACHED_TEXTS)
def _cached(text: str) -> Mentions:
    return _find(text)


def _find(text: str) -> Mentions:
    parts = clauses(normalise(text))
    worth = [_worth(part) for part in parts]
    if not any(worth):
        return NONE
    implied = _implied(parts, worth)
    pairs = zip(parts, worth, strict=True)
    named = {one for part, hints in pairs for one in hints & implied if _expression(one).search(part)}
    return Mentions(implied, frozenset(named))


def _implied(parts: list[str], worth: list[frozenset[Attribute]]) -> frozenset[Attribute]:
    """Return what ``judge_leakage`` does, looking for an attribute only where one of its words is."""
    found: set[Attribute] = set()
    for place, part in enumerate(with_eyes_named(parts)):
        left = worth[place] - found
        if place and _EYE.search(parts[place - 1]):
            left |= _OF_EYES - found  # "They are green": their name was put for the pronoun
        if left:
            if OPEN_QUESTION.search(part):
                part = without_open_question(part)
            found.update(one for one in left if states(part, one))
    return frozenset(found)


def _worth(part: str) -> frozenset[Attribute]:
    return NOTHING.union(*map(_hints, WORD.findall(part)))


@lru_cache(CACHED_WORDS)
def _hints(word: str) -> frozenset[Attribute]:
    """Return the attributes of which a pattern may match a text that has this word."""
    return frozenset(one for one, test in _TESTS.items() if test(word))


@cache
def _expression(attribute: Attribute) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in WORDS[attribute]))
