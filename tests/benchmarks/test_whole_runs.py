"""The step itself, `benchmarks.run`, with the tiny model: every benchmark, a kill, failures, and a judge that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.conftest import MODEL_ROW, SECRET, FakeEngine, configured_rows, right_of, says, shown_in
from benchmarks.fixtures import Fixture
from safe_llava.benchmarks import run
from safe_llava.benchmarks.scoring.units import read_units
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.prism import Judge
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import read_jsonl
from safe_llava.engine.base import Engine, Request


class Step:
    """The files of one run, and its command line."""

    def __init__(self, folder: Path, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.data, self.model, self.monkeypatch = folder, data, model, monkeypatch
        self.opened: list[Any] = []

    def run(self, task: BenchmarkTask, engine: Any, judge: Judge | None = None, *more: str) -> dict[str, Any]:
        """Ask and score in one run, and return its results."""
        self._main(task, engine, judge, "--model", str(self.model), *self._written(), *more)
        return self.results()

    def ask(self, task: BenchmarkTask, engine: Any, *more: str) -> dict[str, Any]:
        """Ask only, and return the receipt."""
        self._main(task, engine, None, "--model", str(self.model), "--answers-only", str(self.receipt), *more)
        receipt: dict[str, Any] = json.loads(self.receipt.read_text(encoding="utf-8"))
        return receipt

    def judge(self, task: BenchmarkTask, judge: Judge, *more: str) -> dict[str, Any]:
        """Have the answers judged that were asked for before, and return the results."""
        engine = FakeEngine(lambda _: pytest.fail("asked"))
        self._main(task, engine, judge, "--answered", str(self.receipt), *self._written(), *more)
        return self.results()

    @property
    def store(self) -> Path:
        return self.folder / "kept" / "replies.jsonl"

    @property
    def receipt(self) -> Path:
        return self.folder / "results" / "answers.json"

    def _written(self) -> list[str]:
        names = {"results": "results.json", "samples": "samples.jsonl", "units": "units.csv"}
        names["submission"] = "submission.json"
        return [f"--{flag}={self.folder / 'results' / name}" for flag, name in names.items()]

    def _main(self, task: BenchmarkTask, engine: Any, judge: Judge | None, *more: str) -> None:
        opened = lambda _, row, **__: self.opened.append(row) or engine  # noqa: E731
        self.monkeypatch.setattr(run, "open_engine", opened)
        files = {"--row": json.dumps(MODEL_ROW), "--task": task.model_dump_json()}
        arguments = ["--name", "tiny", "--benchmark", "b", "--data", str(self.data)]
        for flag, text in files.items():
            path = self.folder / f"{flag.strip('-')}.json"
            path.write_text(text, encoding="utf-8")
            arguments += [flag, str(path)]
        if judge is not None:
            arguments += ["--judge-row", judge.model_dump_json()]
            arguments += ["--judge", "j", "--judge-store", str(self.folder / "kept" / "j")]
        run.main([*arguments, "--partial", str(self.store), "--device", "cpu", *more])

    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results" / "results.json").read_text(encoding="utf-8"))

    def samples(self) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / "results" / "samples.jsonl")


@pytest.fixture
def step(tmp_path: Path, data: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    yield Step(tmp_path, data, tiny_model, monkeypatch)


def short(task: BenchmarkTask) -> BenchmarkTask:
    """Return a row whose answers are a few tokens: a random model does not end by itself."""
    return task.model_copy(update={"overrides": {**task.overrides, "generation_kwargs": {"max_new_tokens": 3}}})


@pytest.mark.parametrize("name", sorted(configured_rows()))
def test_every_benchmark_runs_with_the_tiny_model(
    name: str, step: Step, rows: dict[str, BenchmarkTask], tiny_engine: Engine, judge_row: Callable[..., Judge]
) -> None:
    task = rows[name]
    results = step.run(short(task), tiny_engine, judge_row() if task.judged else None)
    assert results["n_failed"] == results["failed"] == 0
    assert results["n"] == len(step.samples()) > 2
    if task.submission:
        assert results["submitted"] == results["n"]
        assert results["metrics"] == {}
        return
    assert 0 <= results["metrics"][task.metric]["score"] <= 400
    assert results["metrics"][task.metric]["stderr"] is not None
    units = read_units(step.folder / "results" / "units.csv")
    assert units[task.metric].score() == pytest.approx(results["metrics"][task.metric]["score"], abs=0.06)
    assert step.opened[0].cut_at_newline is False, "the cut of answers belongs to PRISM"
    assert step.opened[0].image_size is None


def test_a_killed_run_goes_on(step: Step, pope_row: BenchmarkTask, fixtures: dict[str, Fixture]) -> None:
    right = right_of(fixtures["pope"])

    def killed(request: Request) -> str:
        if shown_in(request) == 4:  # the engine answers from the last to the first
            raise KeyboardInterrupt
        return right(request)

    with pytest.raises(KeyboardInterrupt):
        step.run(pope_row, FakeEngine(killed))
    assert not (step.folder / "results" / "results.json").exists()
    second = FakeEngine(right)
    results = step.run(pope_row, second)
    assert sorted(shown_in(request) for request in second.asked) == [0, 1, 2, 3, 4]
    assert results["metrics"]["pope_accuracy"]["score"] == 100.0
    third = FakeEngine(lambda _: pytest.fail("asked again"))
    assert step.run(pope_row, third)["metrics"] == results["metrics"]
    assert [path.name for path in (step.folder / "results").iterdir() if path.name.startswith(".")] == []


def test_another_prompt_or_budget_is_asked_anew(step: Step, pope_row: BenchmarkTask) -> None:
    engine = FakeEngine(lambda _: "Yes")
    step.run(pope_row, engine)
    step.run(short(pope_row), engine)
    assert len(engine.asked) == 24


def test_a_failure_is_no_score_and_is_asked_again(
    step: Step, pope_row: BenchmarkTask, fixtures: dict[str, Fixture]
) -> None:
    right = right_of(fixtures["pope"])
    results = step.run(pope_row, FakeEngine(lambda request: None if shown_in(request) in (3, 7) else right(request)))
    assert (results["metrics"], results["n"], results["n_failed"], results["failed"]) == ({}, 10, 2, 2)
    assert [(row["doc_id"], row["status"], row["reason"]) for row in step.samples()] == [
        (3, "failed", "out of paper"),
        (7, "failed", "out of paper"),
    ]
    again = FakeEngine(right)
    results = step.run(pope_row, again, None, "--retry", "2 failed, 1")
    assert sorted(shown_in(request) for request in again.asked) == [3, 7]
    assert (results["metrics"]["pope_f1_mean"]["score"], results["failed"], results["retry"]) == (100, 0, "2 failed, 1")


def test_a_share_may_be_missing_where_the_configuration_says_so(
    step: Step, rows: dict[str, BenchmarkTask], fixtures: dict[str, Fixture]
) -> None:
    """One of a pair of MME has no answer: both are left out, and three pairs count."""
    right = right_of(fixtures["mme"])
    engine = FakeEngine(lambda request: None if shown_in(request) == 1 else right(request))
    results = step.run(rows["mme"], engine, None, "--allow-failed", "0.2")
    assert (results["n"], results["n_failed"], results["failed"]) == (6, 1, 1)
    assert results["metrics"]["mme_perception_score"]["score"] == 400.0
    assert [(row["doc_id"], row["status"], row["reason"]) for row in step.samples() if row["status"] != "ok"] == [
        (0, "left out", "another question of its unit failed"),
        (1, "failed", "out of paper"),
    ]
    units = read_units(step.folder / "results" / "units.csv")["mme_perception_score"]
    assert (units.names, units.left_out) == (("existence/2.png", "count/1.png"), ("existence/1.png",))


def test_results_say_how_a_score_came_about_and_not_what_was_published(step: Step, pope_row: BenchmarkTask) -> None:
    found = step.run(pope_row, FakeEngine(lambda _: "Yes"))["task"]
    assert (found["lmms_task"], found["metric"], found["more_metrics"]) == ("pope", "pope_f1_mean", ["pope_accuracy"])
    assert found.keys().isdisjoint({"published", "noise", "comparable", "note", "published_judge", "description"})


def test_where_nothing_was_answered_nothing_is_written(step: Step, pope_row: BenchmarkTask) -> None:
    with pytest.raises(BenchmarkError, match="12 of 12 questions have no answer"):
        step.run(pope_row, FakeEngine(lambda _: None), None, "--allow-failed", "1")
    assert not (step.folder / "results" / "results.json").exists()


@pytest.mark.parametrize("name", ["mmvet", "llava-bench", "mmbench"])
@pytest.mark.parametrize("fault", [400, "I would rather not say.", ""])
def test_a_judge_that_fails_is_no_score_and_is_asked_again(
    name: str, fault: Any, step: Step, rows: dict[str, BenchmarkTask], judge_row: Callable[..., Judge]
) -> None:
    """What lmms-eval makes of it: 0.0, a review of -1, an option drawn by lot."""
    broken = True

    def reply(prompt: str, nth: int) -> Any:
        hit = any(words in prompt for words in ("equation 1", "scene 1", "shown in 1"))
        return fault if broken and hit else says(prompt)

    judge, engine = judge_row(reply, retries=0), FakeEngine(lambda _: "Some fine words.")
    first = step.run(rows[name], engine, judge)
    assert (first["metrics"], first["n_judge_failed"], first["failed"]) == ({}, 1, 1)
    questions = first["judging"]["calls"]
    assert first["judging"]["asked"] == questions > 2
    assert {row["status"] for row in step.samples()} == {"not judged"}
    assert [row["scores"] for row in step.samples()] == [{}] * first["n"]
    kept = [path.read_text() for path in (step.folder / "kept" / "j").glob("*.failures.jsonl")]
    # Every reply that was paid for is kept, those that cannot be read too.
    assert {json.loads(line)["raw"] for text in kept for line in text.splitlines()} == {None if fault == 400 else fault}
    broken = False
    second = step.run(rows[name], FakeEngine(lambda _: pytest.fail("asked again")), judge)
    assert second["judging"]["asked"] == 1
    assert second["judging"]["models"] == ["judge-1-0613"]
    assert (second["judging"]["calls"], second["failed"]) == (questions, 0)
    assert {row["status"] for row in step.samples()} == {"ok"}
    assert name != "mmvet" or [row["scores"] for row in step.samples()] == [{"gpt_eval_score": 1.0}] * 3
    expected = {"mmvet": 100.0, "llava-bench": 112.5, "mmbench": 0.0}
    assert second["metrics"][rows[name].metric]["score"] == pytest.approx(expected[name])
    everything = b"".join(path.read_bytes() for path in step.folder.rglob("*") if path.is_file())
    assert SECRET.encode() not in everything


def test_a_judge_that_the_benchmark_does_not_wait_for_is_no_score(
    step: Step, rows: dict[str, BenchmarkTask], judge_row: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMBench's own code gives up after 15 tries of 30 s, here of a tenth of one, and draws an option by lot."""
    from lmms_eval.tasks.mmbench import mmbench_evals

    post, ready = mmbench_evals.requests.post, threading.Event()
    hurried = SimpleNamespace(post=lambda url, **named: post(url, **{**named, "timeout": 0.1}))
    judge = judge_row(lambda prompt, nth: says(prompt) if ready.wait(60) else 500, patience_s=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(mmbench_evals, "requests", hurried)
        patched.setattr(mmbench_evals, "time", SimpleNamespace(sleep=lambda seconds: None))
        first = step.run(rows["mmbench"], FakeEngine(lambda _: "Some fine words."), judge)
    ready.set()
    assert first["metrics"] == {}
    assert first["failed"] == first["n_judge_failed"] > 2
    second = step.run(rows["mmbench"], FakeEngine(lambda _: pytest.fail("asked again")), judge)
    assert (second["metrics"]["gpt_eval_score"]["score"], second["failed"]) == (0.0, 0)


def test_a_judge_that_is_not_named_or_has_no_key(
    step: Step, rows: dict[str, BenchmarkTask], judge_row: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchmarkError, match="mmvet is read by a judge"):
        step.run(rows["mmvet"], FakeEngine(lambda _: "A"))
    judge = judge_row()
    monkeypatch.delenv("TEST_JUDGE_KEY")
    with pytest.raises(Exception, match="TEST_JUDGE_KEY"):
        step.run(rows["mmvet"], FakeEngine(lambda _: "A"), judge)
