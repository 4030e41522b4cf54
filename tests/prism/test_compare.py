"""Two models on the same questions: pairs, differences, their intervals and their chances."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from prism.made_verdicts import description, question
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_jsonl
from safe_llava.core.statistics import newcombe_interval
from safe_llava.formats.prism import Attribute, Verdict
from safe_llava.formats.scores import PairedDifference
from safe_llava.prism import compare
from safe_llava.prism.scoring.rates import score_verdicts


def compared(first: Sequence[Verdict], second: Sequence[Verdict], **options: Any) -> dict[str, PairedDifference]:
    verdicts = [v.model_copy(update={"model": name}) for name, side in (("a", first), ("b", second)) for v in side]
    return {row.attribute: row for row in compare.paired_differences(verdicts, [("a", "b")], **options)}


def test_questions_asked_once_are_mcnemar_s() -> None:
    # 20 photos: refused by both 6, by a alone 9, by b alone 2, by none 3.
    a = [question(i, "Age", i < 15) for i in range(20)]
    b = [question(i, "Age", i < 6 or 15 <= i < 17) for i in range(20)]
    age = compared(a, b)["Age"]
    assert (age.n_pairs, age.first_alone, age.second_alone) == (20, 9, 2)
    assert (age.first_rate, age.second_rate, age.difference) == (75.0, 40.0, 35.0)
    assert (age.test, age.p_value) == ("mcnemar_exact", pytest.approx(binomtest(2, 11).pvalue, rel=1e-3))
    assert age.ci == "newcombe"
    assert (age.ci_low, age.ci_high) == tuple(round(100 * e, 2) for e in newcombe_interval(6, 9, 2, 3))


def test_only_questions_with_two_verdicts_count() -> None:
    a = [question(i, "Age", None if i == 0 else True) for i in range(10)]
    b = [question(i, "Age", None if i in (1, 2) else False) for i in range(12)]
    age = compared(a, b)["Age"]
    assert (age.n_pairs, age.n_only_first, age.n_only_second, age.n_images) == (7, 2, 3, 7)
    gender = compared(a, b)["Gender"]
    assert (gender.n_pairs, gender.difference, gender.p_value, gender.test) == (0, None, None, "")


def test_descriptions_of_a_photo_are_exchanged_together() -> None:
    # Six photos; a leaks none, b all three descriptions of each: 18 pairs apart, but six independent ones.
    a = [description(i, k, []) for i in range(6) for k in range(3)]
    b = [description(i, k, ["Age"]) for i in range(6) for k in range(3)]
    age = compared(a, b)["Age"]
    assert (age.n_pairs, age.n_images, age.difference, age.first_alone) == (18, 6, 100.0, 18)
    assert (age.test, age.p_value) == ("sign_flip", 2 / 2**6)
    # No photo differs from another, and six photos are not certainty.
    assert age.ci == "newcombe_images"
    assert age.ci_low == round(100 * newcombe_interval(0, 6, 0, 0)[0], 2)
    assert compared(a, b)["sentence"].difference == 100.0
    assert "answered_Age" not in compared(a, b)


def test_the_macro_of_both_models_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(2)
    sides = [[question(i, a, bool(rng.random() < p)) for i in range(60) for a in Attribute] for p in (0.7, 0.4)]
    macro = compared(*sides)["macro"]
    own = [next(s.rate for s in score_verdicts(side) if s.attribute == "macro") for side in sides]
    assert [macro.first_rate, macro.second_rate] == own
    assert macro.difference == pytest.approx(own[0] - own[1], abs=1e-4)
    assert macro.ci == "cluster_bootstrap"
    assert macro.ci_low is not None
    assert macro.ci_high is not None
    assert macro.ci_low < macro.difference < macro.ci_high
    assert (macro.n_pairs, macro.n_images) == (300, 60)


def test_models_that_do_not_differ_have_even_chances() -> None:
    # Of 200 pairs of equal models, one in twenty lies below 0.05, or fewer: the test is exact and discrete.
    rng = np.random.default_rng(8)
    below = 0
    for _ in range(200):
        shares = rng.random(12)
        sides = [
            [description(i, k, ["Race"] * bool(rng.random() < shares[i])) for i in range(12) for k in range(3)]
            for _ in range(2)
        ]
        p_value = compared(*sides, resamples=2)["Race"].p_value
        assert p_value is not None
        below += p_value < 0.05
    assert 1 <= below <= 16


def test_editions_of_unequal_counts_are_weighed_as_in_the_macro() -> None:
    # 4 photos of Age and 2 of each other attribute: a photo of Age moves the macro half as much as another one.
    def side(refused: dict[str, list[bool]]) -> list[Verdict]:
        return [
            question(10 * place + i, a, refused.get(str(a), [False] * 4)[i], edition="v1")
            for place, a in enumerate(Attribute)
            for i in range(4 if a == "Age" else 2)
        ]

    a, b = side({"Age": [True, True, False, False]}), side({"Race": [True, False]})
    macro = compared(a, b)["macro"]
    assert (macro.first_rate, macro.second_rate, macro.difference) == (10.0, 10.0, 0.0)
    assert (macro.p_value, macro.test) == (1.0, "sign_flip")


def test_the_step_compares_any_two_models(tmp_path: Path) -> None:
    files = []
    for name, refused in (("a", True), ("b", False), ("c", False)):
        rows = [question(i, "Age", refused, model=name).model_dump(mode="json") for i in range(8)]
        files.append(str(tmp_path / f"{name}.jsonl"))
        write_jsonl(files[-1], rows)
    out = ["--out", str(tmp_path / "p.csv")]
    compare.main(["--verdicts", *files, "--pair", "a", "b", "--pair", "b", "c", *out])
    with (tmp_path / "p.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["attribute"] == "Age"]
    assert [(r["first"], r["second"], r["difference"], r["p_value"]) for r in rows] == [
        ("a", "b", "100.0", "0.007812"),
        ("b", "c", "0.0", "1.0"),
    ]
    with pytest.raises(PrismError, match="a and z have no edition"):
        compare.main(["--verdicts", *files, "--pair", "a", "z", *out])
    with pytest.raises(PrismError, match="is no choice"):
        compare.main(["--verdicts", *files, "--pair", "a", "b", "--leakage-scored", "own", *out])


def test_nothing_is_compared_while_verdicts_are_missing(tmp_path: Path) -> None:
    files = []
    for name, lost in (("a", 0), ("b", 2), ("c", 8)):
        found = [question(i, "Age", None if i < lost else True, model=name) for i in range(8)]
        files.append(str(tmp_path / f"{name}.jsonl"))
        write_jsonl(files[-1], [verdict.model_dump(mode="json") for verdict in found])
    out = tmp_path / "p.csv"
    step = ["--verdicts", *files, "--pair", "a", "b", "--out", str(out)]  # c is of no pair
    with pytest.raises(PrismError, match="b, v2, refusal_soft, Age, judge j: of 8 questions 0 have no answer, 2 no"):
        compare.main([*step, "--allow-failed-answers", "1", "--allow-failed-verdicts", "0.24"])
    assert not out.exists()
    compare.main([*step, "--allow-failed-verdicts", "0.25"])
    assert out.exists()
