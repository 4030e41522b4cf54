"""What the layout check found, as a page for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from safe_llava.data.pages.html import html_page, html_table
from safe_llava.data.samples.named import ImageProblem, Problem

FOLDERS_SHOWN = 50
IMAGES_SHOWN = 20
IDS_SHOWN = 5
KINDS: tuple[ImageProblem, ...] = ("missing", "empty", "undecodable")


def layout_page(
    summary: Mapping[str, Any],
    problems: Sequence[Problem],
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
    return html_page(f"Images of {', '.join(summary['files'])}", parts)


def _counts(summary: Mapping[str, Any], table: Mapping[str, Any]) -> Iterable[str]:
    published = {Path(path).name: row["published"] for path, row in table.get("samples", {}).items()}
    rows: list[tuple[object, ...]] = [
        (escape(name), "samples", one["samples"], published.get(name, "unknown"))
        for name, one in summary["files"].items()
    ]
    rows += [(escape(to), "files", one["files"], one["published"]) for to, one in summary["archives"].items()]
    yield "<h2>Counts</h2>"
    yield html_table(("what", "of", "here", "published"), rows)


def _folders(problems: Sequence[Problem], root: Path) -> Iterable[str]:
    folders: dict[Path, list[Problem]] = {}
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
    yield html_table(("folder", *KINDS, "samples lost"), rows)
    if len(worst) > FOLDERS_SHOWN:
        yield f"<p>{len(worst) - FOLDERS_SHOWN:,} more folders are in the CSV file.</p>"
    for folder, wrong in worst[:FOLDERS_SHOWN]:
        yield f"<details><summary><code>{_shown(folder, root)}</code>: {len(wrong):,} images</summary>"
        yield html_table(("should be at", "problem", "samples", "their ids"), map(_image, wrong[:IMAGES_SHOWN]))
        more = len(wrong) - IMAGES_SHOWN
        yield (f"<p>{more:,} more are in the CSV file.</p>" if more > 0 else "") + "</details>"


def _image(one: Problem) -> tuple[object, ...]:
    ids = ", ".join(one.sample_ids[:IDS_SHOWN]) + (", …" if len(one.sample_ids) > IDS_SHOWN else "")
    what = f"{one.problem}: {one.detail}" if one.detail else one.problem
    return f"<code>{escape(str(one.expected_at))}</code>", escape(what), one.samples, escape(ids)


def _shown(path: Path, root: Path) -> str:
    return escape(str(path.relative_to(root) if path.is_relative_to(root) else path))
