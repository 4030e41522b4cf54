"""What the pages of the data stage share: one HTML file each, without scripts or anything fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

PAGE_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
th, td { text-align: left; padding: 0.2em 1em 0.2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
summary { cursor: pointer } code { overflow-wrap: anywhere }
"""


def html_page(title: str, parts: Iterable[str], style: str = "") -> str:
    """Return a page; its title is also its heading."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{PAGE_STYLE}{style}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def html_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; whole numbers stand at the right, text is given as HTML."""
    lines = ["<tr>" + "".join(f"<th>{heading}</th>" for heading in headings) + "</tr>"]
    for row in rows:
        cells = (f'<td class="number">{one:,}</td>' if isinstance(one, int) else f"<td>{one}</td>" for one in row)
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"
