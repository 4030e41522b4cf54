"""Two models on the same questions of the general benchmarks: does cleaning the data cost anything?

Run: ``python -m safe_llava.benchmarks.compare --units MODEL/BENCHMARK=UNITS.csv … --pair FIRST SECOND
--metrics BENCHMARK=METRIC … [--limit N] --out FILE.csv``.

Where every unit is right or wrong: McNemar's exact test and Newcombe's interval. Where units have shares of a point:
random signs of their differences. Where the score is no mean: whole units change places between the models. Intervals
of the latter two are of a bootstrap that draws the same units for both models.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from safe_llava.benchmarks.scoring.units import Units, read_units
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.statistics import (
    RESAMPLES,
    SEED,
    newcombe_interval,
    percentile_interval,
    resample_weights,
    sign_flip_test,
)
from safe_llava.formats.benchmark_scores import BenchmarkPair
from safe_llava.formats.tables import write_table

logger = logging.getLogger(__name__)
WHOLE = 30_000  # shares of a point as whole numbers: VQA's are thirtieths
P_DIGITS = 3
MCNEMAR, SIGNS, SIGNS_DRAWN, PLACES = "McNemar, exact", "sign flips, exact", "sign flips, drawn", "exchange, drawn"
NEWCOMBE, BOOTSTRAP = "Newcombe", "bootstrap"
ModelTask = tuple[str, str]  # model and benchmark


def common_units(first: Units, second: Units, what: str) -> tuple[Units, Units]:
    """Return the units that both models have, in the order of the first's.

    Raises:
        BenchmarkError: a unit was asked of one model only, or there is none that both have.
    """
    common, alone = set(first.names) & set(second.names), set(first.names) ^ set(second.names)
    if first.kind != second.kind or not alone <= {*first.left_out, *second.left_out}:
        raise BenchmarkError(
            f"{what}: the two models were not asked the same questions ({len(first.names)} and {len(second.names)})",
            "run the benchmark again for both, with the same limit",
        )
    if not common:
        raise BenchmarkError(
            f"{what}: no question has an answer of both models", "run the benchmark again: it asks what failed"
        )
    names = [name for name in first.names if name in common]
    return _taken(first, names), _taken(second, names)


def _taken(units: Units, names: Sequence[str]) -> Units:
    places = {name: place for place, name in enumerate(units.names)}
    chosen = [places[name] for name in names]
    return replace(
        units, names=tuple(names), strata=tuple(units.strata[place] for place in chosen), parts=units.parts[chosen]
    )


def paired(first: Units, second: Units, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, object]:
    """Return what a pair of scores says: difference, interval, p-value, and how they were found.

    The units are the same, in the same order.
    """
    difference = first.score() - second.score()
    one, other = first.parts[:, 0], second.parts[:, 0]
    top = max(float(one.max()), float(other.max()), 0.0)
    if first.kind == "mean" and top and set(np.unique([one, other])) <= {0.0, top}:
        return {"difference": difference, **_right_or_wrong(one == top, other == top, top * first.scale)}
    drawn = np.concatenate(
        [first.scores(weights) - second.scores(weights) for weights in resample_weights(first.codes, resamples, seed)]
    )
    ends = percentile_interval(drawn)
    found = {"difference": difference, "ci": BOOTSTRAP if ends else "", "first_only": None, "second_only": None}
    low, high = ends or (None, None)
    if first.kind == "mean":
        steps = np.rint((one - other) * WHOLE).astype(np.int64)
        divisor = int(np.gcd.reduce(steps)) or 1
        p_value, exact = sign_flip_test(steps // divisor, resamples, seed)
        return {**found, "ci_low": low, "ci_high": high, "p_value": p_value, "test": SIGNS if exact else SIGNS_DRAWN}
    p_value = _exchanged(first, second, difference, resamples, seed)
    return {**found, "ci_low": low, "ci_high": high, "p_value": p_value, "test": PLACES}


def _right_or_wrong(one: np.ndarray, other: np.ndarray, points: float) -> dict[str, object]:
    only_first, only_second = int((one & ~other).sum()), int((~one & other).sum())
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    low, high = newcombe_interval(both, only_first, only_second, neither)
    p_value, _ = sign_flip_test(one.astype(np.int64) - other.astype(np.int64))
    return {
        "ci_low": low * points,
        "ci_high": high * points,
        "ci": NEWCOMBE,
        "first_only": only_first,
        "second_only": only_second,
        "p_value": p_value,
        "test": MCNEMAR,
    }


def _exchanged(first: Units, second: Units, difference: float, resamples: int, seed: int) -> float:
    """Return the two-sided p-value of a difference where units change places between the models at random.

    A change of places is a weight too: of the units of both models in one row, half have 1 and half 0.
    """
    generator = np.random.default_rng(seed)
    both = replace(
        first,
        names=(*first.names, *second.names),
        strata=(*first.strata, *second.strata),
        parts=np.concatenate([first.parts, second.parts]),
    )
    # A mean of a stratum divides by all of its units, of which half count.
    factor = 2.0 if first.kind == "sum_of_means" else 1.0
    beyond, left = 0, resamples
    block = max(1, 1_000_000 // len(both.names))
    while left:
        rows = min(block, left)
        kept = generator.integers(0, 2, (rows, len(first.names))).astype(np.float64)
        moved = both.scores(np.hstack([kept, 1 - kept])) - both.scores(np.hstack([1 - kept, kept]))
        beyond += int(np.sum(np.abs(np.nan_to_num(moved) * factor) >= abs(difference) - 1e-9))
        left -= rows
    return (beyond + 1) / (resamples + 1)


def paired_scores(
    found: Mapping[ModelTask, Mapping[str, Units]],
    pairs: Iterable[tuple[str, str]],
    metrics: Mapping[str, Sequence[str]],
    resamples: int = RESAMPLES,
    limit: int | None = None,
) -> Iterator[BenchmarkPair]:
    """Yield a row for every pair, benchmark and metric that both models have a score in.

    Args:
        found: the units, by model and benchmark, then by metric.
        pairs: first and second model.
        metrics: those of each benchmark, its own first.
        resamples: of the bootstrap, and of what is drawn for tests.
        limit: the questions of each benchmark that were asked; None: all.

    Raises:
        BenchmarkError: two models were not asked the same questions, or have answers to none of them in common.
    """
    for first, second in pairs:
        for benchmark, names in metrics.items():
            one, other = found.get((first, benchmark), {}), found.get((second, benchmark), {})
            for metric in names:
                if metric not in one or metric not in other:
                    logger.warning("%s %s: %s or %s has no score to compare", benchmark, metric, first, second)
                    continue
                yield _row(
                    (benchmark, metric, first, second), one[metric], other[metric], resamples=resamples, limit=limit
                )


def _row(
    of: tuple[str, str, str, str], first: Units, second: Units, *, resamples: int, limit: int | None
) -> BenchmarkPair:
    one, other = common_units(first, second, "{} {}, {} and {}".format(*of))
    benchmark, metric, first_model, second_model = of
    row = BenchmarkPair(
        benchmark=benchmark,
        metric=metric,
        first=first_model,
        second=second_model,
        n=len(one.names),
        n_unpaired=len(set(first.names) ^ set(second.names)),
        first_score=one.score(),
        second_score=other.score(),
        limit=limit,
        **paired(one, other, resamples),  # type: ignore[arg-type]
    )
    return _rounded(row)


def _rounded(row: BenchmarkPair) -> BenchmarkPair:
    points = {
        name: None if getattr(row, name) is None else round(getattr(row, name), 2)
        for name in ("first_score", "second_score", "difference", "ci_low", "ci_high")
    }
    return replace(row, **points, p_value=float(f"{row.p_value:.{P_DIGITS}g}"))  # type: ignore[arg-type]


def _named(words: Sequence[str], flag: str) -> list[tuple[str, str]]:
    found = [tuple(word.split("=", 1)) for word in words]
    if any(len(pair) != 2 for pair in found):
        raise BenchmarkError(f"{flag}: a word without `=`", f"give {flag} NAME=VALUE …")
    return [(pair[0], pair[1]) for pair in found]


def main(argv: Sequence[str] | None = None) -> None:
    """Read units, write the paired differences."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_llava.benchmarks.compare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--units", nargs="+", required=True, metavar="MODEL/BENCHMARK=FILE.csv")
    parser.add_argument("--pair", action="append", nargs=2, required=True, metavar=("FIRST", "SECOND"))
    parser.add_argument("--metrics", nargs="+", required=True, metavar="BENCHMARK=METRIC")
    parser.add_argument("--limit", type=int, help="the first so many questions were asked only")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap, and of drawn tests")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV")
    args = parser.parse_args(argv)
    found: dict[ModelTask, dict[str, Units]] = {}
    for name, path in _named(args.units, "--units"):
        model, _, benchmark = name.partition("/")
        found[model, benchmark] = read_units(Path(path))
    metrics: dict[str, list[str]] = {}
    for benchmark, metric in _named(args.metrics, "--metrics"):
        metrics.setdefault(benchmark, []).append(metric)
    rows = paired_scores(found, [(first, second) for first, second in args.pair], metrics, args.resamples, args.limit)
    logger.info("%s: %d paired differences", args.out, write_table(args.out, BenchmarkPair, rows))


if __name__ == "__main__":
    cli.run(main)
