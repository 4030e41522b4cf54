"""What the comparison of two sets of annotations found, as a page for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any

from safe_llava.data.pages.html import html_page, html_table
from safe_llava.data.samples.pairing import TurnDifference

LONGEST = 1200  # characters of a text that are shown
MARK_STYLE = (
    "del { background: #fbdcd4 } ins { background: #d8efe2; text-decoration: none } td { white-space: pre-wrap }"
)
_WORDS = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


def compare_page(summary: Mapping[str, Any], drawn: Sequence[TurnDifference]) -> str:
    """Return the page as HTML: what differs, what is unusual on either side, and a draw of differences.

    Args:
        summary: what ``compare.compare`` returns.
        drawn: the differences to show.
    """
    title = f"{', '.join(summary['safe']['files'])} beside {', '.join(summary['original']['files'])}"
    parts = [
        "<h2>What differs</h2>",
        html_table(("", "count"), summary["comparison"].items()),
        "<h2>What they hold</h2>",
        html_table(("", "original", "safe"), _facts(summary)),
        f"<h2>{len(drawn)} differences, drawn at random</h2>" if drawn else "<p>Nothing differs.</p>",
    ]
    if drawn:
        parts.append(html_table(("sample", "turn", "original", "safe"), map(_shown, drawn)))
    return html_page(title, parts, MARK_STYLE)


def _facts(summary: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    sides = [summary[side] for side in ("original", "safe")]
    for name in dict.fromkeys(name for side in sides for name in side["counts"]):
        yield name, *(side["counts"].get(name, 0) for side in sides)
    for key in sorted({key for side in sides for key in side["unknown_keys"]}):
        yield escape(f"samples with a key {key}"), *(side["unknown_keys"].get(key, 0) for side in sides)


def _shown(one: TurnDifference) -> tuple[object, ...]:
    place = f"{one.turn}, {one.speaker}: {one.what}" if one.turn else one.what
    return escape(one.id), escape(place), *mark_changes(_cut(one.original), _cut(one.safe))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def mark_changes(original: str, safe: str) -> tuple[str, str]:
    """Return both texts as HTML, the words that only one of them has marked."""
    before, after = _WORDS.findall(original), _WORDS.findall(safe)
    left, right = [], []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, come = escape("".join(before[a:b])), escape("".join(after[c:d]))
        left.append(gone if kind == "equal" or not gone else f"<del>{gone}</del>")
        right.append(come if kind == "equal" or not come else f"<ins>{come}</ins>")
    return "".join(left), "".join(right)
