"""Figures of the general benchmarks and of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe_llava.core.errors import PaperError
from safe_llava.formats.tidy import BenchmarkScore, TrainingStep, asked_in_part, keyed, metric_title, read_tidy, unique
from safe_llava.paper.figures.style import COLUMN_INCHES, MUTED, TEXT_INCHES, colour, positions

STAGES = ("pretrain", "finetune")
PERCENT_LIMIT = 100.0
SMOOTHING = 40  # the running mean covers this part of a run


def benchmarks_figure(path: Path | str, order: Sequence[str] = ()) -> Figure:
    """Return bars with standard errors, the published scores marked on them; scores beyond 100 in their own panel.

    ``order`` is that of the models' colours.

    Raises:
        PaperError: there is no score at all.
    """
    rows = read_tidy(BenchmarkScore, path)
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
    axes.set_yticks(
        range(len(names)), [f"{benchmark} {metric_title(benchmark, metric)}" for benchmark, metric in names]
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")


def training_figure(paths: Sequence[Path], labels: Sequence[str], order: Sequence[str] = ()) -> Figure:
    """Return the loss of every run: a panel a stage, a colour a model, each step faint below its running mean.

    Args:
        paths: one metrics file a run.
        labels: MODEL/STAGE of each file.
        order: of the models' colours.

    Raises:
        PaperError: labels and files do not pair up, or a label names no stage.
    """
    runs = _runs(paths, labels)
    stages = unique([*(stage for stage in STAGES if any(s == stage for _, s in runs)), *(s for _, s in runs)])
    models = unique(model for model, _ in runs)
    width = TEXT_INCHES if len(stages) > 1 else COLUMN_INCHES
    figure = Figure(figsize=(width, 2.5), layout="constrained")
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    for axes, stage in zip(panels, stages, strict=True):
        for model in models:
            if (model, stage) in runs:
                _loss_curve(axes, runs[model, stage], model, positions(models, order)[model])
        axes.set_title(stage.capitalize())
        axes.set_xlabel("optimizer step")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(axis="y")
    panels[0].set_ylabel("loss (nats per token)")
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=min(len(shown), 4))
    return figure


def _runs(paths: Sequence[Path], labels: Sequence[str]) -> dict[tuple[str, str], list[TrainingStep]]:
    remedy = "give --labels one MODEL/STAGE for each file of --input, in the same order"
    if len(paths) != len(labels):
        raise PaperError(f"{len(paths)} metrics files and {len(labels)} labels", remedy)
    runs: dict[tuple[str, str], list[TrainingStep]] = {}
    for path, label in zip(paths, labels, strict=True):
        model, slash, stage = label.rpartition("/")
        if not (model and slash and stage):
            raise PaperError(f"label {label!r} is not MODEL/STAGE", remedy)
        if (model, stage) in runs:
            raise PaperError(f"label {label!r} comes twice", remedy)
        runs[model, stage] = sorted(read_tidy(TrainingStep, path), key=lambda row: row.step)
    return runs


def _loss_curve(axes: Axes, rows: Sequence[TrainingStep], model: str, position: int) -> None:
    steps = np.array([row.step for row in rows])
    loss = np.array([row.loss for row in rows])
    axes.plot(steps, loss, color=colour(position), linewidth=0.6, alpha=0.3)
    dashes = "-" if position % 2 == 0 else (0, (4, 1.2))
    axes.plot(steps, running_mean(loss), color=colour(position), linewidth=1.4, linestyle=dashes, label=model)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the centred mean over a fortieth of the run; at the ends, over what there is."""
    window = np.ones(2 * (len(values) // (2 * SMOOTHING)) + 1)
    total = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones(len(values)), window, mode="same")
