"""POPE through lmms-eval's own code, with engines whose scores are known by hand."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import FakeEngine, pope_rows, right, write_pope
from safe_llava.benchmarks import run
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError
from safe_llava.engine.base import Request

ROW = {
    "description": "d",
    "train": "t",
    "family": "llava",
    "new_tokens": {"refusal_soft": 1, "refusal_hard": 1, "implicit_leakage": 1},
    "cut_at_newline": True,
    "image_size": [4, 4],
}


class Place:
    """Files of one run, and its command line."""

    def __init__(self, folder: Path, data: Path, row: BenchmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.data, self.row, self.monkeypatch = folder, data, row, monkeypatch
        self.out, self.samples = folder / "results" / "pope.json", folder / "results" / "pope.jsonl"
        self.rows: list[Any] = []

    def run(self, answer: Callable[[Request], str | None], *more: str) -> FakeEngine:
        engine = FakeEngine(answer)
        self.monkeypatch.setattr(run, "open_engine", lambda _, row, **__: self.rows.append(row) or engine)
        (self.folder / "row.json").write_text(json.dumps(ROW), encoding="utf-8")
        (self.folder / "pope.json").write_text(self.row.model_dump_json(), encoding="utf-8")
        files = {
            "--model": self.folder,
            "--row": self.folder / "row.json",
            "--task": self.folder / "pope.json",
            "--data": self.data,
            "--out": self.out,
            "--samples": self.samples,
        }
        run.main([str(part) for pair in files.items() for part in pair] + ["--name", "tiny", *more])
        return engine

    def results(self) -> dict[str, Any]:
        return json.loads(self.out.read_text(encoding="utf-8"))

    def scores(self) -> dict[str, float]:
        return {name: metric["score"] for name, metric in self.results()["metrics"].items()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches for the network fails at once."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a step of the benchmarks reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def place(tmp_path: Path, pope_data: Path, pope_row: BenchmarkTask, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, pope_data, pope_row, monkeypatch)


def test_always_yes(place: Place) -> None:
    """Five of twelve are yes: accuracy and precision 5/12, recall 1, F1 10/17; by category 2/3, 2/5 and 2/3."""
    engine = place.run(lambda _: "Yes")
    scores = place.scores()
    assert scores["pope_accuracy"] == pytest.approx(100 * 5 / 12)
    assert scores["pope_precision"] == pytest.approx(100 * 5 / 12)
    assert scores["pope_recall"] == pytest.approx(100)
    assert scores["pope_f1_score"] == pytest.approx(100 * 10 / 17)
    assert scores["pope_f1_mean"] == pytest.approx(100 * (2 / 3 + 2 / 5 + 2 / 3) / 3)
    result = place.results()
    assert (result["n"], result["n_failed"], result["model"], result["benchmark"]) == (12, 0, "tiny", "pope")
    # The error of a mean of five ones and seven noughts; F1 is no such mean.
    assert result["metrics"]["pope_accuracy"]["stderr"] == pytest.approx(100 * (5 * 7 / 12 / 11 / 12) ** 0.5)
    assert result["metrics"]["pope_f1_score"]["stderr"] is None
    assert result["metrics"]["pope_precision"]["stderr"] is None, "the same number, but no mean over the questions"
    assert engine.asked[0].max_new_tokens == 128
    assert {len(request.images) for request in engine.asked} == {1}
    assert place.rows[0].cut_at_newline is False, "the cut of answers belongs to PRISM"
    assert place.rows[0].image_size is None
    assert [path.name for path in place.out.parent.iterdir() if path.name.startswith(".")] == []


def test_always_right(place: Place) -> None:
    place.run(right)
    assert set(place.scores()) >= {"pope_accuracy", "pope_f1_score", "pope_f1_mean"}
    assert {place.scores()[name] for name in ("pope_accuracy", "pope_f1_score", "pope_f1_mean")} == {100.0}
    rows = [json.loads(line) for line in place.samples.read_text(encoding="utf-8").splitlines()]
    assert [row["doc_id"] for row in rows] == list(range(12))
    assert [row["reply"].lower() for row in rows] == [row["target"] for row in rows]
    assert rows[3]["prompt"] == (
        "Is there a thing of kind 3 in the image?\nAnswer the question using a single word or phrase."
    )
    assert rows[3]["scores"]["pope_accuracy"] == 1.0


def test_a_limit_is_kept_with_the_result(place: Place) -> None:
    engine = place.run(right, "--limit", "5", "--benchmark", "other")
    assert len(engine.asked) == 5
    assert (place.results()["limit"], place.results()["n"], place.results()["benchmark"]) == (5, 5, "other")


def test_an_answer_that_failed_is_no_score(place: Place) -> None:
    before = Path.cwd()
    with pytest.raises(BenchmarkError, match=r"2 of 12 questions have no answer") as raised:
        place.run(lambda request: None if request.text.split()[6] in ("3", "7") else "Yes")
    assert "pope document 3: out of paper" in str(raised.value)
    assert "pope document 7: out of paper" in str(raised.value)
    assert not place.out.exists()
    assert not place.samples.exists()
    assert Path.cwd() == before


def test_a_picture_that_does_not_decode_is_no_score(place: Place, tmp_path: Path) -> None:
    place.data = write_pope(tmp_path / "broken", pope_rows(broken=4))
    with pytest.raises(BenchmarkError, match=r"pope document 4: unreadable document"):
        place.run(lambda _: "Yes")
    assert not place.out.exists()


def test_a_data_set_that_is_not_there(place: Place, tmp_path: Path) -> None:
    place.data = tmp_path / "nowhere"
    with pytest.raises(BenchmarkError, match="no data set for pope") as raised:
        place.run(right)
    assert "benchmark-pope" in raised.value.remedy


def test_a_data_set_of_another_shape(place: Place, tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("id", "answer", "image")} for row in pope_rows()]
    place.data = write_pope(tmp_path / "other", rows)
    with pytest.raises(BenchmarkError, match=r"pope does not run: KeyError"):
        place.run(right)


def test_a_task_that_lmms_eval_does_not_have(place: Place) -> None:
    place.row = place.row.model_copy(update={"lmms_task": "pope_of_rome"})
    with pytest.raises(BenchmarkError, match="has no task `pope_of_rome`"):
        place.run(right)


@pytest.mark.parametrize(("key", "words"), [("judged", "judge"), ("submission", "server")])
def test_what_others_score_is_refused(place: Place, key: str, words: str) -> None:
    place.row = place.row.model_copy(update={key: True})
    with pytest.raises(BenchmarkError, match=words):
        place.run(lambda _: pytest.fail("asked all the same"))


def test_a_metric_that_the_task_does_not_have(place: Place) -> None:
    place.row = place.row.model_copy(update={"metric": "f2"})
    with pytest.raises(BenchmarkError, match="no metric `f2`") as raised:
        place.run(right)
    assert "pope_accuracy" in raised.value.remedy


def test_a_task_may_be_overridden(place: Place) -> None:
    kwargs = {"lmms_eval_specific_kwargs": {"default": {"pre_prompt": "Well: ", "post_prompt": " Answer."}}}
    place.row = place.row.model_copy(update={"overrides": kwargs})
    engine = place.run(right)
    assert engine.asked[-1].text == "Well: Is there a thing of kind 0 in the image? Answer."


def test_wrong_input_is_named(place: Place) -> None:
    with pytest.raises(BenchmarkError, match="--limit 0"):
        place.run(right, "--limit", "0")
    (place.folder / "bad.json").write_text('{"lmms_task": "pope"}', encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"bad\.json: description: Field required"):
        place.run(right, "--task", str(place.folder / "bad.json"))
