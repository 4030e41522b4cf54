"""The interval and the agreement that scores carry, against values worked out elsewhere."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binomtest

from safe_llava.core.statistics import (
    accuracy,
    cohens_kappa,
    newcombe_interval,
    percentile_interval,
    resample_weights,
    resampled_sums,
    sign_flip_test,
    whole_weights,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(49, 49, 92.7, 100.0), (19, 50, 25.9, 51.8), (0, 49, 0.0, 7.3), (1, 1, 20.7, 100.0), (5, 10, 23.7, 76.3)],
)
def test_wilson_interval(successes: int, total: int, low: float, high: float) -> None:
    found = wilson_interval(successes, total)
    assert [round(100 * end, 1) for end in found] == [low, high]


def test_a_wider_confidence_is_a_wider_interval() -> None:
    narrow, wide = wilson_interval(19, 50, 0.9), wilson_interval(19, 50, 0.99)
    assert wide[0] < narrow[0] < 0.38 < narrow[1] < wide[1]


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_no_interval_without_trials(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(successes, total)


def test_kappa_of_a_textbook_table() -> None:
    # 20 both yes, 15 both no, 5 and 10 apart: observed 0.7, by chance 0.5.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert accuracy(first, second) == pytest.approx(0.7)
    assert cohens_kappa(first, second) == pytest.approx(0.4)


def test_kappa_is_undefined_where_nothing_varies() -> None:
    assert cohens_kappa([True, True], [True, True]) is None
    assert cohens_kappa([True, True], [False, False]) == 0.0


def test_agreement_needs_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        accuracy([1], [1, 2])
    with pytest.raises(ValueError, match="no pairs"):
        cohens_kappa([], [])


def test_newcombe_interval_of_his_example() -> None:
    # 36 of 50 pairs well in both, 12 in the first alone, 2 in the second alone: 20 points, from 5.69 to 34.04.
    assert [round(end, 4) for end in newcombe_interval(36, 12, 2, 0)] == [0.0569, 0.3404]


def test_newcombe_interval_turns_with_its_arguments_and_stays_in_bounds() -> None:
    low, high = newcombe_interval(10, 9, 3, 8)
    assert newcombe_interval(10, 3, 9, 8) == pytest.approx((-high, -low))
    low, high = newcombe_interval(0, 50, 0, 0)
    assert 0.89 < low < 0.91
    assert high == 1.0
    assert newcombe_interval(50, 0, 0, 0)[0] < 0 < newcombe_interval(50, 0, 0, 0)[1]
    with pytest.raises(ValueError, match="no interval"):
        newcombe_interval(0, 0, 0, 0)


@pytest.mark.parametrize(("plus", "minus"), [(9, 2), (1, 1), (0, 7), (30, 18), (400, 330)])
def test_signs_of_ones_are_mcnemar_s_exact_test(plus: int, minus: int) -> None:
    found = sign_flip_test([1] * plus + [-1] * minus + [0] * 5)
    assert found == (pytest.approx(binomtest(minus, plus + minus).pvalue, rel=1e-9), True)


def test_signs_are_all_tried() -> None:
    terms = [3, -1, 2, 2, -5, 1, 1]
    sums = [sum((2 * s - 1) * t for s, t in zip(signs, terms, strict=True)) for signs in np.ndindex(*[2] * 7)]
    expected = sum(abs(total) >= abs(sum(terms)) for total in sums) / len(sums)
    assert sign_flip_test(terms) == (pytest.approx(expected), True)


def test_a_chance_is_never_nought_and_nothing_apart_is_certain() -> None:
    assert sign_flip_test([0, 0]) == (1.0, True)
    # Terms with a common factor range no further than without it.
    assert sign_flip_test([200] * 2500 + [-200] * 2400) == sign_flip_test([1] * 2500 + [-1] * 2400)
    p_value, exact = sign_flip_test([3] * 2200)
    assert exact
    assert 0 < p_value < 1e-300


def test_signs_are_drawn_where_sums_range_too_widely() -> None:
    rng = np.random.default_rng(4)
    terms = rng.integers(-90_000, 100_000, 40)
    p_value, exact = sign_flip_test(terms, resamples=20_000)
    assert not exact
    normal = abs(terms.sum()) / np.sqrt((terms.astype(float) ** 2).sum())
    assert p_value == pytest.approx(2 * (1 - NormalDist().cdf(normal)), abs=0.02)
    assert sign_flip_test(terms, resamples=20_000) == (p_value, False)


def test_whole_weights_are_in_proportion() -> None:
    assert whole_weights([50, 50, 49]) == [49, 49, 50]
    near = whole_weights([2200, 2199, 2197, 2171, 2153])
    assert near[0] * 2200 == pytest.approx(near[4] * 2153, rel=1e-3)


def test_every_resample_keeps_the_size_of_each_stratum() -> None:
    strata = [0, 1, 1, 0, 1, 1, 1, 2]
    weights = np.concatenate(list(resample_weights(strata, 500, seed=1)))
    assert weights.shape == (500, 8)
    for stratum, size in ((0, 2), (1, 5), (2, 1)):
        assert (weights[:, np.array(strata) == stratum].sum(axis=1) == size).all()
    assert weights.std() > 0.5
    assert (weights == np.concatenate(list(resample_weights(strata, 500, seed=1)))).all()


def test_resampled_sums_have_the_mean_and_spread_of_the_clusters() -> None:
    values = np.random.default_rng(6).normal(3.0, 2.0, (300, 2))
    sums = resampled_sums(values, [0] * 300, 4000, seed=2) / 300
    assert sums.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.02)
    assert sums.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(300), rel=0.05)


def test_estimates_that_do_not_vary_give_no_interval() -> None:
    assert percentile_interval(np.array([0.3, np.nan, 0.3])) is None
    assert percentile_interval(np.array([np.nan])) is None
    assert percentile_interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))
