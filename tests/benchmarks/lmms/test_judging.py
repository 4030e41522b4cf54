"""The endpoint that stands for OpenAI's, and the judge behind it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import SECRET
from judges.judge_server import JudgeServer
from safe_llava.benchmarks.lmms import judging as judging_module
from safe_llava.benchmarks.lmms.endpoint import Endpoint, stands_for_openai
from safe_llava.benchmarks.lmms.judging import BadRequestError, Judging, read_request
from safe_llava.config.prism import Judge
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.judges.calls import RawReply

ASKED = {"model": "gpt-x", "messages": [{"role": "user", "content": "case 1"}], "temperature": 0.0, "max_tokens": 8}


def ask(url: str, token: str, body: Any, path: str = "/chat/completions") -> tuple[int, Any]:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def judging(judge: Judge, folder: Path, pattern: str = ".+") -> Judging:
    return Judging(judge, "j", "mmvet", pattern, folder, SECRET)


def test_a_request_comes_to_the_judge_and_back(judge_row: Callable[..., Judge], tmp_path: Path) -> None:
    with judging(judge_row(lambda prompt, nth: f"reply {nth}"), tmp_path) as one, Endpoint(one, "m") as endpoint:
        assert ask(endpoint.url, "guessed", ASKED)[0] == 401
        status, first = ask(endpoint.url, endpoint.token, ASKED)
        assert status == 200
        assert first["choices"][0]["message"]["content"] == "reply 1"
        assert first["model"] == "judge-1-0613"
        # MMBench posts to the address as it is; an equal request has the same reply.
        assert ask(endpoint.url, endpoint.token, ASKED, "")[1]["choices"] == first["choices"]
        other = ask(endpoint.url, endpoint.token, {**ASKED, "temperature": 0.5})[1]
        assert other["choices"][0]["message"]["content"] == "reply 2"
        assert ask(endpoint.url, endpoint.token, ASKED, "/models")[0] == 404
        assert ask(endpoint.url, endpoint.token, [1])[0] == 400
        assert [text[:8] for text in endpoint.failures()] == ["HTTP 401", "HTTP 404", "HTTP 400"]
        assert (one.describe()["calls"], one.describe()["asked"], one.failures) == (2, 2, {})
    with judging(judge_row("never"), tmp_path) as again:
        assert again.store.total.calls == 2


class Slow:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked, self.told = threading.Semaphore(0), threading.Semaphore(0)

    def reply(self, request: Mapping[str, Any]) -> RawReply:
        self.asked.release()
        assert self.told.acquire(timeout=20)
        return RawReply("1.0", None, "stop", "m")


def leave(endpoint: Endpoint, slow: Slow) -> None:
    """Ask, and go before the reply is there."""
    host, port = endpoint.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("POST", "/v1", json.dumps(ASKED), {"Authorization": f"Bearer {endpoint.token}"})
    assert slow.asked.acquire(timeout=20)
    connection.close()
    wait_until(lambda: endpoint.failures() != [])


def test_a_reply_that_nobody_waited_for_is_a_failure() -> None:
    slow = Slow()
    with Endpoint(slow, "m") as endpoint, ThreadPoolExecutor(1) as pool:
        leave(endpoint, slow)
        assert "did not wait for the reply" in endpoint.failures()[0], "also before it is there"
        leave(endpoint, slow)
        assert len(endpoint.failures()) == 1, "the same, asked again"
        slow.told.release()
        slow.told.release()
        assert len(endpoint.failures()) == 1
        kept = pool.submit(ask, endpoint.url, endpoint.token, ASKED)
        slow.told.release()
        assert kept.result()[0] == 200
        wait_until(lambda: endpoint.failures() == [])


def test_a_reply_that_nobody_waited_for_is_kept_where_it_comes_before_patience_ends(
    judge_row: Callable[..., Judge], tmp_path: Path
) -> None:
    asked, prompts = threading.Event(), list[str]()

    def reply(prompt: str, nth: int) -> str:
        prompts.append(prompt)
        asked.set()
        wait_until(lambda: one._scheduler.ended is not None)
        return "1.0"

    with ThreadPoolExecutor(1) as pool:
        with judging(judge_row(reply, max_concurrency=1), tmp_path) as one:
            pool.submit(one.reply, ASKED)
            assert asked.wait(20)
            waiting = one._run(one._reply({**ASKED, "max_tokens": 9}))
        assert waiting.result() is None, "what was not asked yet is not asked any more"
    assert len(prompts) == 1
    with judging(judge_row("never"), tmp_path) as again:
        keys = [json.loads(line)["key"] for path in again.store.folder.glob("*.jsonl") for line in path.open()]
        assert [kept.found.text for key in keys if (kept := again.store.get(key))] == ["1.0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_calls_under_way_land_before_a_run_that_is_told_to_end_does(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import json, sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from safe_llava.benchmarks.lmms.judging import Judging; from safe_llava.config.prism import Judge\n"
        "row, asked = map(json.loads, sys.argv[1:3])\n"
        "with Judging(Judge.model_validate(row), 'j', 'b', '.+', Path(sys.argv[3]), None) as one:\n"
        "    with ThreadPoolExecutor(2) as pool:\n"
        "        list(pool.map(one.reply, [{**asked, 'max_tokens': 5 + n} for n in range(50)]))\n"
    )
    with JudgeServer(reply=lambda prompt, nth: "1.0") as server:
        server.latency_s = 1.0
        command = [sys.executable, "-c", code, json.dumps(server.row(key_env=None)), json.dumps(ASKED), str(tmp_path)]
        around = os.environ | {"PYTHONPATH": str(Path(judging_module.__file__).parents[3])}
        process = subprocess.Popen(command, env=around)
        server.wait_for(2)
        process.send_signal(number)
        assert process.wait(60) == cli.EXIT_RUN_AGAIN
    (segment,) = tmp_path.glob("*.jsonl")
    assert len(segment.read_bytes().splitlines()) == len(server.seen.admitted) < 20


def test_hours_of_answering_before_the_first_call_are_no_silence_of_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", SECRET)
    with JudgeServer(reply=lambda prompt, nth: "1.0", floods=((0, 0.5),)) as server:
        with judging(Judge.model_validate(server.row(patience_s=60.0)), tmp_path) as one:
            one._scheduler._heard -= 3600.0
            found = one.reply(ASKED)
        assert found is not None and found.text == "1.0"
        assert one.failures == {}
        assert server.seen.rate_limited, "the first call was rate-limited"


def test_what_is_sent_is_the_pinned_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer(reply=lambda prompt, nth: "1.0") as server:
        row = Judge.model_validate(server.row(max_tokens=4))
        with judging(row, tmp_path) as one:
            one.reply(ASKED)
            one.reply({**ASKED, "temperature": 1.5, "n": 1})
        bodies = server.seen.bodies
        assert [(body["model"], body["temperature"], body["max_tokens"]) for body in bodies] == [
            ("judge-1", 0.0, 8),
            ("judge-1", 1.5, 8),
        ]
        assert server.seen.keys == {f"Bearer {SECRET}"}
        untempered = Judge.model_validate(server.row(temperature=None))
        with judging(untempered, tmp_path / "other") as one:
            one.reply(ASKED)
        assert "temperature" not in bodies[-1]
        gemini = Judge.model_validate(server.row(kind="gemini"))
        with judging(gemini, tmp_path / "gemini") as one:
            reply = one.reply(ASKED)
            assert reply is not None
            assert (reply.text, reply.model) == ("1.0", "judge-1-001")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 2}, "sets n"),
        ({"response_format": {"type": "json_object"}}, "sets response_format"),
        ({"messages": []}, "not one message"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not one message"),
    ],
)
def test_what_cannot_be_passed_on_is_a_failure(
    changes: dict[str, Any], words: str, judge_row: Callable[..., Judge], tmp_path: Path
) -> None:
    judge = judge_row("yes")
    with pytest.raises(BadRequestError, match=words):
        read_request(judge, {**ASKED, **changes}, "mmvet")
    with judging(judge, tmp_path) as one:
        assert one.reply({**ASKED, **changes}) is None
        assert words in next(iter(one.failures.values()))


def test_a_reply_that_is_none_is_asked_again_and_then_a_failure(
    judge_row: Callable[..., Judge], tmp_path: Path
) -> None:
    replies = {1: "no number", 2: "0.5"}
    with judging(judge_row(lambda prompt, nth: replies.get(nth, "words")), tmp_path, r"\d\.\d") as one:
        reply = one.reply(ASKED)
        assert reply is not None
        assert reply.text == "0.5"
        assert one.reply({**ASKED, "max_tokens": 9}) is None
        assert list(one.failures.values()) == ["the reply cannot be read: 'words'"]
        assert one.reply({**ASKED, "max_tokens": 9}) is None, "within a run it is not asked again"
        assert one._scheduler.sent == 2


def test_a_judge_that_comes_back_is_waited_for(judge_row: Callable[..., Judge], tmp_path: Path) -> None:
    def reply(prompt: str, nth: int) -> Any:
        return (429, {"retry-after-ms": "20"}, {"error": {"message": "slow"}}) if nth < 3 else 503 if nth < 4 else "1.0"

    with judging(judge_row(reply), tmp_path) as one:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(one.reply, [ASKED] * 4))
        assert [reply.text for reply in found if reply] == ["1.0"] * 4
        assert one._scheduler.sent == 1, "equal requests that come at once are one call"


def test_a_key_that_is_refused_ends_all(judge_row: Callable[..., Judge], tmp_path: Path) -> None:
    counted: list[str] = []
    with judging(judge_row(lambda prompt, nth: counted.append(prompt) or 401), tmp_path) as one:
        for number in range(5):
            assert one.reply({**ASKED, "max_tokens": 10 + number}) is None
        assert len(counted) == 1
        assert len(one.failures) == 5


def test_a_bound_on_the_cost_is_kept(judge_row: Callable[..., Judge], tmp_path: Path) -> None:
    dear = judge_row("1.0", prices={"input": 1.0, "output": 1e5}, max_cost=2.5)
    with judging(dear, tmp_path) as one:
        kept = [one.reply({**ASKED, "max_tokens": 10 + number}) for number in range(9)]
        assert 0 < sum(reply is not None for reply in kept) < 9
        assert "max_cost" in next(iter(one.failures.values()))
        assert one.store.own.cost <= 2.5


def test_a_defect_behind_the_endpoint_is_a_failure_too(
    judge_row: Callable[..., Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judging(judge_row("1.0"), tmp_path) as one:
        monkeypatch.setattr(one.store, "add", lambda *_, **__: 1 / 0)
        assert one.reply(ASKED) is None
        assert "ZeroDivisionError" in one.failures


def test_rules_and_batches_are_no_judges_here(tmp_path: Path) -> None:
    for row in ({"kind": "rules"}, {"kind": "openai", "model": "m", "batch": True}):
        with pytest.raises(BenchmarkError, match="cannot be asked"):
            judging(Judge.model_validate({"description": "d", **row}), tmp_path)


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "MY_JUDGE_KEY"])
def test_the_environment_is_as_it_was(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "sk-of-this-run")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("MODEL_VERSION", raising=False)
    endpoint = Endpoint(None, "m")  # type: ignore[arg-type]
    with stands_for_openai(endpoint, "judge-1", variable):
        assert os.environ["OPENAI_API_KEY"] == endpoint.token
        assert "sk-of-this-run" not in os.environ.values(), "the judge's own key is out of sight"
        assert os.environ["OPENAI_API_URL"] == endpoint.url
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"
    assert os.environ[variable] == "sk-of-this-run"
    assert os.environ["NO_PROXY"] == "example.org"
    assert "MODEL_VERSION" not in os.environ
    endpoint._server.server_close()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("mmvet", ["0.5", "1.0", "1", "0", "0.3 | because"], ["1.5", "-1", "half", "0.5\nmore", "", "2"]),
        ("llava-bench", ["8 9", "8 9\nBoth are", "8.5, 7\n\nText", "10 0"], ["8", "Both get 8 9", "", "0 5", "8 11"]),
        ("mmbench", ["A", "E.", "(B)", "Your output: C"], ["A or B", "F", "", "a cat", "(B", "Your output:C", "B).,"]),
    ],
)
def test_usable_replies(name: str, good: list[str], bad: list[str], rows: dict[str, Any]) -> None:
    """Others become 0.0, -1 or a drawn option in the tasks' own code, or, out of range, ask for ever."""
    import re

    pattern = re.compile(rows[name].judge_reply, re.DOTALL)
    assert [text for text in good if not pattern.fullmatch(text)] == []
    assert [text for text in bad if pattern.fullmatch(text)] == []


def test_mmbenchs_own_code_reads_every_reply_that_counts_as_usable(rows: dict[str, Any]) -> None:
    """From what it cannot read it draws an option by lot."""
    import itertools
    import re

    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    pattern = re.compile(rows["mmbench"].judge_reply, re.DOTALL)
    parts = (
        ["", "Your output:", "Your output: ", "Your output:\n"],
        ["", "("],
        "ABCDE",
        ["", *".,:)", ").", ")..", ".,"],
    )
    usable = [text for text in map("".join, itertools.product(*parts)) if pattern.fullmatch(text)]
    assert len(usable) > 50
    reads = MMBench_Evaluator.can_infer_option
    assert [text for text in usable if not reads(None, text)] == []
