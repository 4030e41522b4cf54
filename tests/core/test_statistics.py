"""The interval and the agreement that scores carry, against values worked out elsewhere."""

from __future__ import annotations

import pytest

from safe_llava.core.statistics import accuracy, cohens_kappa, wilson_interval


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
