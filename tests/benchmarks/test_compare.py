"""Standard errors, and two models on the same questions."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safe_llava.benchmarks import compare
from safe_llava.benchmarks.scoring.units import Units, as_units, read_units, write_units
from safe_llava.core.errors import BenchmarkError
from safe_llava.formats.benchmark_scores import BenchmarkPair


def mean(values: str, scale: float = 100.0) -> Units:
    return as_units("mean", ((f"{n}", "", [float(v)]) for n, v in enumerate(values)), scale)


def test_the_error_of_a_mean_is_that_of_the_formula() -> None:
    units = mean("1110000000")
    assert units.score() == pytest.approx(30.0)
    assert units.stderr() == pytest.approx(100 * math.sqrt(0.3 * 0.7 / 9))
    assert mean("1").stderr() is None


def test_the_error_of_a_sum_of_means_is_near_that_of_theory() -> None:
    """Pairs of MME are drawn within their subtasks: the variances of the subtasks' means add up."""
    generator = np.random.default_rng(1)
    rows = [(f"{c}{n}", c, [float(generator.choice([0, 50, 200]))]) for c in "ab" for n in range(60)]
    units = as_units("sum_of_means", rows)
    parts = [np.array([row[2][0] for row in rows if row[1] == c]) for c in "ab"]
    assert units.score() == pytest.approx(sum(part.mean() for part in parts))
    theory = math.sqrt(sum(part.var() / 60 for part in parts))
    assert units.stderr() == pytest.approx(theory, rel=0.05)


def test_ratios_and_f1() -> None:
    assert as_units("ratio", [("0", "", [8.0, 9.0]), ("1", "", [8.0, 3.0])], 100).score() == pytest.approx(75.0)
    rows = [("0", "a", [1.0, 1, 1]), ("1", "a", [0.0, 1, 0]), ("2", "b", [0.0, 0, 1])]
    assert as_units("f1", rows).score() == pytest.approx(2 / 4)
    assert as_units("f1_of_strata", rows).score() == pytest.approx((2 / 3 + 0) / 2)
    assert as_units("precision", rows).score() == pytest.approx(1 / 2)
    assert as_units("recall", rows).score() == pytest.approx(1 / 2)
    assert as_units("precision", [("0", "", [0.0, 0, 1])]).score() == 0.0


def test_units_are_written_and_read(tmp_path: Path) -> None:
    found = {"a": mean("101"), "b": as_units("f1_of_strata", [("0", "x", [1.0, 1, 1]), ("1", "y", [0.0, 1, 0])], 100)}
    write_units(tmp_path / "units.csv", found)
    read = read_units(tmp_path / "units.csv")
    assert list(read) == ["a", "b"]
    assert [read[name].score() for name in read] == [found[name].score() for name in found]
    assert read["b"].strata == ("x", "y")
    write_units(tmp_path / "units.csv", {"a": replace(mean("101"), left_out=("7", "9"))})
    read = read_units(tmp_path / "units.csv")
    assert (read["a"].names, read["a"].left_out) == (("0", "1", "2"), ("7", "9"))
    (tmp_path / "units.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchmarkError, match=r"units\.csv: not a file of units"):
        read_units(tmp_path / "units.csv")


def test_right_or_wrong_is_mcnemar() -> None:
    """Five questions are right in the first alone, none in the second alone: p = 2 / 2^5."""
    found = compare.paired(mean("1111100001"), mean("0000000001"))
    assert found["difference"] == pytest.approx(50.0)
    assert (found["first_only"], found["second_only"]) == (5, 0)
    assert found["p_value"] == pytest.approx(2 / 32)
    assert found["test"] == compare.MCNEMAR
    assert 0 < found["ci_low"] < 50 < found["ci_high"] < 100


def test_shares_of_a_point_are_tested_by_their_signs() -> None:
    first = as_units("mean", ((f"{n}", "", [v]) for n, v in enumerate([1.0, 0.3, 0.6, 1.0])), 100)
    second = as_units("mean", ((f"{n}", "", [v]) for n, v in enumerate([0.3, 0.0, 0.6, 0.9])), 100)
    found = compare.paired(first, second)
    # Differences of 0.7, 0.3, 0 and 0.1: of eight signs, two are as far out.
    assert found["p_value"] == pytest.approx(2 / 8)
    assert found["test"] == compare.SIGNS
    assert found["ci_low"] <= found["difference"] <= found["ci_high"]


@pytest.mark.parametrize("kind", ["sum_of_means", "f1_of_strata", "ratio"])
def test_other_scores_are_tested_by_changing_places(kind: str) -> None:
    generator = np.random.default_rng(2)

    def units(chance: float) -> Units:
        rows = []
        for n in range(80):
            said = float(generator.random() < chance)
            true = float(n % 2)
            parts = {"sum_of_means": [200 * said], "f1_of_strata": [said * true, said, true], "ratio": [8.0, 8 * said]}
            rows.append((f"{n}", "xy"[n % 4 // 2], parts[kind]))
        return as_units(kind, rows, 1.0)  # type: ignore[arg-type]

    low, high = units(0.3), units(0.9)
    apart = compare.paired(high, low)
    assert apart["p_value"] < 0.01
    assert apart["ci_low"] > 0
    same = compare.paired(low, low)
    assert (same["difference"], same["p_value"]) == (0.0, 1.0)
    back = compare.paired(low, high)
    assert back["difference"] == pytest.approx(-float(apart["difference"]))


def test_the_table_of_pairs(tmp_path: Path) -> None:
    for model, values in {"safe": "1101", "original": "1111"}.items():
        write_units(tmp_path / f"{model}.csv", {"exact_match": mean(values), "other": mean(values)})
    turned = read_units(tmp_path / "original.csv")["exact_match"]
    write_units(
        tmp_path / "original.csv",
        {"exact_match": Units(turned.kind, turned.names[::-1], turned.strata, turned.parts[::-1], turned.scale)},
    )
    compare.main(
        [
            *("--units", f"safe/gqa={tmp_path / 'safe.csv'}", f"original/gqa={tmp_path / 'original.csv'}"),
            *("--pair", "safe", "original", "--metrics", "gqa=exact_match", "gqa=other"),
            *("--limit", "4", "--out", str(tmp_path / "paired.csv")),
        ]
    )
    (row,) = csv.DictReader((tmp_path / "paired.csv").read_text(encoding="utf-8").splitlines())
    assert (row["benchmark"], row["metric"], row["n"], row["difference"]) == ("gqa", "exact_match", "4", "-25.0")
    assert (row["first_only"], row["second_only"], row["p_value"], row["limit"]) == ("0", "1", "1.0", "4")


def without(units: Units, *failed: str) -> Units:
    """Return what a model has that failed some questions."""
    kept = [place for place, name in enumerate(units.names) if name not in failed]
    names = tuple(units.names[place] for place in kept)
    strata = tuple(units.strata[place] for place in kept)
    return replace(units, names=names, strata=strata, parts=units.parts[kept], left_out=failed)


def row_of(first: Units, second: Units) -> BenchmarkPair:
    (row,) = compare.paired_scores(
        {("a", "gqa"): {"m": first}, ("b", "gqa"): {"m": second}}, [("a", "b")], {"gqa": ["m"]}
    )
    return row


def test_questions_that_a_model_failed_are_left_out_of_both_scores() -> None:
    first, second = without(mean("1101"), "0"), without(mean("1111"), "0", "3")
    row = row_of(first, second)
    assert (row.n, row.n_unpaired, row.first_score, row.second_score, row.difference) == (2, 1, 50.0, 100.0, -50.0)
    back = row_of(second, first)
    assert (back.n, back.n_unpaired, back.difference, back.p_value) == (2, 1, 50.0, row.p_value)
    whole = row_of(mean("1101"), mean("1111"))
    assert (whole.n, whole.n_unpaired) == (4, 0)


@pytest.mark.parametrize("second", [mean("10"), mean("1011"), without(mean("1011"), "0")])
def test_other_questions_are_no_pairs(second: Units) -> None:
    with pytest.raises(BenchmarkError, match="gqa m, a and b: the two models were not asked the same questions"):
        row_of(mean("101"), second)


def test_models_without_a_common_answer_are_no_pair() -> None:
    with pytest.raises(BenchmarkError, match="gqa m, a and b: no question has an answer of both models"):
        row_of(without(mean("10"), "0"), without(mean("10"), "1"))
