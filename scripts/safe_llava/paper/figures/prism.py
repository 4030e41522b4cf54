"""Figures of PRISM's scores: rates by attribute, computed against published, and their differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from safe_llava.core.errors import PaperError
from safe_llava.formats.markup import number
from safe_llava.formats.prism import Task
from safe_llava.formats.scores import AGGREGATES, CELLS, GIVEN, RateDifference, Score
from safe_llava.formats.tables import in_order, keyed, read_table, unique
from safe_llava.paper.figures.style import (
    BAND,
    COLUMN_INCHES,
    MUTED,
    TEXT_INCHES,
    colour,
    marker,
    percent_axis,
    positions,
)
from safe_llava.paper.tables.prism import both_sources, judges_of
from safe_llava.paper.tables.titles import RATE_TITLES, TASK_TITLES, attribute_title, judge_title

SPREAD = 0.66  # part of an attribute's height over which its series are spread
AGGREGATE_GAP = 0.35


def prism_figure(path: Path | str, order: Sequence[str] = ()) -> Figure:
    """Return dots with 95 % intervals: a row of panels a task, a column an edition and judge, a colour a model.

    ``order`` is that of the models' colours. Published rates have figures of their own: where anything was computed,
    they are left out here, and so is leakage over the descriptions that were given, which is in the table.
    """
    scores = read_table(path, Score)
    scores = [s for s in scores if s.source == "computed"] or scores
    scores = [s for s in scores if s.attribute not in GIVEN]
    cells = keyed(scores, lambda s: (s.edition, s.source, s.judge, s.task, s.model, s.attribute), path)
    tasks = in_order((s.task for s in scores), Task)
    columns = [
        (edition, *pair)
        for edition in unique(s.edition for s in scores)
        for pair in judges_of([s for s in scores if s.edition == edition])
    ]
    models = unique(s.model for s in scores)
    attributes = {t: in_order((s.attribute for s in scores if s.task == t), CELLS) for t in tasks}
    heights = [_positions(attributes[t])[-1] + 1.2 for t in tasks]
    row_inches = max(0.2, 0.1 + 0.035 * len(models))
    legend_columns = min(len(models), 2 if len(columns) == 1 else 4)
    # Beside the rows: a title for each panel, the heading, the ticks, the lines of the legend.
    around = 0.34 * len(tasks) + 0.55 + 0.16 * math.ceil(len(models) / legend_columns)
    width = 1.05 + (COLUMN_INCHES - 1.05) * _narrowing(len(columns))
    figure = Figure(figsize=(width, around + sum(heights) * row_inches), layout="constrained")
    panels = figure.subplots(len(tasks), len(columns), squeeze=False, sharex=True, sharey="row", height_ratios=heights)
    for row, task in enumerate(tasks):
        for column, key in enumerate(columns):
            axes = panels[row][column]
            series = [[cells.get((*key, task, m, a)) for a in attributes[task]] for m in models]
            _dots(axes, positions(models, order), models, series, attributes[task])
            title = f"{TASK_TITLES[task].capitalize()}, {RATE_TITLES[task]}" if column == 0 else " "
            axes.set_title(title)
            if row == 0:
                heading = f"PRISM {key[0]}, judge: {judge_title(key[2], key[1])}"
                axes.annotate(heading, (0, 1), (0, 20), "axes fraction", "offset points", weight="bold")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns)
    return figure


def _narrowing(columns: int) -> float:
    # One column of panels fits a column of the page, two or more share the text width.
    return 1.0 if columns == 1 else max((TEXT_INCHES - 1.05) / (COLUMN_INCHES - 1.05), 0.65 * columns)


def _positions(attributes: Sequence[str]) -> list[float]:
    return [i + (AGGREGATE_GAP if name in AGGREGATES else 0.0) for i, name in enumerate(attributes)]


def _dots(
    axes: Axes,
    shades: Mapping[str, int],
    labels: Sequence[str],
    series: Sequence[Sequence[Score | None]],
    attributes: Sequence[str],
) -> None:
    places = _positions(attributes)
    for position, (label, scores) in enumerate(zip(labels, series, strict=True)):
        shift = SPREAD * ((position + 0.5) / len(labels) - 0.5)
        known = [(s, y + shift) for s, y in zip(scores, places, strict=True) if s is not None]
        _points(axes, known, label, shades[label], size=4.0 if len(labels) <= 4 else 3.0)
    percent_axis(axes)
    axes.set_yticks(places, [attribute_title(a) for a in attributes])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    if any(name in AGGREGATES for name in attributes):
        first = next(i for i, name in enumerate(attributes) if name in AGGREGATES)
        axes.axhline(places[first] - 0.5 - AGGREGATE_GAP / 2, color=MUTED, linewidth=0.5, linestyle=(0, (2, 2)))


def _points(
    axes: Axes, known: Sequence[tuple[Score, float]], label: str, position: int, size: float, hollow: bool = False
) -> None:
    """Draw one series; "no rate" stands in the middle of the axis, not at zero, where there is none."""
    rated = [(s.rate, y) for s, y in known if s.rate is not None]
    spans = [(s.ci_low, s.ci_high, y) for s, y in known if s.ci_low is not None and s.ci_high is not None]
    shade = colour(position)
    for low, high, y in spans:
        axes.plot([low, high], [y, y], color=shade, linewidth=0.9)
    face = "white" if hollow else shade
    axes.plot(
        [rate for rate, _ in rated],
        [y for _, y in rated],
        linestyle="none",
        marker=marker(position),
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=shade,
        markeredgewidth=0.9,
        label=label,
        clip_on=False,
        in_layout=False,  # a series without a rate would have the layout make room for a mark at the page's corner
    )
    for y in (y for s, y in known if s.rate is None):
        axes.annotate("no rate", (50, y), color=shade, size=5.5, ha="center", va="center")


def released_figure(path: Path | str) -> Figure:
    """Return the rates of the released answers, judged here beside the published ones.

    Raises:
        PaperError: no model has both a computed and a published rate.
    """
    scores = both_sources(read_table(path, Score), path)
    cells = keyed(scores, lambda s: (s.task, s.source, s.judge, s.attribute, s.edition, s.model), path)
    tasks = in_order((s.task for s in scores), Task)
    judges = judges_of(scores)
    given = [{str(s.attribute) for s in scores if s.source == source} for source, _ in judges]
    attributes = in_order(set.intersection(*given), CELLS)  # v1 has no published macro average
    subjects = list(dict.fromkeys((s.edition, s.model) for s in scores))
    several = len({edition for edition, _ in subjects}) > 1
    names = [f"{model} ({edition})" if several else model for edition, model in subjects]
    block = len(names) + 1.4  # a header line above each attribute's models
    height = 0.8 + 0.125 * block * len(attributes)
    figure = Figure(figsize=(TEXT_INCHES, height), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for position, (source, judge) in enumerate(judges):
            places = [
                (cells.get((task, source, judge, attribute, *subject)), k * block + 1 + i)
                for k, attribute in enumerate(attributes)
                for i, subject in enumerate(subjects)
            ]
            known = [(s, y + 0.22 * (position - (len(judges) - 1) / 2)) for s, y in places if s is not None]
            _points(axes, known, judge_title(judge, source), position, size=3.2, hollow=source == "published")
        percent_axis(axes)
        axes.set_title(f"{TASK_TITLES[task].capitalize()}, {RATE_TITLES[task]}")
        axes.tick_params(axis="y", length=0, labelsize=6.5)
        for k in range(0, len(attributes), 2):
            axes.axhspan(k * block - 0.6, (k + 1) * block - 0.6, color=BAND, zorder=0, linewidth=0)
    _label_blocks(panels[0], [attribute_title(a) for a in attributes], names, block)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(judges))
    return figure


def _label_blocks(axes: Axes, headers: Sequence[str], names: Sequence[str], block: float) -> None:
    ticks, labels = [], []
    for k, header in enumerate(headers):
        ticks += [k * block + i for i in range(len(names) + 1)]
        labels += [header, *names]
    axes.set_yticks(ticks, labels)
    for text in axes.get_yticklabels()[:: len(names) + 1]:
        text.set(weight="bold", size=7.5)
    axes.set_ylim(len(headers) * block - 0.6, -0.6)


def differences_figure(path: Path | str) -> Figure:
    """Return a map of computed minus published rates: a column of panels a task, a row a pair of judges."""
    rows = read_table(path, RateDifference)
    cells = keyed(rows, lambda r: (r.edition, r.judge, r.reference_judge, r.task, r.model, r.attribute), path)
    known = [abs(r.difference) for r in rows if r.difference is not None]
    if not known:
        raise PaperError(f"{path}: every difference is empty", "score the answers first, then make the differences")
    limit = max(10.0, math.ceil(max(known) / 10) * 10.0)
    tasks = in_order((r.task for r in rows), Task)
    groups = list(dict.fromkeys((r.edition, r.judge, r.reference_judge) for r in rows))
    models = {g: unique(r.model for r in rows if (r.edition, r.judge, r.reference_judge) == g) for g in groups}
    attributes = {t: in_order((r.attribute for r in rows if r.task == t), CELLS) for t in tasks}
    heights = [len(models[g]) for g in groups]
    size = (TEXT_INCHES, 0.6 + 0.17 * sum(heights) + 0.75 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    widths = [len(attributes[t]) for t in tasks]
    panels = figure.subplots(len(groups), len(tasks), squeeze=False, height_ratios=heights, width_ratios=widths)
    for row, group in enumerate(groups):
        for column, task in enumerate(tasks):
            axes = panels[row][column]
            found = [[cells.get((*group, task, m, a)) for a in attributes[task]] for m in models[group]]
            values = [[math.nan if r is None or r.difference is None else r.difference for r in line] for line in found]
            _heat_map(axes, np.array(values), limit)
            axes.set_xticks(range(len(attributes[task])), [attribute_title(a) for a in attributes[task]])
            axes.set_yticks(range(len(models[group])), models[group] if column == 0 else [])
            edition, judge, reference = group
            heading = f"PRISM {edition}: {judge} − {reference} (published)" if column == 0 else " "
            axes.set_title(f"{heading}\n{TASK_TITLES[task].capitalize()}")
    bar = figure.colorbar(panels[0][0].images[0], ax=panels, orientation="horizontal", aspect=60, shrink=0.5, pad=0.04)
    bar.set_label("computed minus published, percentage points")
    return figure


def _heat_map(axes: Axes, values: np.ndarray, limit: float) -> None:
    norm = Normalize(-limit, limit)
    axes.imshow(values, cmap=mpl.colormaps["PuOr_r"], norm=norm, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        # Light letters on the dark ends of the map, dark ones in its middle.
        shade = "white" if abs(value) > 0.62 * limit else "black"
        text = number(None if math.isnan(value) else value, digits=0, signed=True)
        axes.text(x, y, text, ha="center", va="center", size=6, color=shade)
    axes.tick_params(length=0, labelsize=6.5)
    axes.tick_params(axis="x", rotation=40)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    axes.spines[:].set_visible(False)
