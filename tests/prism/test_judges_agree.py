"""How far judges agree: with each other on the same answers, with hand labels, with published rates."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from prism.made_verdicts import description, question
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_jsonl
from safe_llava.formats.prism import Verdict
from safe_llava.formats.scores import JudgeAgreement, Score
from safe_llava.prism import judges_agree
from safe_llava.prism.judges_agree import between_judges, with_published


def answers(judge: str, model: str, found: str) -> list[Verdict]:
    """Return one judge's findings in a row of answers: y, n, or - for a failure."""
    marks = {"y": True, "n": False, "-": None}
    return [question(i, "Age", marks[mark], judge=judge, model=model) for i, mark in enumerate(found)]


def find(rows: list[JudgeAgreement], **what: Any) -> JudgeAgreement:
    (row,) = [row for row in rows if all(getattr(row, name) == value for name, value in what.items())]
    return row


def test_two_judges_are_compared_on_the_answers_that_both_judged() -> None:
    verdicts = [*answers("j", "m", "yyynn-"), *answers("k", "m", "yynyny"), *answers("j", "other", "y")]
    row = find(between_judges(verdicts), attribute="Age")
    assert (row.judge, row.reference, row.model) == ("j", "k", "m")
    assert (row.n, row.both, row.judge_only, row.reference_only, row.neither) == (5, 2, 1, 1, 1)
    # Observed 3/5, by chance 0.6 * 0.6 + 0.4 * 0.4.
    assert (row.agreement, row.kappa) == (0.6, round((0.6 - 0.52) / 0.48, 4))


def test_all_models_together_have_a_row_of_their_own() -> None:
    verdicts = [v for model in ("m", "o") for judge in ("j", "k") for v in answers(judge, model, "yn")]
    rows = between_judges(verdicts)
    assert [(row.model, row.n) for row in rows] == [("m", 2), ("o", 2), ("all", 4)]


def test_leakage_is_compared_for_each_attribute_and_description() -> None:
    found = {"j": [["Age"], []], "k": [["Age", "Race"], ["Race"]]}
    verdicts = [description(i, 0, leaked, judge=j) for j, sets in found.items() for i, leaked in enumerate(sets)]
    rows = between_judges(verdicts)
    assert (find(rows, attribute="Age").kappa, find(rows, attribute="Gender").kappa) == (1.0, None)
    race = find(rows, attribute="Race")
    assert (race.both, race.reference_only, race.agreement) == (0, 2, 0.0)
    assert find(rows, attribute="sentence").agreement == 0.5


def score(judge: str, attribute: str, rate: float, source: str = "computed") -> Score:
    return Score("v1", "m", "refusal_soft", attribute, judge, 50, 0, 1, rate, None, None, source)


def test_published_judges_have_rates_only() -> None:
    known = [score("GPT", "Age", 10.0, "published"), score("GPT", "Race", 20.0, "published")]
    rows = with_published([score("rules", "Age", 11.0), score("rules", "Race", 15.0)], known)
    row = find(rows, reference="GPT")
    assert (row.comparison, row.n_cells, row.mean_distance, row.kappa) == ("published", 2, 3.0, None)


def test_the_step_puts_labels_and_judges_into_one_file(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    head = "model,task,question_id,index,answer_id,label\n"
    labels.write_text(head + "".join(f"m,refusal_soft,Age/{i:05d}.jpg,0,x,refused\n" for i in range(3)))
    write_jsonl(tmp_path / "r.jsonl", [v.model_dump(mode="json") for v in answers("rules", "m", "yyn")])
    both = [*answers("rules", "m", "yn"), *answers("k", "m", "nn")]
    write_jsonl(tmp_path / "v.jsonl", [v.model_dump(mode="json") for v in both])
    out = tmp_path / "j.csv"
    arguments = ["--labels", str(labels), "--out", str(out)]
    judges_agree.main(
        ["--verdicts", str(tmp_path / "v.jsonl"), "--released", str(tmp_path / "r.jsonl"), "--scores", *arguments]
    )
    with out.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["comparison"], r["judge"], r["reference"], r["n"], r["agreement"]) for r in rows] == [
        ("hand", "rules", "hand labels", "3", "0.6667"),
        ("judges", "k", "rules", "2", "0.5"),
    ]
    assert (rows[0]["both"], rows[0]["judge_only"], rows[0]["reference_only"], rows[0]["neither"]) == (
        "2",
        "0",
        "1",
        "0",
    )
    with pytest.raises(PrismError, match="nothing to be compared with"):
        judges_agree.main(["--released", str(tmp_path / "r.jsonl"), "--out", str(out)])
