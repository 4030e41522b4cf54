"""Judged benchmarks in two runs: one asks the model, without judge, key or network; one judges, without GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.conftest import FakeEngine, configured_rows, says, shown_in
from benchmarks.test_whole_runs import Step
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.prism import Judge
from safe_llava.core.errors import BenchmarkError
from safe_llava.engine.base import Request

JUDGED = [name for name, task in configured_rows().items() if task.judged]
FINE = "Some fine words."


def as_asked(task: BenchmarkTask) -> BenchmarkTask:
    """Return a row as the workflow asks it: it says nothing of a judge."""
    return task.model_copy(update={"judged": False, "judge_reply": None})


def but(*numbers: int) -> Callable[[Request], str | None]:
    """Answer every question but some."""
    return lambda request: None if shown_in(request) in numbers else FINE


@pytest.fixture
def step(tmp_path: Path, data: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    return Step(tmp_path, data, tiny_model, monkeypatch)


@pytest.fixture
def mmvet(rows: dict[str, BenchmarkTask]) -> BenchmarkTask:
    """A benchmark of which a judge reads every answer."""
    return rows["mmvet"]


@pytest.mark.parametrize("name", JUDGED)
def test_apart_the_scores_are_those_of_one_run(
    name: str,
    step: Step,
    rows: dict[str, BenchmarkTask],
    judge_row: Callable[..., Judge],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The answers come from a GPU (by name); the machine that judges has none."""
    engine, judge = FakeEngine(lambda request: FINE if shown_in(request) % 2 else "A"), judge_row()
    together = Step(tmp_path / "together", step.data, step.model, monkeypatch)
    together.folder.mkdir()
    expected = together.run(rows[name], engine, judge)
    with monkeypatch.context() as without_key:
        for key in ("TEST_JUDGE_KEY", "OPENAI_API_KEY"):
            without_key.delenv(key, raising=False)
        receipt = step.ask(as_asked(rows[name]), engine, "--device", "cuda")
    assert (receipt["n"], receipt["n_failed"], receipt["failed"]) == (expected["n"], 0, 0)
    assert receipt["facts"]["engine"]["device"] == "cuda"
    assert not (step.folder / "results" / "results.json").exists()
    opened = len(step.opened)
    found = step.judge(rows[name], judge)
    assert len(step.opened) == opened == 1
    assert found["metrics"] == expected["metrics"]
    assert found["judging"]["calls"] == expected["judging"]["calls"]
    assert step.samples() == together.samples()
    assert found["provenance"]["model_sha256"] == receipt["facts"]["model"] == expected["provenance"]["model_sha256"]
    assert found["provenance"]["answers"]["engine"] == [{"backend": "fake"}]


def test_asking_calls_no_judge(step: Step, mmvet: BenchmarkTask, judge_row: Callable[..., Judge]) -> None:
    """Not even with a row that names one."""
    prompts: list[str] = []
    judge = judge_row(lambda prompt, nth: prompts.append(prompt) or says(prompt))
    step.ask(mmvet, FakeEngine(but()))
    assert prompts == []
    assert step.judge(mmvet, judge)["judging"]["calls"] == len(prompts) > 2


def test_a_question_without_answer_is_no_score_until_it_is_asked_again(
    step: Step, mmvet: BenchmarkTask, judge_row: Callable[..., Judge]
) -> None:
    judge = judge_row()
    receipt = step.ask(mmvet, FakeEngine(but(1)), "--retry", "")
    assert (receipt["n_failed"], receipt["failed"], receipt["reasons"]) == (1, 1, {"1": "out of paper"})
    found = step.judge(mmvet, judge)
    assert (found["metrics"], found["n"], found["n_failed"]) == ({}, receipt["n"], 1)
    assert found["judging"]["asked"] == 0
    assert [(row["doc_id"], row["reason"]) for row in step.samples()] == [(1, "out of paper")]
    again = FakeEngine(but())
    receipt = step.ask(mmvet, again, "--retry", "1 failed, 7")
    assert [shown_in(request) for request in again.asked] == [1]
    assert (receipt["failed"], receipt["retry"]) == (0, "1 failed, 7")
    found = step.judge(mmvet, judge)
    assert (found["metrics"]["gpt_eval_score"]["score"], found["failed"]) == (100.0, 0)


def test_a_share_of_the_answers_may_be_missing(
    step: Step, mmvet: BenchmarkTask, judge_row: Callable[..., Judge]
) -> None:
    receipt = step.ask(mmvet, FakeEngine(but(1)))
    found = step.judge(mmvet, judge_row(), "--allow-failed", "0.5")
    assert (found["metrics"]["gpt_eval_score"]["score"], found["n"], found["n_failed"]) == (100.0, receipt["n"], 1)
    assert [row["reason"] for row in step.samples() if row["status"] != "ok"] == ["out of paper"]


def test_a_judge_that_fails_is_asked_again_and_the_model_is_not(
    step: Step, mmvet: BenchmarkTask, judge_row: Callable[..., Judge]
) -> None:
    broken = [True]
    judge = judge_row(lambda prompt, nth: 400 if broken and "equation 1" in prompt else says(prompt), retries=0)
    receipt = step.ask(mmvet, FakeEngine(but()))
    first = step.judge(mmvet, judge)
    assert (first["metrics"], first["n_failed"], first["n_judge_failed"], first["failed"]) == ({}, 0, 1, 1)
    broken.clear()
    second = step.judge(mmvet, judge, "--retry", "1 failed, 7")
    assert (second["judging"]["asked"], second["failed"], second["n"]) == (1, 0, receipt["n"])
    assert second["metrics"]["gpt_eval_score"]["score"] == 100.0


def test_an_answer_that_is_not_in_the_store_is_a_failure_that_says_what_to_do(
    step: Step, mmvet: BenchmarkTask, judge_row: Callable[..., Judge]
) -> None:
    step.ask(mmvet, FakeEngine(but()))
    lines = step.store.read_text(encoding="utf-8").splitlines(keepends=True)
    step.store.write_text("".join(lines[1:]), encoding="utf-8")
    found = step.judge(mmvet, judge_row())
    assert (found["metrics"], found["n_failed"], found["judging"]["asked"]) == ({}, 1, 0)
    assert (
        step.samples()[0]["reason"]
        == "not answered: run the answers again (`snakemake benchmarks -R benchmarks_answers`)"
    )
    step.store.unlink()
    with pytest.raises(BenchmarkError, match="not answered: run the answers again"):
        step.judge(mmvet, judge_row())


def test_where_nothing_was_answered_there_is_no_receipt(step: Step, mmvet: BenchmarkTask) -> None:
    with pytest.raises(BenchmarkError, match="questions have no answer"):
        step.ask(mmvet, FakeEngine(lambda _: None))
    assert not step.receipt.exists()


@pytest.mark.parametrize("other", [("--name", "another"), ("--benchmark", "another")])
def test_a_receipt_of_other_answers_is_refused(
    other: tuple[str, str], step: Step, mmvet: BenchmarkTask, judge_row: Callable[..., Judge]
) -> None:
    step.ask(mmvet, FakeEngine(but()))
    with pytest.raises(BenchmarkError, match=r"answers\.json: the answers of tiny to b, not of"):
        step.judge(mmvet, judge_row(), *other)


def test_what_is_to_be_written_is_one_or_the_other(
    step: Step, mmvet: BenchmarkTask, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        step.run(mmvet, FakeEngine(but()), None, "--answers-only", str(step.receipt))
    assert "or else --answers-only" in capsys.readouterr().err
