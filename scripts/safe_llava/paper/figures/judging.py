"""Figures of two models on the same questions, and of how far the judges agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe_llava.core.errors import PaperError
from safe_llava.formats.markup import MINUS, number
from safe_llava.formats.prism import Task
from safe_llava.formats.scores import CELLS, JudgeAgreement, PairedDifference
from safe_llava.formats.tables import in_order, keyed, read_table, unique
from safe_llava.paper.figures.style import COLUMN_INCHES, MUTED, TEXT_INCHES, category_axis, colour, dots, positions
from safe_llava.paper.tables.judging import over_all_models, what_agrees
from safe_llava.paper.tables.titles import TASK_TITLES, attribute_title

SPREAD = 0.66  # part of a row's height over which its series are spread
REACH = 108  # of the axis of differences, in points


def paired_figure(path: Path | str, order: Sequence[str] = ()) -> Figure:
    """Return differences with 95 % intervals: a row of panels a task, a column an edition, a mark a pair and judge.

    A pair has the colour of its first model (``order`` is that of the colours), a judge its marker.
    """
    rows = read_table(path, PairedDifference)
    cells = keyed(rows, lambda r: (r.edition, r.task, r.first, r.second, r.judge, r.attribute), path)
    tasks, editions = in_order((r.task for r in rows), Task), unique(r.edition for r in rows)
    series = list(dict.fromkeys((r.first, r.second, r.judge) for r in rows))
    judges = unique(r.judge for r in rows)
    shades = positions((r.first for r in rows), order)
    attributes = {t: in_order((r.attribute for r in rows if r.task == t), CELLS) for t in tasks}
    heights = [len(attributes[t]) + 0.4 for t in tasks]
    row_inches = max(0.2, 0.1 + 0.045 * len(series))
    width = COLUMN_INCHES if len(editions) == 1 else TEXT_INCHES
    around = 0.34 * len(tasks) + 0.85 + 0.16 * len(series)
    figure = Figure(figsize=(width, around + row_inches * sum(heights)), layout="constrained")
    panels = figure.subplots(len(tasks), len(editions), squeeze=False, sharex=True, sharey="row", height_ratios=heights)
    for row, task in enumerate(tasks):
        for column, edition in enumerate(editions):
            axes = panels[row][column]
            for place, (first, second, judge) in enumerate(series):
                shift = SPREAD * ((place + 0.5) / len(series) - 0.5)
                found = [cells.get((edition, task, first, second, judge, a)) for a in attributes[task]]
                label = f"{first} {MINUS} {second}, judge {judge}"
                _differences(axes, found, shift, label, shades[first], judges.index(judge))
            _difference_axis(axes, attributes[task])
            axes.set_title(f"PRISM {edition}: {TASK_TITLES[task]}")
    for axes in panels[-1]:
        axes.set_xlabel("difference (points)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if len(editions) == 1 else 2)
    return figure


def _differences(
    axes: Axes, rows: Sequence[PairedDifference | None], shift: float, label: str, shade: int, shape: int
) -> None:
    known = [(r, place + shift) for place, r in enumerate(rows) if r is not None]
    for r, y in known:
        if r.ci_low is not None and r.ci_high is not None:
            axes.plot([r.ci_low, r.ci_high], [y, y], color=colour(shade), linewidth=0.9)
        if r.difference is None:
            axes.annotate("no pairs", (0, y), color=colour(shade), size=5.5, ha="center", va="center")
    dots(axes, [(r.difference, y) for r, y in known if r.difference is not None], shade, shape, label)


def _difference_axis(axes: Axes, attributes: Sequence[str]) -> None:
    axes.set_xlim(-REACH, REACH)
    axes.set_xticks([-100, -50, 0, 50, 100])
    axes.axvline(0, color=MUTED, linewidth=0.8)
    category_axis(axes, [attribute_title(a) for a in attributes])


def judges_figure(path: Path | str) -> Figure:
    """Return Cohen's kappa of every two judges (and the labels given by hand), and distances from published rates.

    Raises:
        PaperError: there is neither a kappa nor a distance.
    """
    rows = read_table(path, JudgeAgreement)
    agreeing = over_all_models([r for r in rows if r.comparison != "published"])
    apart = [r for r in rows if r.comparison == "published" and r.mean_distance is not None]
    if not agreeing and not apart:
        raise PaperError(f"{path}: no agreement to draw", "make the file again with the step that writes it")
    names = unique(_subject(r) for r in agreeing)
    far = list(dict.fromkeys((r.edition, r.task) for r in apart))
    series = unique(f"{r.judge}, {r.reference}" for r in apart)
    heights = [h for h in (0.8 * len(names), (0.3 + 0.35 * len(series)) * len(far)) if h]
    legend = 0.16 * (len(unique(_series(r) for r in agreeing)) + len(series))
    figure = Figure(figsize=(COLUMN_INCHES * 1.3, 1.2 + legend + 0.2 * sum(heights)), layout="constrained")
    panels = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if names:
        _kappas(panels[0], agreeing, names)
    if far:
        _distances(panels[-1], apart, far, series)
    return figure


def _subject(row: JudgeAgreement) -> str:
    return f"{row.edition} {what_agrees(row)}"


def _series(row: JudgeAgreement) -> str:
    return f"{row.judge}, {row.reference}" + (" (released answers)" if row.comparison == "released" else "")


def _kappas(axes: Axes, rows: Sequence[JudgeAgreement], names: Sequence[str]) -> None:
    series = unique(_series(r) for r in rows)
    for position, label in enumerate(series):
        shift = SPREAD * ((position + 0.5) / len(series) - 0.5)
        known = [(r, names.index(_subject(r)) + shift) for r in rows if _series(r) == label]
        dots(axes, [(r.kappa, y) for r, y in known if r.kappa is not None], position, position, label)
        for r, y_ in known:
            if r.kappa is None:
                axes.annotate("nothing varies", (0.5, y_), color=colour(position), size=5.5, ha="center", va="center")
    low = min([0.0, *(r.kappa for r in rows if r.kappa is not None)])
    axes.set_xlim(low - 0.03, 1.03)
    category_axis(axes, names)
    axes.set_title("Cohen's kappa")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.06 - 0.3 / len(names)), ncols=1)


def _distances(
    axes: Axes, rows: Sequence[JudgeAgreement], subjects: Sequence[tuple[str, str]], series: Sequence[str]
) -> None:
    thickness = 0.8 / len(series)
    for position, label in enumerate(series):
        known = [
            (float(r.mean_distance or 0), subjects.index((r.edition, r.task)) + thickness * (position + 0.5) - 0.4)
            for r in rows
            if f"{r.judge}, {r.reference}" == label
        ]
        y = np.array([place for _, place in known])
        axes.barh(y, [distance for distance, _ in known], thickness * 0.9, color=colour(position), label=label)
        for distance, place in known:
            axes.annotate(
                number(distance, 2), (distance, place), (2, 0), textcoords="offset points", size=5.5, va="center"
            )
    category_axis(axes, [f"{edition} {TASK_TITLES[task]}" for edition, task in subjects], margin=0.5)
    axes.margins(x=0.12)
    axes.set_title("Distance from published (points)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.06 - 0.3 / len(subjects)), ncols=2)
