"""What the layout check found, as a page for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

FOLDERS_SHOWN = 50
IMAGES_SHOWN = 20
IDS_SHOWN = 5
KINDS = ("missing", "empty", "undecodable")
STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
th, td { text-align: left; padding: 0.2em 1em 0.2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
summary { cursor: pointer } code { overflow-wrap: anywhere }
"""


class Wrong(Protocol):
    """What the page says of an image."""

    @property
    def image(self) -> str: ...
    @property
    def expected_at(self) -> Path: ...
    @property
    def problem(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def detail(self) -> str: ...
    @property
    def sample_ids(self) -> tuple[str, ...]: ...


def layout_page(
    summary: Mapping[str, Any],
    problems: Sequence[Wrong],
    root: Path,
    table: Mapping[str, Any],
    silent: Mapping[str, int],
) -> str:
    """Return the page as HTML: totals, counts beside the published ones, and what is wrong, worst folders first.

    Args:
        summary: what ``layout.summarise`` returns.
        problems: the images that are wrong.
        root: folder of all data; paths below it are shown relative to it.
        table: published numbers, as ``layout.check_counts`` takes them.
        silent: how many samples of each file teach nothing.
    """
    wrong = summary["missing"] + summary["empty"] + summary["undecodable"]
    verdict = "Every image is there." if not wrong else f"{wrong:,} images are wrong."
    looked = {"all": "all were decoded", "sample": "a fixed draw of them was decoded", "none": "none was decoded"}
    parts = [
        f"<h1>Images of {escape(', '.join(summary['files']))}</h1>",
        f"<p><strong>{verdict}</strong> {summary['images']:,} different images are named; {looked[summary['decode']]}. "
        f"{summary['missing']:,} are missing, {summary['empty']:,} empty and {summary['undecodable']:,} undecodable, "
        f"which costs {summary['samples_lost']:,} samples.</p>",
        *_counts(summary, table),
        *(
            f"<p>{escape(name)}: {count:,} samples teach nothing: no answer in them has text.</p>"
            for name, count in silent.items()
            if count
        ),
        *_folders(problems, root),
    ]
    head = f'<meta charset="utf-8"><title>Images of {escape(", ".join(summary["files"]))}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n' + "\n".join(
        [*parts, "</body></html>\n"]
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; whole numbers stand at the right, text is given as HTML."""
    cells = []
    for row in rows:
        kinds = [' class="number"' if isinstance(cell, int) else "" for cell in row]
        shown = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        cells.append("<tr>" + "".join(f"<td{k}>{c}</td>" for k, c in zip(kinds, shown, strict=True)) + "</tr>")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return f"<table><tr>{head}</tr>\n" + "\n".join(cells) + "\n</table>"


def _counts(summary: Mapping[str, Any], table: Mapping[str, Any]) -> Iterable[str]:
    published = {Path(path).name: row["published"] for path, row in table.get("samples", {}).items()}
    rows: list[tuple[object, ...]] = [
        (escape(name), "samples", one["samples"], published.get(name, "unknown"))
        for name, one in summary["files"].items()
    ]
    rows += [(escape(to), "files", one["files"], one["published"]) for to, one in summary["archives"].items()]
    yield "<h2>Counts</h2>"
    yield _table(("what", "of", "here", "published"), rows)


def _folders(problems: Sequence[Wrong], root: Path) -> Iterable[str]:
    folders: dict[Path, list[Wrong]] = {}
    for one in problems:
        folders.setdefault(one.expected_at.parent, []).append(one)
    if not folders:
        return
    worst = sorted(folders.items(), key=lambda item: (-sum(one.samples for one in item[1]), -len(item[1]), item[0]))
    yield "<h2>What is wrong, by folder</h2>"
    rows = []
    for folder, wrong in worst[:FOLDERS_SHOWN]:
        kinds = Counter(one.problem for one in wrong)
        lost = sum(one.samples for one in wrong)
        rows.append((f"<code>{_shown(folder, root)}</code>", *(kinds[kind] for kind in KINDS), lost))
    yield _table(("folder", *KINDS, "samples lost"), rows)
    if len(worst) > FOLDERS_SHOWN:
        yield f"<p>{len(worst) - FOLDERS_SHOWN:,} more folders are in the CSV file.</p>"
    for folder, wrong in worst[:FOLDERS_SHOWN]:
        yield f"<details><summary><code>{_shown(folder, root)}</code>: {len(wrong):,} images</summary>"
        yield _table(("should be at", "problem", "samples", "their ids"), map(_image, wrong[:IMAGES_SHOWN]))
        more = len(wrong) - IMAGES_SHOWN
        yield (f"<p>{more:,} more are in the CSV file.</p>" if more > 0 else "") + "</details>"


def _image(one: Wrong) -> tuple[object, ...]:
    ids = ", ".join(one.sample_ids[:IDS_SHOWN]) + (", …" if len(one.sample_ids) > IDS_SHOWN else "")
    what = f"{one.problem}: {one.detail}" if one.detail else one.problem
    return f"<code>{escape(str(one.expected_at))}</code>", escape(what), one.samples, escape(ids)


def _shown(path: Path, root: Path) -> str:
    return escape(str(path.relative_to(root) if path.is_relative_to(root) else path))
