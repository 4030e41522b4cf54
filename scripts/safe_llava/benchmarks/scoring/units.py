"""Scores as sums over independent units: their standard errors, and the differences of two models.

A unit is what was drawn independently: a question, or the two questions of an image of MME. Each holds a few numbers
(its parts), and a score is a function of their sums, for each stratum or over all of them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import atomic_path
from safe_llava.core.statistics import RESAMPLES, SEED, percentile_interval, resample_weights, wilson_interval

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
# mean: of the only part. sum_of_means: of each stratum, added up. ratio: second part over first. f1, precision, recall:
# of parts (hits, said, true), over all units; f1_of_strata: the mean of the strata's.
ScoreKind = Literal["mean", "sum_of_means", "ratio", "f1", "precision", "recall", "f1_of_strata"]
COLUMNS = ("metric", "kind", "scale", "unit", "stratum", "part_1", "part_2", "part_3")


@dataclass(frozen=True)
class Units:
    """What one score is made of.

    Attributes:
        kind: how the score follows from the sums.
        names: the units.
        strata: of each unit.
        parts: shape (units, parts).
        scale: what the score is multiplied with to be on the published scale.
        left_out: units of the benchmark that have no score, since a question of theirs failed.
    """

    kind: ScoreKind
    names: tuple[str, ...]
    strata: tuple[str, ...]
    parts: Array
    scale: float = 1.0
    left_out: tuple[str, ...] = ()

    @property
    def codes(self) -> list[int]:
        """The strata as numbers, in the order in which they first come; one for all where the kind has none."""
        if self.kind not in ("sum_of_means", "f1_of_strata"):
            return [0] * len(self.strata)
        order = {name: place for place, name in enumerate(dict.fromkeys(self.strata))}
        return [order[name] for name in self.strata]

    def score(self) -> float:
        """Return the score, on the published scale; NaN where nothing is counted."""
        return float(self.scores(np.ones((1, len(self.names))))[0])

    def scores(self, weights: Array) -> Array:
        """Return the score of every resample; ``weights`` says how often it holds each unit, (resamples, units)."""
        codes = np.asarray(self.codes)
        sums = np.stack([weights[:, codes == code] @ self.parts[codes == code] for code in range(codes.max() + 1)])
        counts = np.bincount(codes)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(_score(self.kind, sums, counts) * self.scale)

    def stderr(self, resamples: int = RESAMPLES, seed: int = SEED) -> float | None:
        """Return the standard error: of a mean by its formula, else by drawing units within their strata.

        None where a single unit says nothing about it.
        """
        if len(self.names) < 2:
            return None
        if self.kind == "mean":
            return float(self.parts[:, 0].std(ddof=1) / math.sqrt(len(self.names)) * self.scale)
        drawn = self._drawn(resamples, seed)
        known = drawn[~np.isnan(drawn)]
        return float(known.std(ddof=1)) if known.size > 1 else None

    def interval(self, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float] | None:
        """Return the 95 % interval: Wilson's where every unit is right or wrong, else of a bootstrap over the units.

        None where the units do not vary and so say nothing.
        """
        if self.kind == "mean" and set(np.unique(self.parts)) <= {0.0, 1.0}:
            low, high = wilson_interval(float(self.parts.sum()), len(self.names))
            return low * self.scale, high * self.scale
        return percentile_interval(self._drawn(resamples, seed))

    def _drawn(self, resamples: int, seed: int) -> Array:
        return np.concatenate([self.scores(weights) for weights in resample_weights(self.codes, resamples, seed)])


def _score(kind: ScoreKind, sums: Array, counts: np.ndarray) -> Array:
    """Return scores from sums of shape (strata, resamples, parts); where nothing is hit, F1 and its parts are 0."""
    over_all = sums.sum(axis=0)
    if kind == "mean":
        return np.asarray(over_all[:, 0] / counts.sum())
    if kind == "sum_of_means":
        return np.asarray((sums[:, :, 0] / counts[:, None]).sum(axis=0))
    if kind == "ratio":
        return np.asarray(over_all[:, 1] / over_all[:, 0])
    if kind == "f1_of_strata":
        return np.asarray(_f1(sums).mean(axis=0))
    if kind == "f1":
        return _f1(over_all)
    below = over_all[:, 1 if kind == "precision" else 2]
    return np.asarray(np.where(below > 0, over_all[:, 0] / below, 0.0))


def _f1(sums: Array) -> Array:
    below = sums[..., 1] + sums[..., 2]
    return np.asarray(np.where(below > 0, 2 * sums[..., 0] / below, 0.0))


def write_units(path: Path, found: dict[str, Units]) -> None:
    """Write the units of every metric as one tidy CSV file; one that was left out has no parts."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for metric, units in found.items():
            for name, stratum, parts in zip(units.names, units.strata, units.parts.tolist(), strict=True):
                padded = [*parts, "", ""][:3]
                writer.writerow([metric, units.kind, units.scale, name, stratum, *padded])
            writer.writerows([metric, units.kind, units.scale, name, "", "", "", ""] for name in units.left_out)


def read_units(path: Path) -> dict[str, Units]:
    """Read what ``write_units`` wrote.

    Raises:
        BenchmarkError: it is not such a file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            if tuple(next(reader, ())) != COLUMNS:
                raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
            rows = list(reader)
        metrics = dict.fromkeys(row[0] for row in rows)
        return {metric: _units([row for row in rows if row[0] == metric]) for metric in metrics}
    except (OSError, ValueError, IndexError) as error:
        raise BenchmarkError(f"{path}: not a file of units: {error}", "run the benchmark again") from error


def _units(rows: Sequence[Sequence[str]]) -> Units:
    (kind,) = (one for one in get_args(ScoreKind) if one == rows[0][1])
    listed = [(row[3], row[4], [float(part) for part in row[5:] if part]) for row in rows if row[5]]
    left_out = tuple(row[3] for row in rows if not row[5])
    return replace(as_units(kind, listed, float(rows[0][2])), left_out=left_out)


def as_units(kind: ScoreKind, rows: Iterable[tuple[str, str, Sequence[float]]], scale: float = 1.0) -> Units:
    """Return units from rows of name, stratum and parts."""
    listed = list(rows)
    names, strata = tuple(row[0] for row in listed), tuple(row[1] for row in listed)
    return Units(kind, names, strata, np.array([list(row[2]) for row in listed], dtype=np.float64), scale)
