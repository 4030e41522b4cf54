"""The table of a run's steps, written as it goes and cut back when a run goes on from a checkpoint."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from safe_llava.core.files import write_text


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step.

    Attributes:
        step: counted from 1.
        epoch: passes over the annotations, this step included.
        loss: mean over the reference groups of their token means.
        learning_rate: of the first parameter group.
        grad_norm: before clipping.
        seconds: of training since the beginning, interruptions left out.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    samples_per_s: float
    tokens_per_s: float
    seconds: float


COLUMNS = tuple(field.name for field in fields(StepMetrics))


def _line(values: tuple[object, ...]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def read_metrics(file: Path, up_to: int | None = None) -> list[StepMetrics]:
    """Read the steps of a table in order, those behind ``up_to`` and a torn last line left out."""
    if not file.is_file():
        return []
    steps: list[StepMetrics] = []
    for row in csv.reader(file.read_text(encoding="utf-8").splitlines()[1:]):
        try:
            item = StepMetrics(int(row[0]), *(float(value) for value in row[1:]))
        except (ValueError, TypeError, IndexError):
            break
        if item.step != len(steps) + 1 or (up_to is not None and item.step > up_to):
            break
        steps.append(item)
    return steps


def write_metrics(file: Path, steps: list[StepMetrics]) -> None:
    """Write a whole table."""
    write_text(file, _line(COLUMNS) + "".join(_line(astuple(item)) for item in steps))


class MetricsLog:
    """Appends steps to a table on disk.

    Args:
        file: kept up to step ``first``, the rest is written anew.
    """

    def __init__(self, file: Path, first: int) -> None:
        self.steps = read_metrics(file, first)
        write_metrics(file, self.steps)
        self._stream = file.open("a", encoding="utf-8")

    def add(self, item: StepMetrics) -> None:
        """Append a step; it is on disk when this returns."""
        self.steps.append(item)
        self._stream.write(_line(astuple(item)))
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
