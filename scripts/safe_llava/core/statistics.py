"""The statistics that scores carry: an interval for a proportion, agreement of two annotators."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, as two fractions of 1.

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
