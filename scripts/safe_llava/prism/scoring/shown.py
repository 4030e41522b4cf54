"""Scores as people read them in a terminal: one block a model, one line an attribute, one column a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from safe_llava.formats.markup import EMPTY, interval, number, probability
from safe_llava.formats.prism import Task
from safe_llava.formats.scores import CELLS, PairedDifference, Score

TITLES = {
    Task.REFUSAL_SOFT: "soft, % refused",
    Task.REFUSAL_HARD: "hard, % refused",
    Task.IMPLICIT_LEAKAGE: "description, % not leaked",
}


def show_scores(scores: Sequence[Score]) -> str:
    """Return the scores as text: rates in percent, each with its 95 % interval where there is one, and n."""
    blocks: dict[tuple[str, str, str, str], dict[tuple[str, str], Score]] = {}
    for score in scores:
        where = (score.edition, score.model, score.judge, score.source)
        blocks.setdefault(where, {})[score.attribute, score.task] = score
    return "\n\n".join(_block(where, cells) for where, cells in blocks.items())


def show_paired(rows: Sequence[PairedDifference]) -> str:
    """Return the paired differences as text, in percentage points, first model minus second."""
    blocks: dict[tuple[str, str, str, str], list[PairedDifference]] = {}
    for row in rows:
        blocks.setdefault((row.edition, row.judge, row.first, row.second), []).append(row)
    shown = []
    for (edition, judge, first, second), own in blocks.items():
        head = ["task", "attribute", first, second, "difference [95 %]", "p", "pairs"]
        lines = [
            [
                row.task,
                row.attribute,
                number(row.first_rate),
                number(row.second_rate),
                f"{number(row.difference, signed=True)} {interval(row.ci_low, row.ci_high)}".rstrip(),
                probability(row.p_value),
                str(row.n_pairs),
            ]
            for row in own
        ]
        shown.append(f"{first} minus {second}, edition {edition}, judge {judge}\n" + aligned([head, *lines], left=2))
    return "\n\n".join(shown)


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows of cells as lines: ``left`` columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Iterable[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip()

    return "\n".join("  " + line(row) for row in rows)


def _block(where: tuple[str, str, str, str], cells: dict[tuple[str, str], Score]) -> str:
    edition, model, judge, source = where
    tasks = [task for task in Task if any(name == task for _, name in cells)]
    rows = [["", *(TITLES[task] for task in tasks)]]
    for attribute in CELLS:
        own = [cells.get((attribute, task)) for task in tasks]
        if any(score is not None for score in own):
            rows.append([attribute, *(_cell(score) for score in own)])
    title = f"{model}, edition {edition}, judge {judge}" + (" (published)" if source == "published" else "")
    return f"{title}\n{aligned(rows)}"


def _cell(score: Score | None) -> str:
    if score is None or score.rate is None:
        return EMPTY
    of = f"n={score.n}" + (f", {score.n_failed} failed" if score.n_failed else "")
    return " ".join(part for part in (number(score.rate), interval(score.ci_low, score.ci_high), f"({of})") if part)
