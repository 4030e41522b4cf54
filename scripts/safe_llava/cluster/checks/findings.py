"""What a check found, as text for the terminal and as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from safe_llava.data.pages.html import html_page

CheckState = Literal["ok", "open", "red"]
TITLES: dict[CheckState, str] = {"ok": "ok", "open": "open", "red": "RED"}
PAGE_STYLE = """.state { font-weight: bold; white-space: nowrap } .remedy { display: block; white-space: pre-line }
.ok { color: #17703a } .open { color: #8a5a00 } .red { color: #b3121d }
"""


@dataclass(frozen=True)
class CheckResult:
    """One line of the page.

    Args:
        where: the login node, or the container image whose job found it.
        what: what was looked at.
        state: ok; open: the run itself does it, or nobody can know yet; red: the run would fail.
        said: what was found.
        remedy: what to do, where it is not ok.
    """

    where: str
    what: str
    state: CheckState
    said: str
    remedy: str = ""


def red(findings: Sequence[CheckResult]) -> int:
    """Return how many lines are red."""
    return sum(finding.state == "red" for finding in findings)


def summary_line(findings: Sequence[CheckResult]) -> str:
    """Return the page in a sentence."""
    counts = [f"{sum(one.state == state for one in findings)} {TITLES[state]}" for state in TITLES]
    start = "Not everything is there" if red(findings) else "Nothing stands in the way"
    return f"{start}: {', '.join(counts)}."


def as_text(findings: Sequence[CheckResult]) -> str:
    """Return the findings for a terminal, a line each, remedies below."""
    width = max((len(finding.where) for finding in findings), default=0)
    lines = []
    for one in findings:
        lines.append(f"{TITLES[one.state]:<5} {one.where:<{width}}  {one.what}: {one.said}")
        if one.remedy:
            lines.append(textwrap.indent(f"remedy: {one.remedy}", " " * (width + 8)))
    return "\n".join([*lines, summary_line(findings)]) + "\n"


def as_page(findings: Sequence[CheckResult], when: str) -> str:
    """Return the findings as HTML, place by place.

    Args:
        when: when they were found, in words.
    """
    parts = [f"<p><strong>{escape(summary_line(findings))}</strong></p>"]
    for where in dict.fromkeys(finding.where for finding in findings):
        rows = "\n".join(map(_row, (finding for finding in findings if finding.where == where)))
        parts.append(f"<h2>{escape(where)}</h2>\n<table>{rows}</table>")
    return html_page(f"Preflight of {when}", parts, PAGE_STYLE)


def _row(one: CheckResult) -> str:
    remedy = f'<span class="remedy">remedy: {escape(one.remedy)}</span>' if one.remedy else ""
    state = f'<td class="state {one.state}">{TITLES[one.state]}</td>'
    return f"<tr>{state}<td>{escape(one.what)}</td><td>{escape(one.said)}{remedy}</td></tr>"
