"""The table of a run's steps, written as it goes and cut back when a run goes on from a checkpoint."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from importlib.util import find_spec
from pathlib import Path

from safe_llava.core.errors import TrainError
from safe_llava.formats.metrics import StepMetrics
from safe_llava.formats.tables import write_table

LOG = logging.getLogger(__name__)


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
        if (steps and item.step <= steps[-1].step) or (up_to is not None and item.step > up_to):
            break
        steps.append(item)
    return steps


@contextmanager
def _written(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainError(
            f"{file}: the step cannot be written: {error}", "free space and run the same command again: it goes on"
        ) from error


class Board:
    """Writes steps as TensorBoard's event files.

    Args:
        folder: of one training; each start adds a file, and TensorBoard drops what an interrupted one has beyond
            step ``first``.

    Raises:
        TrainError: the package is missing.
    """

    def __init__(self, folder: Path, first: int) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first + 1)

    def add(self, item: StepMetrics) -> None:
        """Append a step."""
        for name in COLUMNS[2:]:
            self._writer.add_scalar(f"train/{name}", getattr(item, name), item.step)

    def close(self) -> None:
        """Put everything on disk."""
        self._writer.close()


def check_tensorboard() -> None:
    """Refuse event files where the package that writes them is missing."""
    if find_spec("tensorboard") is None:
        raise TrainError("--tensorboard: the package tensorboard is not installed", "install it, or leave the flag out")


class MetricsLog:
    """Appends steps to a table on disk.

    Args:
        file: kept up to step ``first``, the rest is written anew.
        tensorboard: folder for the same as TensorBoard's event files.

    Raises:
        TrainError: the disk does not take a step.
    """

    def __init__(self, file: Path, first: int, tensorboard: Path | None = None) -> None:
        self.file, self.steps = file, read_metrics(file, first)
        if lost := first - len(self.steps):
            LOG.warning("%s: %d of %d steps are not in this table; the checkpoint has them", file, lost, first)
        self._board = Board(tensorboard, first) if tensorboard else None
        with _written(file):
            write_table(file, StepMetrics, self.steps)
            self._stream = file.open("a", encoding="utf-8")

    def add(self, item: StepMetrics) -> None:
        """Append a step; it outlives this process when this returns, and a lost machine after ``sync``."""
        self.steps.append(item)
        with _written(self.file):
            self._stream.write(_line(astuple(item)))
            self._stream.flush()
            if self._board:
                self._board.add(item)

    def sync(self) -> None:
        """Put every step on disk."""
        with _written(self.file):
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        if self._board:
            self._board.close()
