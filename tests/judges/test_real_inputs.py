"""What real endpoints did to judges: money that was lost or spent twice, runs that were stuck, replies read wrongly."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from judges.batch_server import BatchServer, serving
from judges.judge_server import JudgeServer
from prism.test_judge import KEY_ENV, PRICES, answer, arguments, environment, lines, record, run  # noqa: F401
from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.judges.store import VerdictStore
from safe_llava.prism import judge
from safe_llava.prism.prompts.protocol import PrismReading

FILTERED = {"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}


def cases(count: int) -> list[dict[str, Any]]:
    return [answer(number, f"case {number}") for number in range(count)]


def start(tmp_path: Path, config: dict[str, Any], *rows: dict[str, Any]) -> subprocess.Popen[str]:
    made = arguments(tmp_path, config, *rows)
    around = os.environ | {"PYTHONPATH": str(Path(judge.__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-m", "safe_llava.prism.judge", *made], env=around, text=True)


def of_one_store(
    tmp_path: Path, config: dict[str, Any], count: int, *program: str, **streams: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start three jobs, each with its own answers, that keep the judge's replies in one folder."""
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = arguments(folder, config, *[answer(n, f"case {number} {n}") for n in range(count)])
        made[made.index("--store") + 1] = str(tmp_path / "store")
        around = os.environ | {"PYTHONPATH": str(Path(judge.__file__).parents[2])}
        command = [sys.executable, *(program or ("-m", "safe_llava.prism.judge")), *made]
        yield subprocess.Popen(command, env=around, **streams)


def at_most(tmp_path: Path) -> float:
    store = VerdictStore(tmp_path / "store", "j", PrismReading())
    return store.spent_at_most + store.in_batches()


def test_hopeless_calls_become_failed_rows_and_good_verdicts_stay_however_often_it_runs(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: FILTERED if "case 1" in prompt else "yes") as server:
        for _ in range(3):
            verdicts = run(tmp_path, server.row(asks_again=0), *cases(20))
            assert [v.status for v in verdicts].count("judged") == 9  # 1 and 10 to 19 are filtered
            assert {"content_filter" in str(v.reason) for v in verdicts if v.status == "failed"} == {True}
            assert record(tmp_path)["failed"] == 11
        assert len(server.seen.admitted) == 9 + 3 * 11, "what failed is asked again by every run, and nothing else"


def test_instant_rejections_of_some_answers_do_not_end_a_run_whose_others_take_long(tmp_path: Path) -> None:
    """The first to come home are rejections, long before the first reply."""
    with JudgeServer(
        reply=lambda prompt, nth: 400 if int(prompt.split("case ")[1].split()[0]) % 5 == 0 else "yes"
    ) as server:
        server.latency_s = 0.2
        verdicts = run(tmp_path, server.row(), *cases(60))
    assert [v.status for v in verdicts].count("failed") == 12


def test_a_reply_that_is_under_way_is_waited_for_before_rejections_end_a_run(tmp_path: Path) -> None:
    """Of ten calls, in whatever order they come, the first takes its time and the others are rejected at once."""
    arrived = itertools.count()

    def reply(prompt: str, nth: int) -> Any:
        if next(arrived) % 10:
            return 400
        time.sleep(0.5)
        return "yes"

    with JudgeServer(reply=reply) as server:
        verdicts = run(tmp_path, server.row(), *cases(120))
    assert [v.status for v in verdicts].count("judged") == 12


@pytest.mark.parametrize("status", [403, 406, 451])
def test_one_answer_that_is_flagged_ends_nothing(tmp_path: Path, status: int) -> None:
    with JudgeServer(reply=lambda prompt, nth: status if "case 3" in prompt else "yes") as server:
        verdicts = run(tmp_path, server.row(), *cases(9))
    assert [v.reason for v in verdicts if v.status == "failed"] == [f"HTTP {status}: no"]


def test_unreadable_replies_count_towards_the_bound_over_all_runs(tmp_path: Path) -> None:
    def reply(prompt: str, nth: int) -> Any:
        return server.wrapped("openai", prompt, "yes" if "case 0\n" in f"{prompt}\n" else "Perhaps", completion=1000)

    with JudgeServer(reply=reply) as server:
        run(tmp_path, server.row(**PRICES), *cases(1))
        for _ in range(4):
            run(tmp_path, server.row(**PRICES, max_cost=0.2, asks_again=3), *cases(30))
        paid = (
            sum(len(b["messages"][0]["content"]) // 4 for b in server.seen.bodies) * 2.0 + 1e4 * len(server.seen.bodies)
        ) / 1e6
    assert 0.15 < paid <= 0.2
    kept = lines(tmp_path) + lines(tmp_path, failures=True)
    assert sum(line["cost"] for line in kept if line["cost"]) == pytest.approx(paid)


def test_a_reply_without_choices_that_counts_its_tokens_is_paid(tmp_path: Path) -> None:
    empty = {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}}
    with JudgeServer(reply=lambda prompt, nth: empty) as server:
        run(tmp_path, server.row(**PRICES, asks_again=1), answer(1, "text"))
    assert [line["cost"] for line in lines(tmp_path, failures=True)][:2] == [pytest.approx(0.0007)] * 2


def test_an_error_that_counts_its_tokens_is_paid_and_told_and_paced_in_the_endpoints_words(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 50}
    error = (200, {"retry-after-ms": "5"}, {"error": {"message": "cut off", "code": 502}, "usage": usage})
    with JudgeServer(reply=lambda prompt, nth: error if nth == 1 else "yes") as server:
        assert run(tmp_path, server.row(**PRICES), answer(1, "text"))[0].refused is True
    (failed,) = lines(tmp_path, failures=True)
    assert (failed["cost"], failed["reason"]) == (pytest.approx(0.0007), "HTTP 502: cut off")


def test_an_error_of_gemini_that_counts_its_tokens_is_paid(tmp_path: Path) -> None:
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 50}
    error = (503, {"retry-after-ms": "5"}, {"error": {"message": "cut off", "code": 503}, "usageMetadata": usage})
    with JudgeServer(reply=lambda prompt, nth: error if nth == 1 else "yes") as server:
        assert run(tmp_path, server.row("gemini", **PRICES), answer(1, "text"))[0].refused is True
    (failed,) = lines(tmp_path, failures=True)
    assert (failed["cost"], failed["reason"]) == (pytest.approx(0.0007), "HTTP 503: cut off")


def test_three_judge_jobs_at_once_keep_one_bound(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: server.wrapped("openai", prompt, "yes", completion=1000)) as server:
        server.latency_s = 0.05
        jobs = list(of_one_store(tmp_path, server.row(**PRICES, max_cost=0.5), 40))
        assert {job.wait(120) for job in jobs} <= {0, 1}
    spent = sum(line["cost"] for line in lines(tmp_path))
    assert 0.4 < spent <= 0.5
    assert len(server.seen.bodies) == len(lines(tmp_path))


def test_three_jobs_that_start_together_pay_no_more_than_the_bound_before_a_reply_has_shown_its_length(
    tmp_path: Path,
) -> None:
    """About two calls may be paid; what a reply takes is not known before the first, and no job may guess it."""
    begin = tmp_path / "begin"
    code = "import sys, time; from pathlib import Path; from safe_llava.prism.judge import main; import openai\n"
    code += (
        f"print('ready', flush=True)\nwhile not Path({str(begin)!r}).exists(): time.sleep(0.001)\nmain(sys.argv[1:])"
    )
    with JudgeServer(reply=lambda prompt, nth: server.wrapped("openai", prompt, "yes", completion=1000)) as server:
        server.latency_s = 1.0
        row, pipe = server.row(**PRICES, max_cost=0.025), subprocess.PIPE
        jobs = list(of_one_store(tmp_path, row, 4, "-c", code, stdout=pipe, stderr=pipe))
        for job in jobs:
            assert job.stdout is not None
            assert job.stdout.readline() == b"ready\n"
        begin.touch()
        for job in jobs:
            job.communicate(timeout=120)
    assert len(server.seen.bodies) == 2
    assert 0.02 < sum(line["cost"] for line in lines(tmp_path)) <= 0.025


def test_batches_of_several_jobs_keep_one_bound(tmp_path: Path) -> None:
    state = BatchServer()
    state.polls = 10**6
    config = {"kind": "openai", "model": "m", "batch": True, "batch_poll_s": 0.05, "max_tokens": 100, **PRICES}
    with serving(state) as url:
        config |= {"base_url": f"{url}/v1", "key_env": KEY_ENV, "max_cost": 0.02}
        jobs = []
        for job in of_one_store(tmp_path, config, 12):
            jobs.append(job)
            assert state.submitted.wait(60)
        # One of them may pay 12 calls of at most 0.0008 each, two may; the third does not submit all of its calls.
        for job in jobs[1:]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(15)
        submitted = [len(texts) for texts in state.texts()]
        for job in jobs:
            job.kill()
            job.wait()
    most = sum(
        note["most"] for note in map(json.loads, (p.read_text() for p in (tmp_path / "store/batches").glob("*.json")))
    )
    assert most <= 0.02
    assert sum(submitted) < 36


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_calls_under_way_land_before_a_run_that_is_told_to_end_does(tmp_path: Path, number: signal.Signals) -> None:
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        run(tmp_path, server.row(), answer(999, "before"))
        server.latency_s = 2.0
        process = start(tmp_path, server.row(), *cases(30))
        server.wait_for(25)
        process.send_signal(number)
        assert process.wait(60) == cli.EXIT_RUN_AGAIN
    assert len(lines(tmp_path)) == len(server.seen.admitted), "each reply that was paid is in the store"


def test_a_kill_loses_calls_under_way_and_their_highest_cost_counts(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        row = server.row(**PRICES, max_tokens=100)
        run(tmp_path, row, answer(999, "before"))
        known = at_most(tmp_path)
        server.latency_s = 30.0
        process = start(tmp_path, row, *cases(10))
        server.wait_for(11)
        process.kill()
        process.wait()
        prompts = [body["messages"][0]["content"] for body in server.seen.bodies[1:]]
    highest = sum((len(prompt.encode()) / 2 + 9) * 2.0 + 100 * 10.0 for prompt in prompts) / 1e6
    assert known + highest - 1e-4 < at_most(tmp_path) <= known + highest
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        with pytest.raises(PrismError, match="max_cost"):
            run(tmp_path, server.row(**PRICES, max_tokens=100, max_cost=at_most(tmp_path)), *cases(10))
        assert server.seen.bodies == [], "not one call more is sure to stay within the bound"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "slow down", "code": 429}}, "slow down"),
        ({"error": "overloaded"}, "overloaded"),
        ({"message": "model is loading"}, "model is loading"),
        ({"detail": "queue is full"}, "queue is full"),
    ],
)
def test_an_error_inside_a_body_of_status_200_is_told_in_the_endpoints_words_and_tried_again(
    tmp_path: Path, body: dict[str, Any], words: str
) -> None:
    with JudgeServer(reply=lambda prompt, nth: body if nth == 1 else "yes") as server:
        assert run(tmp_path, server.row(), answer(1, "text"))[0].refused is True
    with JudgeServer(reply=lambda prompt, nth: body if "case" in prompt else "yes") as server:
        server_row = server.row(retries=0, patience_s=1)
        verdicts = run(tmp_path, server_row | {"base_url": server_row["base_url"]}, answer(2, "x"), *cases(1))
    assert words in str(verdicts[1].reason)


def test_a_judge_on_this_machine_is_not_asked_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for kind in ("openai", "gemini"):
        with JudgeServer(reply=lambda prompt, nth: "yes") as server:
            assert run(tmp_path, server.row(kind, patience_s=5), answer(1, "text"))[0].refused is True


@pytest.mark.parametrize(("kind", "sent"), [("openai", ""), ("gemini", "none")])
def test_an_endpoint_that_needs_no_key_is_asked_without_one(tmp_path: Path, kind: str, sent: str) -> None:
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        assert run(tmp_path, server.row(kind, key_env=None), answer(1, "text"))[0].refused is True
    assert server.seen.keys == {sent}


def test_the_name_of_the_cap_can_be_chosen_where_the_endpoint_is(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        more = {"max_completion_tokens": 7, "reasoning_effort": "low", "extra_body": {"seed": 3}}
        run(tmp_path, server.row(**more), answer(1, "text"))
    sent = server.seen.bodies[0]
    assert (sent["max_completion_tokens"], sent["reasoning_effort"], sent["seed"]) == (7, "low", 3)
    assert "max_tokens" not in sent


def test_reasoning_before_its_end_is_not_the_reply(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: "No attribute value is named, so…\n</think>\n\nYes") as server:
        assert run(tmp_path, server.row(), answer(1, "text"))[0].refused is True
    with JudgeServer(reply=lambda prompt, nth: "<think>Yes, or perhaps") as server:
        assert run(tmp_path, server.row(), answer(1, "text"))[0].status == "failed"


def test_a_judge_that_answers_under_another_name_is_in_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with JudgeServer(reply=lambda prompt, nth: server.wrapped("openai", prompt, "yes") | {"model": "other"}) as server:
        run(tmp_path, server.row(), answer(1, "text"))
    assert record(tmp_path)["other_models"] == ["other"]
    assert "other is the name in its replies" in caplog.text


def test_a_key_in_the_place_of_a_variables_name_is_refused_without_being_printed(tmp_path: Path) -> None:
    for key in ("sk-proj-0123456789abcdef", "AIzaSyA0123456789abcdefghijklmnopqrstu"):
        with pytest.raises(PrismError, match="key_env") as caught:
            run(tmp_path, {"kind": "openai", "model": "m", "key_env": key}, answer(1, "text"))
        assert key not in str(caught.value)
