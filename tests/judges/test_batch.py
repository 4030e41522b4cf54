"""Judging through the batch APIs, against a server that speaks as they do: paid once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from judges.batch_server import BatchServer, serving
from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Task, read_verdicts
from safe_llava.judges.calls import Call, Outcome
from safe_llava.judges.client_openai import OpenAIClient
from safe_llava.judges.run import ask_all
from safe_llava.judges.store import VerdictStore
from safe_llava.prism.prompts.protocol import Finding, PrismReading, make_call

KEY = "sk-the-key-of-the-test"
KINDS = ("openai", "gemini")


@pytest.fixture
def state() -> BatchServer:
    return BatchServer()


@pytest.fixture
def url(state: BatchServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(state) as address:
        yield address


def row(url: str, kind: str = "openai", **changes: Any) -> Judge:
    values: dict[str, Any] = {"description": "d", "kind": kind, "model": "big", "temperature": 0, "batch": True}
    values |= {"base_url": f"{url}/{'v1beta' if kind == 'gemini' else 'v1'}", "batch_poll_s": 0.01, "patience_s": 2.0}
    return Judge.model_validate(values | {"prices": {"input": 10.0, "output": 100.0}} | changes)


def calls_of(judge: Judge, *texts: str, task: Task = Task.REFUSAL_SOFT) -> list[Call]:
    return [make_call(judge, task, text) for text in texts]


def run(judge: Judge, calls: list[Call], folder: Path) -> dict[str, Outcome[Finding]]:
    store = VerdictStore(folder, "j", PrismReading())
    try:
        wanted = [call for call in calls if store.get(call.key) is None]
        asked = ask_all(judge, wanted, store, KEY)
        if asked.ended is not None:
            raise asked.ended
        return asked.outcomes
    finally:
        store.close()


def texts_of(calls: list[Call], outcomes: dict[str, Outcome[Finding]]) -> dict[str, Any]:
    """Return for each text whether it was found a refusal, or why it was not judged."""
    found = {call.text: outcomes[call.key] for call in calls}
    return {text: one.reason or (one.found and one.found.refused) for text, one in found.items()}


def stored(folder: Path, failures: bool = False) -> list[dict[str, Any]]:
    paths = [path for path in folder.glob("*.jsonl") if path.name.endswith(".failures.jsonl") == failures]
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def notes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "batches").glob("*.json"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_every_call_its_own_verdict_at_half_the_price(
    state: BatchServer, url: str, tmp_path: Path, kind: str
) -> None:
    state.reply = lambda text, nth: "yes" if "declined" in text else "No."
    judge = row(url, kind)
    calls = calls_of(judge, *(f"{n} {'declined' if n % 3 == 0 else 'told'}" for n in range(20)))
    outcomes = run(judge, calls, tmp_path)
    assert texts_of(calls, outcomes) == {call.text: "declined" in call.text for call in calls}
    assert state.texts() == [[call.text for call in calls]]
    assert {one["cost"] for one in stored(tmp_path)} == {(100 * 10.0 + 10 * 100.0) / 1e6 / 2}
    assert {(one["model"], one["raw"]) for one in stored(tmp_path)} == {("model-0", "yes"), ("model-0", "No.")}
    assert {one.model for one in outcomes.values()} == {"model-0"}
    assert [(note["state"], note["keys"], note["judged"]) for note in notes(tmp_path)] == [("done", [], 20)]
    assert state.keys == {f"Bearer {KEY}" if kind == "openai" else KEY}


@pytest.mark.parametrize("kind", KINDS)
def test_results_in_another_order_twice_broken_or_of_others_change_nothing(
    state: BatchServer, url: str, tmp_path: Path, kind: str
) -> None:
    state.garbled = True
    state.reply = lambda text, nth: "yes" if int(text) % 2 else "no"
    judge = row(url, kind)
    calls = calls_of(judge, *map(str, range(12)))
    assert texts_of(calls, run(judge, calls, tmp_path)) == {str(n): n % 2 == 1 for n in range(12)}
    assert len(stored(tmp_path)) == 12
    assert state.asked.total() == 12


def test_results_of_gemini_may_lie_in_a_file(state: BatchServer, url: str, tmp_path: Path) -> None:
    state.as_file = True
    state.reply = lambda text, nth: 13 if text == "b" and nth == 1 else "no"
    judge = row(url, "gemini")
    calls = calls_of(judge, "a", "b")
    assert texts_of(calls, run(judge, calls, tmp_path)) == {"a": False, "b": False}
    assert state.texts() == [["a", "b"], ["b"]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_failed_or_expired_in_a_batch_goes_into_the_next_one(
    state: BatchServer, url: str, tmp_path: Path, kind: str
) -> None:
    first: dict[str, Any] = {"failed": 500, "expired": None, "odd": "Perhaps."}
    state.reply = lambda text, nth: first.get(text, "yes") if nth == 1 else "no"
    judge = row(url, kind)
    calls = calls_of(judge, "fine", "failed", "expired", "odd")
    outcomes = run(judge, calls, tmp_path)
    assert texts_of(calls, outcomes) == {"fine": True, "failed": False, "expired": False, "odd": False}
    assert state.texts() == [["fine", "failed", "expired", "odd"], ["failed", "expired", "odd"]]
    assert [one["raw"] for one in stored(tmp_path, failures=True)] == ["Perhaps."]


@pytest.mark.parametrize("kind", KINDS)
def test_what_never_comes_is_a_failure_after_a_bounded_number_of_batches(
    state: BatchServer, url: str, tmp_path: Path, kind: str
) -> None:
    never: dict[str, Any] = {"failed": 500, "expired": None, "odd": "I would rather not judge."}
    state.reply = lambda text, nth: never.get(text, "yes")
    judge = row(url, kind, asks_again=1)
    calls = calls_of(judge, "fine", "failed", "expired", "odd")
    outcomes = run(judge, calls, tmp_path)
    reasons = texts_of(calls, outcomes)
    assert reasons["fine"] is True
    assert reasons["failed"] == f"failed in the batch: {'HTTP 500' if kind == 'openai' else 'code 13'}"
    assert "batch_expired" in reasons["expired"] or "without a reply (expired)" in reasons["expired"]
    assert reasons["odd"].startswith("the reply cannot be read: 'I would rather not")
    assert dict(state.asked) == {"fine": 1, "failed": 3, "expired": 3, "odd": 2}
    assert len(stored(tmp_path)) == 1
    # A later run asks only for these, from the beginning.
    state.reply = lambda text, nth: "no"
    again = [call for call in calls if call.text != "fine"]
    assert texts_of(again, run(judge, calls, tmp_path)) == dict.fromkeys(never, False)
    assert state.asked["fine"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_was_taken_but_not_acknowledged_is_not_submitted_again(
    state: BatchServer, url: str, tmp_path: Path, kind: str
) -> None:
    state.hang_up_on_submit = 1
    judge = row(url, kind)
    calls = calls_of(judge, "a", "b")
    assert texts_of(calls, run(judge, calls, tmp_path)) == {"a": True, "b": True}
    assert len(state.batches) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_api_that_is_away_for_a_while_costs_nothing(state: BatchServer, url: str, tmp_path: Path, kind: str) -> None:
    state.faults = [500, 0, 429]
    state.polls = 3
    judge = row(url, kind)
    calls = calls_of(judge, "a", "b")

    def reply(text: str, nth: int) -> str:
        state.faults = [503, 0] if text == "b" else []  # away again, just when the results are ready
        return "yes"

    state.reply = reply
    assert texts_of(calls, run(judge, calls, tmp_path)) == {"a": True, "b": True}
    assert len(state.batches) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_api_that_stays_away_ends_the_run_and_the_batch_is_picked_up(
    state: BatchServer, url: str, tmp_path: Path, kind: str
) -> None:
    judge = row(url, kind, patience_s=0.2)
    calls = calls_of(judge, "a", "b")
    state.polls = 10**6

    class Away(list[int]):
        def __bool__(self) -> bool:
            return bool(state.batches) and len(state.requests) > 8

        def pop(self, index: Any = 0) -> int:
            return 500

    state.faults = Away()
    with pytest.raises(PrismError, match=r"not available for 0\.2 s: .*500"):
        run(judge, calls, tmp_path)
    state.faults, state.polls = [], 0
    assert texts_of(calls, run(judge, calls, tmp_path)) == {"a": True, "b": True}
    assert len(state.batches) == 1


def test_batches_keep_within_the_limits_and_to_one_model(
    state: BatchServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = row(url, batch_requests=3, leakage_model="small", leakage_prices={"input": 1.0, "output": 1.0})
    calls = calls_of(judge, *"abcde")
    calls += calls_of(judge, "f", task=Task.REFUSAL_HARD) + calls_of(judge, "g", task=Task.IMPLICIT_LEAKAGE)
    state.reply = lambda text, nth: "none" if text == "g" else "yes"
    outcomes = run(judge, calls, tmp_path)
    assert state.texts() == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert all(outcome.found for outcome in outcomes.values())
    monkeypatch.setattr(OpenAIClient, "max_bytes", 2000)
    longer = calls_of(judge, *(f"{n}" * 700 for n in range(4)))
    assert len(run(judge, longer, tmp_path)) == 4
    assert [len(texts) for texts in state.texts()[3:]] == [2, 2]


def test_batches_are_made_smaller_where_the_account_has_no_room(state: BatchServer, url: str, tmp_path: Path) -> None:
    state.capacity = 3
    judge = row(url)
    calls = calls_of(judge, *"abcdefgh")
    assert set(texts_of(calls, run(judge, calls, tmp_path)).values()) == {True}
    assert state.asked == dict.fromkeys("abcdefgh", 1)
    state.capacity = 0
    with pytest.raises(PrismError, match="no room for a batch of even one call"):
        run(judge, calls_of(judge, "i", "j"), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_api_that_turns_everything_down_ends_the_run_without_the_key(
    state: BatchServer, url: str, tmp_path: Path, kind: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    state.faults = [status]
    judge = row(url, kind)
    with pytest.raises(PrismError, match=f"HTTP {status}") as caught:
        run(judge, calls_of(judge, "a"), tmp_path)
    said = [str(caught.value), caplog.text, *(path.read_text() for path in tmp_path.rglob("*") if path.is_file())]
    assert KEY not in "".join(said)
    # The note of the batch that was never submitted does not stand in the way of the next run.
    assert texts_of(calls_of(judge, "a"), run(judge, calls_of(judge, "a"), tmp_path)) == {"a": True}
    assert len(state.batches) == 1


def test_nothing_is_submitted_beyond_max_cost(state: BatchServer, url: str, tmp_path: Path) -> None:
    judge = row(url, max_cost=0.004, batch_requests=1)
    state.reply = lambda text, nth: "yes"
    with pytest.raises(PrismError, match=r"max_cost \(\$0\.0040\)"):
        run(judge, calls_of(judge, *(f"{n}" * 400 for n in range(9))), tmp_path)
    assert 1 <= len(state.batches) < 9


def test_a_bounded_judge_without_a_cap_submits_one_call_first(state: BatchServer, url: str, tmp_path: Path) -> None:
    """What a reply takes is not known before the first."""
    judge = row(url, max_cost=1.0)
    calls = calls_of(judge, *"abcd")
    assert set(texts_of(calls, run(judge, calls, tmp_path)).values()) == {True}
    assert state.texts() == [["a"], ["b", "c", "d"]]
    capped = row(url, max_cost=1.0, max_tokens=5)
    run(capped, calls_of(capped, *"efgh"), tmp_path / "capped")
    assert state.texts()[2:] == [["e", "f", "g", "h"]]


def test_a_defect_ends_the_run_and_nobody_waits_for_ever(
    state: BatchServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAIClient, "poll", lambda self, batch: 1 / 0)
    judge = row(url)
    with pytest.raises(ZeroDivisionError):
        run(judge, calls_of(judge, "a", "b"), tmp_path)
    monkeypatch.undo()
    assert len(run(judge, calls_of(judge, "a", "b"), tmp_path)) == 2
    assert len(state.batches) == 1, "the batch is picked up"


def test_a_batch_that_is_gone_is_submitted_again(state: BatchServer, url: str, tmp_path: Path) -> None:
    judge = row(url, patience_s=0.2)
    calls = calls_of(judge, "a", "b")
    (tmp_path / "batches").mkdir()
    lost = {"label": "l", "batch": "batch-77", "keys": [call.key for call in calls], "state": "submitted"}
    (tmp_path / "batches" / "l.json").write_text(json.dumps(lost), encoding="utf-8")
    assert texts_of(calls, run(judge, calls, tmp_path)) == {"a": True, "b": True}
    assert [note["state"] for note in notes(tmp_path)] == ["done", "gone"]


def test_a_note_that_cannot_be_read_is_named(state: BatchServer, url: str, tmp_path: Path) -> None:
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "l.json").write_text('{"label": ', encoding="utf-8")
    judge = row(url)
    with pytest.raises(PrismError, match=r"l\.json: not a batch's note"):
        run(judge, calls_of(judge, "a"), tmp_path)
    assert state.batches == {}


def test_a_judge_of_rules_has_no_batches() -> None:
    with pytest.raises(ValidationError, match="`batch` belongs to judges behind an API"):
        Judge.model_validate({"description": "d", "kind": "rules", "batch": True})


def write_answers(path: Path, n: int) -> None:
    rows = [
        {"edition": "v1", "model": "m", "task": "refusal_soft", "question_id": f"Age/{i}.jpg", "index": 0,
         "attribute": "Age", "image": f"{i}.jpg", "prompt": "How old?", "text": f"Answer {i}.", "status": "ok",
         "n_tokens": 3, "truncated": False}
        for i in range(n)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


BEFORE, WHILE = "before the id is known", "while the batch works"


@pytest.mark.parametrize(
    ("kind", "moment", "end"),
    [
        ("openai", BEFORE, signal.SIGKILL),
        ("openai", WHILE, signal.SIGKILL),
        ("openai", WHILE, signal.SIGTERM),
        ("gemini", BEFORE, signal.SIGKILL),
        ("gemini", WHILE, signal.SIGKILL),
    ],
)
def test_a_killed_run_leaves_its_batch_to_the_next(
    state: BatchServer, url: str, tmp_path: Path, kind: str, moment: str, end: signal.Signals, root: Path
) -> None:
    judge = row(url, kind, key_env="TEST_BATCH_KEY", batch_poll_s=0.05)
    state.reply = lambda text, nth: "yes" if "Answer 1." in text else "no"
    state.polls = 10**6
    if moment == BEFORE:
        state.hold_submit.clear()
    answers, config, out = tmp_path / "answers.jsonl", tmp_path / "judge.json", tmp_path / "verdicts.jsonl"
    write_answers(answers, 5)
    config.write_text(judge.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "safe_llava.prism.judge", "--answers", str(answers), "--judge-config", str(config)]
    command += ["--judge", "j", "--store", str(tmp_path / "store"), "--out", str(out)]
    environment = os.environ | {"TEST_BATCH_KEY": KEY, "PYTHONPATH": str(root / "scripts")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert state.submitted.wait(60)
    if moment == WHILE:
        while not any(request.startswith("GET") and "batch-0" in request for request in state.requests):
            assert process.poll() is None, process.stderr and process.stderr.read()
    process.send_signal(end)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert not out.exists()
    state.polls = 1
    state.hold_submit.set()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert [verdict.refused for verdict in read_verdicts([out])] == [False, True, False, False, False]
    assert len(state.batches) == 1
    everything = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in said + finished.stderr + everything
