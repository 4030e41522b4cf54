"""The statistics that scores carry: intervals, tests of paired differences, agreement of two annotators.

Trials of one cluster (an image that is asked several times) are not independent: intervals and tests draw whole
clusters, or exchange whole clusters between two models. A cluster of one trial is the plain case.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

SEED, RESAMPLES = 20261120, 4000
CHUNK_DRAWS = 2_000_000  # draws held in memory at once
EXACT_STEPS = 200_000  # beyond this range of sums the sign-flip test draws signs
_STEEPEST = 10_000_000  # of weights as whole numbers over one denominator


def wilson_interval(successes: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, as two fractions of 1.

    Counts need not be whole: an effective number of trials may be given.
    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"{successes} successes of {total} trials have no interval")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # Rounding alone can push the ends past the proportion where it is 0 or 1.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == total else centre + half)


def newcombe_interval(
    both: float, first: float, second: float, neither: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the difference of two paired proportions (first minus second), as fractions of 1.

    Args:
        both, first, second, neither: pairs with a success in both, in the first alone, in the second alone, in none.
        confidence: nominal coverage.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10 (hybrid score, corrected phi).

    Raises:
        ValueError: there are no pairs.
    """
    total = both + first + second + neither
    one, other = (both + first) / total if total else 0.0, (both + second) / total if total else 0.0
    low_one, high_one = wilson_interval(both + first, total, confidence)
    low_other, high_other = wilson_interval(both + second, total, confidence)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    excess = both * neither - first * second
    if excess > 0:
        excess = max(excess - total / 2, 0.0)
    phi = excess / math.sqrt(margins) if margins > 0 else 0.0

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(down * down - 2 * phi * down * up + up * up, 0.0))

    difference = one - other
    lower = reach(one - low_one, high_other - other)
    upper = reach(high_one - one, other - low_other)
    return max(difference - lower, -1.0), min(difference + upper, 1.0)


def resample_weights(
    strata: Sequence[int], resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Yield how often each cluster was drawn, in blocks of shape (resamples of the block, clusters).

    Clusters are drawn with replacement within their stratum, which keeps its size; equal arguments give equal draws.
    """
    groups = [np.flatnonzero(np.asarray(strata) == name) for name in sorted(set(strata))]
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, CHUNK_DRAWS // max(1, len(strata))))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        weights = np.zeros((rows, len(strata)))
        for members in groups:
            drawn = generator.integers(0, len(members), (rows, len(members)))
            drawn += np.arange(rows)[:, None] * len(members)
            counted = np.bincount(drawn.ravel(), minlength=rows * len(members))
            weights[:, members] = counted.reshape(rows, len(members))
        yield weights


def resampled_sums(
    values: np.ndarray, strata: Sequence[int], resamples: int = RESAMPLES, seed: int = SEED
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the column sums of every resample of the clusters, shape (resamples, columns).

    Args:
        values: what each cluster holds, shape (clusters, columns).
        strata: the stratum of each cluster.
        resamples: how many.
        seed: of the draws.
    """
    return np.concatenate([weights @ values for weights in resample_weights(strata, resamples, seed)])


def percentile_interval(estimates: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the middle part of bootstrap estimates, or None where they do not vary and so say nothing.

    Resamples without a value (NaN: nothing was drawn of what is counted) are left out.
    """
    known = estimates[~np.isnan(estimates)]
    if not known.size or np.ptp(known) < 1e-12:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def sign_flip_test(
    values: Sequence[int] | np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, bool]:
    """Return the two-sided p-value of a sum under random signs of its terms, and whether it is exact.

    The terms are the clusters' differences between two models, as whole numbers. If the models do not differ, each
    may stand with either sign. Where all terms are 1, -1 or 0 this is McNemar's exact test. The distribution of
    the sum is computed term by term; only where its range is very wide are signs drawn instead.
    """
    terms = np.abs(np.asarray([value for value in values if value], dtype=np.int64))
    if not terms.size:
        return 1.0, True
    common = int(np.gcd.reduce(terms))  # a shorter range of sums is sooner exact
    observed, terms = abs(int(np.sum(np.asarray(values, dtype=np.int64)))) // common, terms // common
    reach = int(terms.sum())
    if reach > EXACT_STEPS:
        return _drawn_signs(terms, observed, resamples, seed), False
    # The sum is 2 * (terms with a plus) - reach; all chances are multiples of a power of two, and exact enough.
    chances = np.zeros(reach + 1)
    chances[0] = 1.0
    top = 0
    for term in sorted(terms.tolist()):
        chances[: top + term + 1] *= 0.5
        moved = chances[: top + 1].copy()
        chances[term : top + term + 1] += moved
        top += term
    sums = np.abs(2 * np.arange(reach + 1) - reach)
    # A probability too small for a float is not zero.
    return min(1.0, max(float(chances[sums >= observed].sum()), sys.float_info.min)), True


def _drawn_signs(terms: np.ndarray, observed: int, resamples: int, seed: int) -> float:
    generator = np.random.default_rng(seed)
    block = max(1, CHUNK_DRAWS // len(terms))
    beyond = 0
    for start in range(0, resamples, block):
        signs = 2 * generator.integers(0, 2, (min(block, resamples - start), len(terms)), dtype=np.int8) - 1
        beyond += int(np.sum(np.abs(signs @ terms) >= observed))
    return (beyond + 1) / (resamples + 1)


def whole_weights(denominators: Sequence[int]) -> list[int]:
    """Return whole numbers in proportion to 1 over each denominator: exactly, or nearly where that would be too big."""
    common = math.lcm(*denominators)
    if common > _STEEPEST:
        common = _STEEPEST
    return [round(common / one) for one in denominators]


def accuracy(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return the share of items that two annotators label alike.

    Raises:
        ValueError: there are no items, or not as many from each.
    """
    _check_pairs(first, second)
    return sum(one == other for one, other in zip(first, second, strict=True)) / len(first)


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Return Cohen's kappa of two annotators' labels, or None where both gave one and the same label throughout.

    Source: J. Cohen, Educational and Psychological Measurement 20 (1960), 37-46.

    Raises:
        ValueError: there are no items, or not as many from each.
    """
    observed = accuracy(first, second)
    counts, other = Counter(first), Counter(second)
    chance = sum(counts[label] * other[label] for label in counts) / len(first) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def _check_pairs(first: Sequence[Hashable], second: Sequence[Hashable]) -> None:
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} labels make no pairs")
