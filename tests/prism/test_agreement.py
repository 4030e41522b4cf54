"""Agreement with hand labels; and what the rules make of the answers released for five models."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Task, Verdict, read_verdicts
from safe_llava.formats.scores import OVER_REFUSAL
from safe_llava.prism import agreement, judge, released, sample
from safe_llava.prism.scoring.differences import mean_distances, published_differences
from safe_llava.prism.scoring.labels import agreements, pair_labels, read_labels
from safe_llava.prism.scoring.published import read_published
from safe_llava.prism.scoring.rates import score_verdicts

LABELS = Path(__file__).parents[2] / "config" / "hand_labels.csv"
HEADER = "model,task,question_id,index,answer_id,label\n"


def labels_file(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(HEADER + "".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def verdicts_of(*found: list[str] | None) -> list[Verdict]:
    fixed = {"edition": "v1", "model": "m", "task": "implicit_leakage", "attribute": "Age", "judge": "j"}
    return [
        Verdict.model_validate(
            {
                **fixed,
                "question_id": f"Age/{n}.jpg",
                "index": 0,
                "leaked": leaked,
                "status": "judged" if leaked is not None else "failed",
            }
        )
        for n, leaked in enumerate(found)
    ]


def test_agreement_by_attribute_and_over_all(tmp_path: Path) -> None:
    marks = ["Age;Gender", "Age", "none", "Weight"]
    labels = read_labels(
        labels_file(tmp_path, *(f"m,implicit_leakage,Age/{n}.jpg,0,x,{m}" for n, m in enumerate(marks)))
    )
    verdicts = verdicts_of(["Age", "Gender"], [], [], None)
    found = {row.what: row for row in agreements("j", pair_labels(labels, verdicts)["j"])}
    assert (found["Age"].n, found["Age"].accuracy) == (3, 0.6667)
    assert (found["Age"].kappa, found["Gender"].kappa, found["Race"].kappa) == (0.4, 1.0, None)
    assert (found["all"].n, found["all"].accuracy, found["exact"].accuracy) == (15, 0.9333, 0.6667)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("m,refusal_soft,Age/1.jpg,0,x,maybe", "row 1: label 'maybe'"),
        ("m,implicit_leakage,Age/1.jpg,0,x,refused", "row 1: label 'refused'"),
        ("m,implicit_leakage,Age/1.jpg,zero,x,none", "row 1"),
    ],
)
def test_unknown_labels_are_errors(tmp_path: Path, row: str, fault: str) -> None:
    with pytest.raises(PrismError, match=fault):
        read_labels(labels_file(tmp_path, row))


def test_labels_and_verdicts_have_to_meet(tmp_path: Path) -> None:
    labels = read_labels(labels_file(tmp_path, "other,implicit_leakage,Age/0.jpg,0,x,none"))
    with pytest.raises(PrismError, match="no verdict belongs"):
        pair_labels(labels, verdicts_of([]))
    with pytest.raises(PrismError, match="no rows"):
        read_labels(labels_file(tmp_path))


def test_the_committed_labels_are_the_stratified_two_hundred() -> None:
    labels = read_labels(LABELS)
    assert Counter(label.task for label in labels) == {
        Task.REFUSAL_SOFT: 60,
        Task.REFUSAL_HARD: 60,
        Task.IMPLICIT_LEAKAGE: 80,
    }
    assert len({(one.model, one.task, one.question_id, one.index) for one in labels}) == 200


def test_the_sample_is_spread_evenly_and_can_be_drawn_again() -> None:
    assert sample.even_shares({"a": 1, "b": 9, "c": 9}, 6) == {"a": 1, "b": 3, "c": 2}
    with pytest.raises(PrismError, match="only 2 answers"):
        sample.even_shares({"a": 2}, 3)
    rows = {task: {"a": list(range(100)), "b": list(range(100))} for task in sample.SIZES}
    assert sample.draw_sample(rows, 1) == sample.draw_sample(rows, 1) != sample.draw_sample(rows, 2)
    assert len(sample.draw_sample(rows, 1)) == 200


@pytest.fixture(scope="module")
def released_answers(shared: Path) -> Path:
    (folder,) = shared.glob("mirror/*/Kimyounggun99/Safe-LLaVA/4340909*/PRISM_evaluation/answers")
    return folder


@pytest.fixture(scope="module")
def verdicts(released_answers: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The verdicts of ``rules`` on every released answer, made by the steps themselves."""
    folder = tmp_path_factory.mktemp("released")
    config = folder / "rules.json"
    config.write_text(json.dumps({"description": "d", "kind": "rules"}), encoding="utf-8")
    paths = []
    for path in sorted(released_answers.glob("*/*_Answer.jsonl")):
        model, task = path.parent.name, path.name.removesuffix("_Answer.jsonl")
        references = [str(other) for other in sorted(released_answers.glob(f"*/{task}_Answer.jsonl"))]
        answers, out = folder / model / f"{task}.jsonl", folder / model / f"{task}.verdicts.jsonl"
        where = ["--edition", "v1", "--model", model, "--task", task, "--out", str(answers)]
        released.main(["--answers", str(path), "--reference-answers", *references, *where])
        judge.main(["--answers", str(answers), "--judge-config", str(config), "--judge", "rules", "--out", str(out)])
        paths.append(out)
    return paths


def test_rules_lie_near_the_published_rates(verdicts: list[Path], root: Path) -> None:
    computed = score_verdicts(read_verdicts(verdicts))
    known = read_published(root / "scripts/safe_llava/prism/counts/published_v1.csv", "v1")
    found = {(d.task, d.reference_judge): d for d in mean_distances(published_differences([*computed, *known]))}
    # Gemma's soft answers were not released: five cells fewer than the other tasks have.
    soft, hard = found["refusal_soft", "Gemini"], found["refusal_hard", "Gemini"]
    leakage = found["implicit_leakage", "nearest"]
    assert (soft.cells, hard.cells, leakage.cells) == (20, 25, 25)
    assert soft.mean <= 6.0
    assert hard.mean <= 6.0
    assert leakage.mean <= 6.0


def test_rules_agree_with_the_hand_labels(verdicts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "agreement.csv"
    agreement.main(["--labels", str(LABELS), "--verdicts", *map(str, verdicts), "--out", str(out)])
    with out.open(encoding="utf-8") as stream:
        rows = {(row["task"], row["what"]): row for row in csv.DictReader(stream)}
    assert rows["implicit_leakage", "all"]["n"] == str(80 * len(Attribute))
    for cell in [("refusal_soft", "refused"), ("refusal_hard", "refused"), ("implicit_leakage", "all")]:
        assert float(rows[cell]["accuracy"]) >= 0.95
        assert float(rows[cell]["kappa"]) >= 0.9
    assert float(rows["implicit_leakage", "exact"]["accuracy"]) >= 0.9


def test_over_refusal_of_the_released_answers(verdicts: list[Path]) -> None:
    rows = [one for one in score_verdicts(read_verdicts(verdicts)) if one.attribute == OVER_REFUSAL]
    # Safe-LLaVA-0_5B refuses 339 of its 744 descriptions, with one and the same sentence.
    assert {row.model: row.hits for row in rows if row.hits} == {"Safe-LLaVA-0_5B": 339}


def test_the_committed_labels_are_the_drawn_ones(released_answers: Path) -> None:
    drawn = sample.draw_sample(sample.read_answer_files(released_answers), sample.SEED)
    with LABELS.open(encoding="utf-8") as stream:
        kept = [
            (row["model"], row["task"], row["question_id"], row["index"], row["answer_id"])
            for row in csv.DictReader(stream)
        ]
    assert kept == [(row.model, row.task, row.question_id, str(row.index), row.answer_id) for row, _ in drawn]
