"""The figure of training: the loss of every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe_llava.config.selection import STAGES
from safe_llava.core.errors import PaperError
from safe_llava.formats.metrics import StepMetrics
from safe_llava.formats.tables import read_table, unique
from safe_llava.paper.figures.style import COLUMN_INCHES, TEXT_INCHES, colour, positions

SMOOTHING = 40  # the running mean covers this part of a run


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


def _runs(paths: Sequence[Path], labels: Sequence[str]) -> dict[tuple[str, str], list[StepMetrics]]:
    remedy = "give --labels one MODEL/STAGE for each file of --input, in the same order"
    if len(paths) != len(labels):
        raise PaperError(f"{len(paths)} metrics files and {len(labels)} labels", remedy)
    runs: dict[tuple[str, str], list[StepMetrics]] = {}
    for path, label in zip(paths, labels, strict=True):
        model, slash, stage = label.rpartition("/")
        if not (model and slash and stage):
            raise PaperError(f"label {label!r} is not MODEL/STAGE", remedy)
        if (model, stage) in runs:
            raise PaperError(f"label {label!r} comes twice", remedy)
        runs[model, stage] = sorted(read_table(path, StepMetrics), key=lambda row: row.step)
    return runs


def _loss_curve(axes: Axes, rows: Sequence[StepMetrics], model: str, position: int) -> None:
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
