"""Figures of the general benchmarks: scores, and two models on the same questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe_llava.core.errors import PaperError
from safe_llava.formats.benchmark_scores import BenchmarkPair, BenchmarkScore, asked_in_part
from safe_llava.formats.markup import MINUS
from safe_llava.formats.tables import keyed, read_table, unique
from safe_llava.paper.figures.style import COLUMN_INCHES, MUTED, category_axis, colour, positions
from safe_llava.paper.tables.titles import metric_title

PERCENT_LIMIT = 100.0


def benchmarks_figure(path: Path | str, order: Sequence[str] = ()) -> Figure:
    """Return bars with standard errors, the published scores marked on them; scores beyond 100 in their own panel.

    ``order`` is that of the models' colours.

    Raises:
        PaperError: there is no score at all.
    """
    rows = read_table(path, BenchmarkScore)
    cells = keyed(rows, lambda r: (r.benchmark, r.metric, r.model), path)
    if not any(r.score is not None for r in rows):
        raise PaperError(f"{path}: every score is empty", "run the benchmarks first")
    models = unique(r.model for r in rows)
    names = list(dict.fromkeys((r.benchmark, r.metric) for r in rows))
    top = {name: max(_known(r for key, r in cells.items() if key[:2] == name), default=0.0) for name in names}
    percent = [name for name in names if top[name] <= PERCENT_LIMIT]
    beyond = [name for name in names if top[name] > PERCENT_LIMIT]
    blocks = [block for block in (percent, beyond) if block]
    heights = [len(block) for block in blocks]
    row_inches = 0.1 + 0.13 * len(models)
    size = (COLUMN_INCHES * 1.25, 0.75 + row_inches * sum(heights) + 0.35 * len(blocks))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    part = f", {said}" if (said := asked_in_part(rows)) else ""
    for axes, block in zip(panels, blocks, strict=True):
        _bars(axes, block, models, cells, positions(models, order))
        if block is percent:
            axes.set_xlim(0, 100)
        axes.set_xlabel(("score (%)" if block is percent else "score (points)") + part)
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [*models, *(label for label in shown if label not in models)]
    figure.legend([shown[label] for label in labels], labels, loc="outside upper center", ncols=min(len(labels), 3))
    return figure


def _known(rows: Iterable[BenchmarkScore]) -> list[float]:
    return [value for row in rows for value in (row.score, row.published) if value is not None]


def _bars(
    axes: Axes,
    names: Sequence[tuple[str, str]],
    models: Sequence[str],
    cells: Mapping[tuple[str, str, str], BenchmarkScore],
    places: Mapping[str, int],
) -> None:
    thickness = 0.8 / len(models)
    marks: list[tuple[float, float]] = []
    for position, model in enumerate(models):
        found = [(cells.get((*name, model)), i + thickness * (position + 0.5) - 0.4) for i, name in enumerate(names)]
        scored = [(r, r.score, y) for r, y in found if r is not None and r.score is not None]
        marks += [(r.published, y) for r, y in found if r is not None and r.published is not None]
        axes.barh(
            [y for *_, y in scored],
            [score for _, score, _ in scored],
            height=thickness * 0.92,
            color=colour(places[model]),
            xerr=[r.stderr or 0.0 for r, *_ in scored],
            error_kw={"linewidth": 0.8, "ecolor": "#222222"},
            label=model,
        )
        for y in (y for r, y in found if r is not None and r.score is None):
            axes.annotate("no score", (0, y), (2, 0), textcoords="offset points", color=MUTED, size=5.5, va="center")
    if marks:
        x, y = np.array(marks).T
        axes.vlines(x, y - thickness / 2, y + thickness / 2, "black", linewidth=1.6, label="published")
    category_axis(axes, [f"{benchmark} {metric_title(benchmark, metric)}" for benchmark, metric in names], margin=0.5)


def benchmark_pairs_figure(path: Path | str, order: Sequence[str] = ()) -> Figure:
    """Return differences with 95 % intervals, a mark a pair, in units of the second model's score.

    The scales of the benchmarks differ: a difference is drawn as a share of the score that it is a difference from.
    ``order`` is that of the models' colours.
    """
    rows = [row for row in read_table(path, BenchmarkPair) if row.second_score]
    names = list(dict.fromkeys((row.benchmark, row.metric) for row in rows))
    pairs = list(dict.fromkeys((row.first, row.second) for row in rows))
    shades = positions((first for first, _ in pairs), order)
    figure = Figure(figsize=(COLUMN_INCHES * 1.25, 0.9 + 0.22 * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    for place, (first, second) in enumerate(pairs):
        own = [
            (row, names.index((row.benchmark, row.metric)))
            for row in rows
            if (row.first, row.second) == (first, second)
        ]
        shift = 0.6 * ((place + 0.5) / len(pairs) - 0.5)
        for row, y in own:
            if row.ci_low is not None and row.ci_high is not None:
                ends = [100 * end / row.second_score for end in (row.ci_low, row.ci_high)]
                axes.plot(ends, [y + shift] * 2, color=colour(shades[first]), linewidth=0.9)
        axes.plot(
            [100 * row.difference / row.second_score for row, _ in own],
            [y + shift for _, y in own],
            linestyle="none",
            marker="o",
            markersize=3.5,
            color=colour(shades[first]),
            label=f"{first} {MINUS} {second}",
        )
    axes.axvline(0, color=MUTED, linewidth=0.8)
    category_axis(axes, [f"{benchmark} {metric_title(benchmark, metric)}" for benchmark, metric in names])
    part = asked_in_part(rows)
    axes.set_xlabel("difference (% of the second model's score)" + (f"\n{part}" if part else ""))
    if pairs:
        figure.legend(loc="outside upper center")
    return figure
