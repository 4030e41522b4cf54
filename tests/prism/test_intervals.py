"""Intervals of scores: Wilson's where photos are asked once, photos drawn whole where they are asked again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prism.made_verdicts import description, question
from safe_llava.core.errors import PrismError
from safe_llava.core.statistics import wilson_interval
from safe_llava.formats.prism import Attribute, Verdict
from safe_llava.formats.scores import Score
from safe_llava.prism.scoring.rates import score_verdicts


def cells(verdicts: list[Verdict], **options: Any) -> dict[str, Score]:
    return {one.attribute: one for one in score_verdicts(verdicts, **options)}


def width(score: Score) -> float:
    assert score.ci_low is not None
    assert score.ci_high is not None
    return score.ci_high - score.ci_low


def test_descriptions_that_go_together_are_no_independent_trials() -> None:
    # 100 photos, a third of them leak: in all three descriptions, or every photo in one of its three.
    together = cells([description(i, k, ["Age"] if i % 3 == 0 else []) for i in range(99) for k in range(3)])["Age"]
    low, high = wilson_interval(66, 99)
    assert (together.ci, together.rate) == ("cluster_bootstrap", 66.67)
    assert width(together) == pytest.approx(100 * (high - low), rel=0.08)
    naive = wilson_interval(198, 297)
    assert width(together) > 1.5 * 100 * (naive[1] - naive[0])
    apart = cells([description(i, k, ["Age"] if k == 0 else []) for i in range(99) for k in range(3)])["Age"]
    # No photo differs from another: a bootstrap would give no width, and no certainty is claimed.
    assert (apart.ci, apart.rate) == ("wilson_images", 66.67)
    assert apart.ci_low == pytest.approx(100 * low, abs=0.01)


def test_the_bootstrap_agrees_with_the_variance_between_photos() -> None:
    rng = np.random.default_rng(3)
    shares = rng.beta(2, 2, 400)
    verdicts = [description(i, k, ["Race"] if rng.random() < shares[i] else []) for i in range(400) for k in range(3)]
    race = cells(verdicts)["Race"]
    by_photo = np.array([sum("Race" in (v.leaked or ()) for v in verdicts[3 * i : 3 * i + 3]) / 3 for i in range(400)])
    expected = 100 * 2 * 1.96 * by_photo.std(ddof=1) / 20
    assert width(race) == pytest.approx(expected, rel=0.06)


def test_a_photo_that_is_asked_about_once_is_an_independent_trial() -> None:
    verdicts = [question(i, a, i % 4 == 0) for i in range(40) for a in Attribute]
    found = cells(verdicts)
    assert found["Age"].ci == "wilson"
    assert (found["Age"].ci_low, found["Age"].ci_high) == tuple(round(100 * e, 2) for e in wilson_interval(10, 40))
    # Over the five attributes a photo comes five times, and each photo answers alike: no narrower than one attribute.
    assert found["macro"].ci == "cluster_bootstrap"
    assert width(found["macro"]) == pytest.approx(width(found["Age"]), rel=0.1)


def test_the_macro_of_attributes_that_do_not_vary_has_the_mean_of_their_ends() -> None:
    found = cells([question(i, a, a != "Age") for i in range(50) for a in Attribute])
    macro, age, race = found["macro"], found["Age"], found["Race"]
    assert (macro.rate, macro.ci) == (80.0, "wilson_images")
    assert age.ci_high is not None
    assert race.ci_low is not None
    assert macro.ci_low == pytest.approx(0.8 * race.ci_low, abs=0.01)
    assert macro.ci_high == pytest.approx((4 * 100 + age.ci_high) / 5, abs=0.01)


def test_photos_of_one_attribute_keep_their_number_in_every_resample() -> None:
    # The first edition: each attribute has photos of its own; drawn over all of them, a rate could lack its photos.
    verdicts = [
        description(i + 10 * place, k, [str(a)] if i < 5 else [], str(a))
        for place, a in enumerate(Attribute)
        for i in range(10)
        for k in range(3)
    ]
    found = cells(verdicts)
    assert {found[a].n for a in Attribute} == {30}
    draws = np.random.default_rng(0).binomial(10, 0.5, (100_000, 5)).mean(axis=1) * 10
    expected = np.quantile(draws, [0.025, 0.975])
    assert found["macro"].ci_low == pytest.approx(expected[0], abs=1.0)
    assert found["macro"].ci_high == pytest.approx(expected[1], abs=1.0)


def test_equal_verdicts_give_equal_intervals_whatever_their_order() -> None:
    rng = np.random.default_rng(5)
    verdicts = [description(i, k, ["Age"] if rng.random() < 0.3 else []) for i in range(60) for k in range(3)]
    shuffled = [verdicts[place] for place in rng.permutation(len(verdicts))]
    assert score_verdicts(verdicts) == score_verdicts(shuffled)
    assert score_verdicts(verdicts, seed=1, resamples=50) != score_verdicts(verdicts, seed=2, resamples=50)


def test_descriptions_about_no_attribute_have_none_of_their_own() -> None:
    with pytest.raises(PrismError, match="no attribute of its own") as caught:
        cells([description(1, 0, [])], choice="own")
    assert "leakage_scored: all" in caught.value.remedy


def test_a_whole_second_edition_is_scored() -> None:
    rng = np.random.default_rng(7)
    leaks = rng.random((2200, 3, 5)) < 0.3
    names = [str(a) for a in Attribute]
    verdicts = [
        description(i, k, [name for name, leaked in zip(names, leaks[i, k], strict=True) if leaked])
        for i in range(2200)
        for k in range(3)
    ]
    found = cells(verdicts)
    assert {found[name].n for name in names} == {6600}
    assert found["sentence"].hits == int(leaks.any(axis=2).sum())
    assert found["sentence"].ci == "cluster_bootstrap"
