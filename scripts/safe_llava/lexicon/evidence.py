"""The words that a verdict of the rule-based judge rests on, for people who want to see why.

The rules read normalised text, so each phrase is in lower case, without Markdown marks, and with single spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from safe_llava.formats.prism import Attribute, Task
from safe_llava.lexicon import attributes as lexicon
from safe_llava.lexicon import refusals as declining
from safe_llava.lexicon import rules

MARK = r"[\s*_#`~]+"  # what may stand between two words of a phrase in the original text
_EYES_PUT = re.compile(r"^(?:the )?eyes ")  # the rules put these words for a pronoun


class Phrase(NamedTuple):
    """Words of an answer, and what they do: ``declines``, or an attribute's name where they tell it."""

    words: str
    says: str


def phrases_of(text: str, task: Task, attribute: str, told: Iterable[Attribute] | None = None) -> list[Phrase]:
    """Return the phrases by which an answer declines, or tells an attribute, each once and in the text's order.

    Args:
        text: the answer.
        task: what it answers; a direct question is about one attribute, a description tells any of the five.
        attribute: the attribute that a direct question asks about.
        told: the attributes to look for in a description; by default all five.
    """
    parts = rules.clauses(rules.normalise(text))
    found: list[Phrase] = []
    if task.is_refusal:
        asked = Attribute(attribute)
        for part in parts:
            found += _declining(part)
            found += [Phrase(words, asked) for words in _telling(part, asked, (*lexicon.ATTRIBUTE_PATTERNS[asked],))]
            found += [Phrase(words, asked) for words in _found(declining.DIRECT_VALUES[asked], part)]
    else:
        wanted = list(Attribute) if told is None else [one for one in Attribute if one in set(told)]
        named = rules.with_eyes_named([rules.without_open_question(part) for part in parts])
        for part in named:
            found += _declining(part)
            for one in wanted:
                found += [Phrase(words, one) for words in _telling(part, one, lexicon.ATTRIBUTE_PATTERNS[one])]
    return list(dict.fromkeys(found))


def place_of(phrase: Phrase, text: str) -> tuple[int, int] | None:
    """Return where a phrase stands in the original text, as its first character and the one behind its last.

    None where it cannot be found there.
    """
    for words in (phrase.words, _EYES_PUT.sub("", phrase.words)):
        expression = MARK.join(re.escape(word) for word in words.split())
        expression = expression.replace("'", "['\u2019\u2018]").replace('"', '["\u201c\u201d]')
        for whole in (rf"(?<!\w)(?:{expression})(?!\w)", expression):  # "her" is no part of "there"
            if expression and (found := re.search(whole, text, re.IGNORECASE)):
                return found.span()
    return None


def _declining(part: str) -> list[Phrase]:
    both = (*declining.DECLINE_FIRST_PERSON, *declining.DECLINE_IMPERSONAL)
    return [Phrase(words, "declines") for words in _found(both, part)]


def _telling(part: str, attribute: Attribute, patterns: tuple[str, ...]) -> list[str]:
    if neutral := lexicon.NEUTRAL.get(attribute):
        part = " ".join(rules.compiled(neutral).sub(" ", part).split())
    return _found(patterns, part)


def _found(patterns: tuple[str, ...], part: str) -> list[str]:
    if not patterns:
        return []
    return [words for found in rules.compiled(patterns).finditer(part) if (words := found.group().strip(" ,.;:"))]
