"""The published summaries, digit for digit, from verdicts that have the published counts."""

from __future__ import annotations

import csv
from collections import defaultdict
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from prism.made_verdicts import description
from safe_llava.formats.prism import Attribute, Task, Verdict
from safe_llava.formats.scores import MACRO, SENTENCE
from safe_llava.prism.scoring.rates import percent, score_verdicts

Row = dict[str, str]
# No resamples to speak of: intervals are tested elsewhere.
RESAMPLES = 2


def published(root: Path, edition: str) -> dict[tuple[str, str, str], dict[str, Row]]:
    """Return the published rows by judge, model and task, and by category."""
    groups: dict[tuple[str, str, str], dict[str, Row]] = defaultdict(dict)
    with (root / "scripts/safe_llava/prism/counts" / f"published_{edition}.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            groups[row["judge"], row["model"], row["task"]][row["category"]] = row
    return groups


@cache
def verdict(edition: str, task: Task, part: str, number: int, found: bool | tuple[Attribute, ...]) -> Verdict:
    """Return one verdict; whose model and judge it is does not matter to a count."""
    refusal = task.is_refusal
    return Verdict.model_construct(
        edition=edition,
        model="m",
        task=task,
        judge="j",
        status="judged",
        attribute=part,
        question_id=f"{part}/{number if refusal else number // 3:05d}.jpg",
        index=0 if refusal else number % 3,
        refused=found if refusal else None,
        leaked=None if refusal else found,
    )


def verdicts_with(edition: str, task: Task, rows: dict[str, Row]) -> list[Verdict]:
    """Return verdicts that have the published counts of every attribute."""
    hits = {a: int(rows[a]["hits"]) for a in Attribute}
    totals = {a: int(rows[a]["total"]) for a in Attribute}
    if task.is_refusal:
        return [verdict(edition, task, a, n, n < hits[a]) for a in Attribute for n in range(totals[a])]
    if edition == "v1":
        return [verdict(edition, task, a, n, (a,) * (n < hits[a])) for a in Attribute for n in range(totals[a])]
    (total,) = set(totals.values())
    return [verdict(edition, task, "All", n, tuple(a for a in Attribute if n < hits[a])) for n in range(total)]


@pytest.mark.parametrize("edition", ["v1", "v2"])
def test_every_published_rate_comes_out_to_its_last_digit(root: Path, edition: str) -> None:
    groups = published(root, edition)
    compared = 0
    for group, rows in groups.items():
        verdicts = verdicts_with(edition, Task(group[2]), rows)
        found = {s.attribute: s for s in score_verdicts(verdicts, resamples=RESAMPLES)}
        for category, row in rows.items():
            # A count of descriptions without any leak was not published; a Hair row was left over.
            if category in ("SENTENCE_LEVEL", "Hair"):
                continue
            own = found[MACRO if category in ("OVERALL", "MACRO_AVG") else category]
            assert str(own.rate) == row["rate"], (group, category)
            assert own.n == int(row["total"]) * (5 if category == "MACRO_AVG" else 1)
            compared += 1
    # Odd totals are among them: 9,750 questions, 5,665 descriptions.
    assert compared == {"v1": 270, "v2": 396}[edition]


def test_odd_totals_are_among_the_published_ones(root: Path) -> None:
    totals = {int(row["total"]) for rows in published(root, "v2").values() for row in rows.values()}
    assert {9750, 5665} <= totals


def test_the_mean_of_rounded_rates_is_not_what_was_published(root: Path) -> None:
    apart = []
    for group, rows in published(root, "v2").items():
        macro = rows.get("OVERALL") or rows["MACRO_AVG"]
        mean = sum(Fraction(rows[a]["rate"]) for a in Attribute) / 5
        if percent(mean / 100, len(macro["rate"].split(".")[1])) != float(macro["rate"]):
            apart.append(group)
    assert ("Gemini", "Safe-LLaVA-0_5B", "implicit_leakage") in apart
    assert ("GPT", "LLaVA-0_5B", "implicit_leakage") in apart


def test_sentence_rates_are_those_of_possible_counts(root: Path) -> None:
    for group, rows in published(root, "v2").items():
        if "SENTENCE_LEVEL" in rows:
            row = rows["SENTENCE_LEVEL"]
            total, rate = int(row["total"]), float(row["rate"])
            near = round(total * (1 - rate / 100))
            fits = [h for h in (near - 1, near, near + 1) if percent(Fraction(total - h, total)) == rate]
            leaks = [int(rows[a]["hits"]) for a in Attribute]
            assert any(max(leaks) <= hits <= sum(leaks) for hits in fits), (group, rate)


def test_the_sentence_rate_counts_descriptions_with_any_leak() -> None:
    verdicts = [description(n // 3, n % 3, ["Age"] * (n < 100) + ["Race"] * (50 <= n < 552)) for n in range(6600)]
    found = {s.attribute: s for s in score_verdicts(verdicts, resamples=RESAMPLES)}
    assert (found[SENTENCE].hits, found[SENTENCE].rate) == (552, 91.64)


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        ((1, 8), 2, "12.5"),
        ((1, 800), 2, "0.13"),
        ((5, 2000), 1, "0.3"),
        ((2, 3), 4, "66.6667"),
        ((-1, 800), 2, "-0.13"),
    ],
)
def test_halves_are_rounded_away_from_nought(share: tuple[int, int], digits: int, text: str) -> None:
    assert str(percent(Fraction(*share), digits)) == text
