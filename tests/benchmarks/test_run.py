"""What the step refuses, and that it needs no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import SECRET, FakeEngine, right_of, shown_in
from benchmarks.fixtures import Fixture, Part, write
from benchmarks.test_whole_runs import Step
from safe_llava.benchmarks.table import Results, table
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.prism import Judge
from safe_llava.core.errors import BenchmarkError
from safe_llava.engine.base import Request


@pytest.fixture
def step(tmp_path: Path, data: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    return Step(tmp_path, data, tiny_model, monkeypatch)


def with_rows(root: Path, fixture: Fixture, **changes: Any) -> Path:
    """Lay out a data set with other rows or features."""
    (part,) = fixture.parts
    write(root, Fixture([Part(part.repo, part.split, **{"features": part.features, "rows": part.rows, **changes})]))
    return root


def test_always_yes(step: Step, rows: dict[str, BenchmarkTask]) -> None:
    """Five of twelve are yes: accuracy and precision 5/12, recall 1, F1 10/17; by category 2/3, 2/5 and 2/3."""
    results = step.run(rows["pope"], FakeEngine(lambda _: "Yes"))
    scores = {name: metric["score"] for name, metric in results["metrics"].items()}
    assert scores["pope_accuracy"] == scores["pope_precision"] == pytest.approx(100 * 5 / 12)
    assert scores["pope_recall"] == pytest.approx(100)
    assert scores["pope_f1_score"] == pytest.approx(100 * 10 / 17)
    assert scores["pope_f1_mean"] == pytest.approx(100 * (2 / 3 + 2 / 5 + 2 / 3) / 3)
    # The error of a mean of five ones and seven noughts.
    assert results["metrics"]["pope_accuracy"]["stderr"] == pytest.approx(100 * (5 * 7 / 12 / 11 / 12) ** 0.5)
    assert results["metrics"]["pope_f1_mean"]["stderr"] > 1.0


def test_samples_say_what_was_asked_and_answered(
    step: Step, pope_row: BenchmarkTask, fixtures: dict[str, Fixture]
) -> None:
    step.run(pope_row, FakeEngine(right_of(fixtures["pope"])), None, "--limit", "5")
    samples = step.samples()
    assert [row["doc_id"] for row in samples] == list(range(5))
    assert samples[3]["prompt"] == (
        "Is there a thing of kind 3 in the image?\nAnswer the question using a single word or phrase."
    )
    assert (samples[3]["reply"], samples[3]["scores"]["pope_accuracy"], samples[3]["unit"]) == ("No", 1.0, "3")
    assert (step.results()["limit"], step.results()["n"]) == (5, 5)


def test_a_picture_that_does_not_decode_is_no_score(
    step: Step, pope_row: BenchmarkTask, fixtures: dict[str, Fixture], tmp_path: Path
) -> None:
    asked = [dict(row) for row in fixtures["pope"].parts[0].rows]
    asked[4]["image"] = {"bytes": b"broken", "path": None}
    step.data = with_rows(tmp_path / "broken", fixtures["pope"], rows=asked)
    results = step.run(pope_row, FakeEngine(lambda _: "Yes"))
    assert (results["metrics"], results["n_failed"]) == ({}, 1)
    assert step.samples()[0]["reason"].startswith("unreadable document")


def test_a_picture_that_is_not_there_is_no_score(
    step: Step,
    rows: dict[str, BenchmarkTask],
    fixtures: dict[str, Fixture],
    tmp_path: Path,
    judge_row: Callable[..., Judge],
) -> None:
    """MM-Vet's own code shows no image then, and the question would be asked without."""
    asked = [dict(row) for row in fixtures["mmvet"].parts[0].rows]
    asked[1]["image"] = None
    step.data = with_rows(tmp_path / "without", fixtures["mmvet"], rows=asked)
    engine = FakeEngine(lambda _: "A fine answer.")
    results = step.run(rows["mmvet"], engine, judge_row())
    assert (results["metrics"], results["n_failed"], len(engine.asked)) == ({}, 1, 2)
    assert step.samples()[0]["reason"] == "the document has no image"


def test_a_row_may_say_that_there_are_no_pictures(step: Step, pope_row: BenchmarkTask) -> None:
    engine = FakeEngine(lambda _: "Yes")
    results = step.run(pope_row.model_copy(update={"pictures": "none"}), engine)
    assert {request.images for request in engine.asked} == {()}
    assert results["metrics"]["pope_recall"]["score"] == 100.0


def test_a_data_set_that_is_not_there(step: Step, pope_row: BenchmarkTask, tmp_path: Path) -> None:
    step.data = tmp_path / "nowhere"
    with pytest.raises(BenchmarkError, match="no data set for pope") as raised:
        step.run(pope_row, FakeEngine(lambda _: "Yes"))
    assert "benchmark-pope" in raised.value.remedy


def test_a_data_set_of_another_shape(
    step: Step, pope_row: BenchmarkTask, fixtures: dict[str, Fixture], tmp_path: Path
) -> None:
    names = ("id", "answer", "image")
    (part,) = fixtures["pope"].parts
    asked = [{key: row[key] for key in names} for row in part.rows]
    features = {key: part.features[key] for key in names}
    step.data = with_rows(tmp_path / "other", fixtures["pope"], rows=asked, features=features)
    with pytest.raises(BenchmarkError, match=r"pope does not run: KeyError"):
        step.run(pope_row, FakeEngine(lambda _: "Yes"))


def test_the_pictures_of_another_data_root_are_not_taken(
    step: Step, rows: dict[str, BenchmarkTask], fixtures: dict[str, Fixture], tmp_path: Path
) -> None:
    """GQA's task loads its images by itself: by name, from whatever cache there is."""
    step.run(rows["gqa"], FakeEngine(right_of(fixtures["gqa"])))
    text, shown = fixtures["gqa"].parts
    turned = [
        {"id": row["id"], "image": other["image"]} for row, other in zip(shown.rows, shown.rows[::-1], strict=True)
    ]
    write(
        tmp_path / "other", Fixture([text, Part(shown.repo, shown.split, shown.features, turned, shown.configuration)])
    )
    step.data = tmp_path / "other"
    shutil.rmtree(step.folder / "kept")
    results = step.run(rows["gqa"], FakeEngine(right_of(fixtures["gqa"])))
    assert results["metrics"]["exact_match"]["score"] == 0.0


def test_a_task_that_lmms_eval_does_not_have(step: Step, pope_row: BenchmarkTask) -> None:
    with pytest.raises(BenchmarkError, match="has no task `pope_of_rome`"):
        step.run(pope_row.model_copy(update={"lmms_task": "pope_of_rome"}), FakeEngine(lambda _: "Yes"))


def test_a_metric_that_the_task_does_not_have(step: Step, pope_row: BenchmarkTask) -> None:
    with pytest.raises(BenchmarkError, match="no metric `f2`") as raised:
        step.run(pope_row.model_copy(update={"metric": "f2"}), FakeEngine(lambda _: "Yes"))
    assert "pope_accuracy" in raised.value.remedy


def test_any_other_task_of_lmms_eval_is_one_more_row(step: Step, fixtures: dict[str, Fixture], tmp_path: Path) -> None:
    """`pope_adv` reads another configuration and split of the same data set; its row is five keys."""
    (part,) = fixtures["pope"].parts
    write(tmp_path / "more", Fixture([Part("POPE", "adversarial", part.features, part.rows, "Full")]))
    step.data = tmp_path / "more"
    row = {"description": "d", "lmms_task": "pope_adv", "dataset": "benchmark-pope", "metric": "pope_accuracy"}
    results = step.run(BenchmarkTask.model_validate(row), FakeEngine(right_of(fixtures["pope"])))
    assert results["metrics"]["pope_accuracy"]["score"] == 100.0


@pytest.mark.parametrize(("limit", "counted", "perception"), [(1, 0, None), (3, 2, 200.0), (8, 8, 400.0)])
def test_a_limit_that_cuts_a_pair_of_mme_apart_leaves_it_out(
    limit: int,
    counted: int,
    perception: float | None,
    step: Step,
    rows: dict[str, BenchmarkTask],
    fixtures: dict[str, Fixture],
) -> None:
    results = step.run(rows["mme"], FakeEngine(right_of(fixtures["mme"])), None, f"--limit={limit}")
    assert (results["n"], results["n_failed"], results["failed"]) == (counted, 0, 0)
    scores = {name: metric["score"] for name, metric in results["metrics"].items()}
    assert scores.get("mme_perception_score") == perception
    assert scores.get("mme_cognition_score") == (200.0 if limit == 8 else None)


def test_a_limit_without_perception_is_no_score_of_perception(
    step: Step, rows: dict[str, BenchmarkTask], fixtures: dict[str, Fixture], tmp_path: Path
) -> None:
    last = fixtures["mme"].parts[0].rows[::-1]
    step.data = with_rows(tmp_path / "turned", fixtures["mme"], rows=last)
    results = step.run(rows["mme"], FakeEngine(right_of(fixtures["mme"])), None, "--limit=2")
    assert {name: metric["score"] for name, metric in results["metrics"].items()} == {"mme_cognition_score": 200.0}
    row, other = table([Results.model_validate(results)], {"b": rows["mme"]}, None)
    assert (row.metric, row.score, row.verdict) == ("mme_perception_score", None, "no score: no question counts for it")
    assert (other.metric, other.score) == ("mme_cognition_score", 200.0)


@pytest.mark.parametrize("part", ["--limit=3", "--allow-failed=0.5"])
def test_a_part_of_a_submission_is_named_so(part: str, step: Step, rows: dict[str, BenchmarkTask]) -> None:
    engine = FakeEngine(lambda _: "Yes")
    with pytest.raises(BenchmarkError, match="questions may be missing"):
        step.run(rows["vqav2-test"], engine, None, part)
    named = step.folder / "results" / "submission.partial.json"
    results = step.run(rows["vqav2-test"], engine, None, part, f"--submission={named}")
    assert results["submitted"] == len(json.loads(named.read_text(encoding="utf-8"))) > 2
    assert not (step.folder / "results" / "submission.json").exists()


def test_where_an_answer_is_missing_a_whole_submission_is_an_error_that_says_why(
    step: Step, rows: dict[str, BenchmarkTask]
) -> None:
    """Nothing is written, since the rule has to fail; the next run asks what is missing only."""
    with pytest.raises(BenchmarkError, match=r"1 of 5 questions have no answer[^$]*document 2: out of paper"):
        step.run(rows["vqav2-test"], FakeEngine(lambda request: None if shown_in(request) == 2 else "Yes"))
    assert not (step.folder / "results" / "results.json").exists()
    again = FakeEngine(lambda _: "Yes")
    assert step.run(rows["vqav2-test"], again)["submitted"] == 5
    assert [shown_in(request) for request in again.asked] == [2]


@pytest.mark.parametrize(("first", "then"), [("", ".partial"), (".partial", "")])
def test_a_whole_submission_and_a_part_of_one_do_not_lie_side_by_side(
    first: str, then: str, step: Step, rows: dict[str, BenchmarkTask]
) -> None:
    folder = step.folder / "results"
    for part in (first, then):
        limit = ["--limit=3"] if part else []
        step.run(
            rows["vqav2-test"],
            FakeEngine(lambda _: "Yes"),
            None,
            *limit,
            f"--submission={folder}/submission{part}.json",
        )
    assert [path.name for path in folder.glob("submission*")] == [f"submission{then}.json"]


def test_no_key_of_the_environment_is_seen_where_nobody_judges(
    step: Step, rows: dict[str, BenchmarkTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row may be of a task that asks a judge, and not say so."""
    names = ("OPENAI_API_KEY", "AZURE_API_KEY", "HF_TOKEN", "MY_OWN_KEY")
    for name in names:
        monkeypatch.setenv(name, SECRET)
    seen: list[list[str]] = []

    def answer(request: Request) -> str:
        seen.append([name for name, value in os.environ.items() if value == SECRET])
        return "Yes"

    step.run(rows["pope"], FakeEngine(answer))
    step.ask(rows["mmvet"], FakeEngine(answer))
    assert seen == [[]] * 15
    assert [os.environ[name] for name in names] == [SECRET] * 4


def test_only_asking_needs_no_metric(step: Step, pope_row: BenchmarkTask) -> None:
    receipt = step.ask(pope_row.model_copy(update={"metric": "none"}), FakeEngine(lambda _: "Yes"))
    assert (receipt["n"], receipt["n_failed"]) == (12, 0)


def test_wrong_input_is_named(step: Step, pope_row: BenchmarkTask) -> None:
    with pytest.raises(BenchmarkError, match="--limit 0"):
        step.run(pope_row, FakeEngine(lambda _: "Yes"), None, "--limit", "0")
    bad = step.folder / "bad.json"
    bad.write_text('{"lmms_task": "pope"}', encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"bad\.json: description: Field required"):
        step.run(pope_row, FakeEngine(lambda _: "Yes"), None, "--task", str(bad))
