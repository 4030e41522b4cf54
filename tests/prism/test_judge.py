"""The judge step: offline, and against a server that speaks as OpenAI's and Gemini's endpoints do."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from judges.judge_server import JudgeServer
from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Verdict, read_verdicts
from safe_llava.judges.run import HOPELESS_AFTER
from safe_llava.lexicon.rules import rules_version
from safe_llava.prism import judge

KEY_ENV = "TEST_JUDGE_KEY"
KEY = "sk-planted-0123456789"
KINDS = pytest.mark.parametrize("kind", ["openai", "gemini"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def answer(number: int, text: str | None, task: str = "refusal_soft", attribute: str = "Age") -> dict[str, Any]:
    return {
        "edition": "v1",
        "model": "m",
        "task": task,
        "question_id": f"{attribute}/{number}.jpg",
        "index": 0,
        "attribute": attribute,
        "image": "i.jpg",
        "prompt": "What is it?",
        "text": text,
        "status": "failed" if text is None else "ok",
        "reason": "unreadable image" if text is None else None,
        "n_tokens": None,
        "truncated": None,
    }


def arguments(tmp_path: Path, config: dict[str, Any], *answers: dict[str, Any]) -> list[str]:
    path, row = tmp_path / "answers.jsonl", tmp_path / "judge.json"
    path.write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")
    row.write_text(json.dumps({"description": "d"} | config), encoding="utf-8")
    made = ["--answers", str(path), "--judge-config", str(row), "--judge", "j", "--store", str(tmp_path / "store")]
    return [*made, "--out", str(tmp_path / "verdicts.jsonl"), "--record", str(tmp_path / "record.json")]


def run(tmp_path: Path, config: dict[str, Any], *answers: dict[str, Any]) -> list[Verdict]:
    assert judge.main(arguments(tmp_path, config, *answers)) is None
    return read_verdicts([tmp_path / "verdicts.jsonl"])


def record(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))


def lines(tmp_path: Path, failures: bool = False) -> list[dict[str, Any]]:
    """Return what lies in the store, verdicts or failures."""
    paths = sorted((tmp_path / "store").glob("*.jsonl"))
    kept = [path for path in paths if path.name.endswith(".failures.jsonl") == failures]
    return [json.loads(line) for path in kept for line in path.read_text(encoding="utf-8").splitlines()]


def test_rules_judge_refusals(tmp_path: Path) -> None:
    rows = [
        answer(1, "I cannot tell."),
        answer(2, "Old."),
        answer(3, None),
        answer(4, "  "),
        answer(5, "x", attribute="Hair"),
    ]
    verdicts = run(tmp_path, {"kind": "rules", "description": "ours", "base_url": None}, *rows)
    assert [(v.status, v.refused, v.reason) for v in verdicts] == [
        ("judged", True, None),
        ("judged", False, None),
        ("failed", None, "no answer: unreadable image"),
        ("failed", None, "no answer: the text is empty"),
    ]
    assert {v.judge for v in verdicts} == {"j"}
    assert (record(tmp_path)["unanswered"], record(tmp_path)["hair"], record(tmp_path)["failed"]) == (2, 1, 0)
    assert not (tmp_path / "store").exists()


def test_rules_do_not_judge_what_is_not_english(tmp_path: Path) -> None:
    rows = [
        answer(1, "Je ne peux pas répondre."),
        answer(2, "图片中有一位年轻女子。", "implicit_leakage"),
        answer(3, "Old."),
    ]
    verdicts = run(tmp_path, {"kind": "rules"}, *rows)
    assert [(v.status, v.reason) for v in verdicts] == [("failed", "not English")] * 2 + [("judged", None)]
    # They are counted, and there is nothing to ask again.
    assert (record(tmp_path)["not_english"], record(tmp_path)["failed"]) == (2, 0)


def test_rules_judge_descriptions(tmp_path: Path) -> None:
    rows = [answer(1, "A slim boy.", "implicit_leakage"), answer(2, "I'm sorry, I can't help.", "implicit_leakage")]
    verdicts = run(tmp_path, {"kind": "rules"}, *rows)
    assert [(v.leaked, v.description_refused, v.refused) for v in verdicts] == [
        ((Attribute.AGE, Attribute.GENDER, Attribute.WEIGHT), False, None),
        ((), True, None),
    ]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"kind": "oracle"}, "kind"),
        ({"kind": "openai"}, "names its `model`"),
        ({"kind": "gemini"}, "names its `model`"),
        ({"kind": "rules", "temprature": 1}, "temprature"),
        ({"kind": "openai", "model": "m", "timeout_s": 0}, "timeout_s"),
        ({"kind": "openai", "model": "m", "max_cost": 1}, "needs the prices"),
        (
            {"kind": "openai", "model": "m", "leakage_model": "n", "max_cost": 1, "prices": {"input": 1, "output": 1}},
            "needs the prices",
        ),
    ],
)
def test_a_wrong_judge_row_is_named(tmp_path: Path, config: dict[str, Any], fault: str) -> None:
    with pytest.raises(PrismError, match=fault):
        run(tmp_path, config, answer(1, "Old."))


def test_verdicts_name_the_rules_where_those_had_a_say(tmp_path: Path) -> None:
    described = answer(1, "Nothing is seen.", "implicit_leakage")
    with JudgeServer(reply=lambda prompt, nth: "none" if "Nothing" in prompt else "no") as server:
        verdicts = run(tmp_path, server.row("openai"), described, answer(2, "Old."))
    # Asked judges do not say which descriptions were refused.
    assert [(v.status, v.rules_version) for v in verdicts] == [("judged", rules_version()), ("judged", None)]
    verdicts = run(tmp_path, {"kind": "rules"}, described, answer(2, "Old."), answer(3, None))
    assert [v.rules_version for v in verdicts] == [rules_version(), rules_version(), None]


@KINDS
def test_an_asked_judge_judges_each_prompt_once_and_says_all_about_it(kind: str, tmp_path: Path) -> None:
    rows = [answer(1, "no comment"), answer(2, "no comment"), answer(3, "Old."), answer(4, None), answer(5, "")]
    reply = lambda prompt, nth: "Yes, it declined." if "no comment" in prompt else "**No**"  # noqa: E731
    with JudgeServer(reply=reply) as server:
        verdicts = run(tmp_path, server.row(kind, max_tokens=9), *rows)
    assert [v.refused for v in verdicts] == [True, True, False, None, None]
    assert len(server.seen.admitted) == 2
    assert {v.judge_model for v in verdicts if v.refused is not None} == {server.reported(kind)}
    assert all(v.prompts and v.prompts.startswith("ours-") for v in verdicts if v.status == "judged")
    sent = server.seen.bodies[0]
    if kind == "openai":
        assert server.seen.keys == {f"Bearer {KEY}"}
        assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("judge-1", 0, 9)
    else:
        assert server.seen.keys == {KEY}
        assert (sent["model"], sent["generationConfig"]) == ("judge-1", {"temperature": 0, "maxOutputTokens": 9})
    stored = next(line for line in lines(tmp_path) if line["refused"])
    assert (stored["raw"], stored["asked"], stored["model"]) == (
        "Yes, it declined.",
        "judge-1",
        server.reported(kind),
    )
    assert stored["usage"][0] > 50
    assert stored["attempts"] == 1
    facts = record(tmp_path)
    assert (facts["calls"], facts["asked"], facts["failed"], facts["retry"]) == (2, 2, 0, "")
    assert facts["judge"]["model"] == "judge-1"
    assert facts["prompts"]["v1"]["digest"].startswith(str(verdicts[0].prompts).split(":")[1])


def test_leakage_may_have_a_model_of_its_own_and_null_is_not_sent(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: "eye color, age") as server:
        config = server.row(leakage_model="small", temperature=None)
        verdict = run(tmp_path, config, answer(1, "text", "implicit_leakage"))[0]
    assert verdict.leaked == (Attribute.AGE, Attribute.EYE_COLOR)
    assert server.seen.bodies[0]["model"] == "small"
    assert "temperature" not in server.seen.bodies[0]
    assert "max_tokens" not in server.seen.bodies[0]


@KINDS
def test_an_unreadable_reply_is_asked_for_again_then_is_a_failure_with_its_words_kept(
    kind: str, tmp_path: Path
) -> None:
    met: set[str] = set()

    def reply(prompt: str, nth: int) -> str:
        again = prompt in met
        met.add(prompt)
        return "no" if again and "odd" not in prompt else "Perhaps"

    with JudgeServer(reply=reply) as server:
        verdicts = run(tmp_path, server.row(kind, asks_again=1), answer(1, "fine"), answer(2, "odd"))
        assert len(server.seen.admitted) == 4
    assert [v.refused for v in verdicts] == [False, None]
    assert verdicts[1].reason == "the reply cannot be read: 'Perhaps'"
    # Each reply is paid, and is kept with its cost, whether it can be read or not.
    assert [(line["raw"], line["reason"]) for line in lines(tmp_path, failures=True)] == [
        ("Perhaps", "the reply cannot be read: 'Perhaps'")
    ] * 3
    assert record(tmp_path)["failed"] == 1


def test_a_filtered_or_cut_off_reply_is_no_verdict(tmp_path: Path) -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    with JudgeServer(reply=lambda prompt, nth: blocked) as server:
        verdict = run(tmp_path, server.row("gemini", asks_again=1), answer(1, "text"))[0]
        assert len(server.seen.admitted) == 2
    assert verdict.status == "failed"
    assert "SAFETY" in str(verdict.reason)
    cut = {"choices": [{"finish_reason": "length", "message": {"content": "age"}}]}  # of "age, gender", perhaps
    with JudgeServer(reply=lambda prompt, nth: cut) as server:
        verdict = run(tmp_path, server.row(), answer(1, "text", "implicit_leakage"))[0]
    assert (verdict.status, verdict.leaked) == ("failed", None)


def test_a_failed_call_is_no_verdict_and_a_rerun_asks_only_for_it(tmp_path: Path) -> None:
    rows = [answer(1, "fine"), answer(2, "odd"), answer(3, "good")]
    with JudgeServer(reply=lambda prompt, nth: 500 if "odd" in prompt else "yes") as server:
        first = run(tmp_path, server.row(retries=0), *rows)
        assert [v.status for v in first] == ["judged", "failed", "judged"]
        assert first[1].reason == "HTTP 500: no"
        assert record(tmp_path)["failed"] == 1
        server.reply = lambda prompt, nth: "no"
        before = len(server.seen.admitted)
        second = run(tmp_path, server.row(retries=0), *rows)
        assert [v.refused for v in second] == [True, False, True]
        assert len(server.seen.admitted) == before + 1
        assert run(tmp_path, server.row(retries=0), *rows) == second
        assert len(server.seen.admitted) == before + 1
    assert second[0] == first[0]


@pytest.mark.parametrize("change", [{"model": "bigger"}, {"temperature": 1}, {"max_tokens": 5}])
def test_another_judge_is_asked_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        for config in (server.row(), server.row(**change), server.row()):
            run(tmp_path, config, answer(1, "fine"))
        assert len(server.seen.admitted) == 2


def test_limits_of_a_run_are_no_other_judge(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda prompt, nth: "yes") as server:
        run(tmp_path, server.row(), answer(1, "fine"))
        run(tmp_path, server.row(requests_per_minute=5, retries=1, timeout_s=3, key_env=None), answer(1, "fine"))
        assert len(server.seen.admitted) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after-ms": "1"},
        {"Retry-After": "0"},
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1ms"},
    ],
)
def test_a_busy_endpoint_is_tried_again_as_it_says(tmp_path: Path, headers: dict[str, str]) -> None:
    with JudgeServer(reply=lambda prompt, nth: (429, headers, {}) if nth == 1 else "yes") as server:
        assert run(tmp_path, server.row(retries=0), answer(1, "fine"))[0].refused is True
        assert len(server.seen.admitted) == 2
    assert lines(tmp_path)[0]["attempts"] == 2


QUOTA = {"error": {"message": "You ran out", "type": "insufficient_quota", "code": "insufficient_quota"}}
BAD_KEY = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}
DAY = {"error": {"code": 429, "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}]}}
BAD_MODEL = {"error": {"message": "no such model", "code": "model_not_found"}}


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("openai", (401, {}, {"error": {"message": f"Incorrect API key: {KEY}"}})),
        ("openai", (404, {}, {})),
        ("openai", (302, {"Location": "http://127.0.0.1:1/"}, {})),
        ("openai", (400, {}, BAD_MODEL)),
        ("openai", (429, {"Retry-After": "1"}, QUOTA)),
        ("gemini", (400, {}, BAD_KEY)),
        ("gemini", (429, {}, DAY)),
    ],
)
def test_what_no_retry_can_cure_stops_at_once_and_keeps_everything(tmp_path: Path, kind: str, reply: Any) -> None:
    rows = [answer(number, f"case {number}") for number in range(40)]
    with JudgeServer(reply=lambda prompt, nth: reply) as server:
        with pytest.raises(PrismError, match="rejects every call") as caught:
            run(tmp_path, server.row(kind, max_concurrency=1), *rows)
        assert len(server.seen.admitted) == 1
    assert KEY not in str(caught.value)
    assert not (tmp_path / "verdicts.jsonl").exists()
    with JudgeServer(reply=lambda prompt, nth: reply if nth > 10 else "yes") as server:
        verdicts = run(tmp_path, server.row(kind, max_concurrency=1), *rows)
        assert len(server.seen.admitted) == 11
    # What was judged stays in the results; the rest says why it is not.
    assert [v.status for v in verdicts].count("judged") == len(lines(tmp_path)) == 10
    reasons = [str(v.reason) for v in verdicts if v.status == "failed"]
    assert sum("rejects every call" in reason for reason in reasons) == 29  # and the one that it was learned from
    assert (record(tmp_path)["failed"], "rejects every call" in record(tmp_path)["ended"]) == (30, True)


def test_a_call_that_the_endpoint_cannot_take_fails_alone_but_not_where_all_are_such(tmp_path: Path) -> None:
    too_long = (400, {}, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    rows = [answer(number, f"case {number}") for number in range(20)]
    with JudgeServer(reply=lambda prompt, nth: too_long if "case 7" in prompt else "yes") as server:
        verdicts = run(tmp_path, server.row(max_concurrency=1), *rows)
    assert [v.reason for v in verdicts if v.status == "failed"] == ["HTTP 400: too long"]
    with JudgeServer(reply=lambda prompt, nth: too_long) as server:
        other = tmp_path / "other"
        other.mkdir()
        many = [answer(number, f"case {number}") for number in range(50)]
        with pytest.raises(PrismError, match="rejects every call"):
            run(other, server.row(max_concurrency=1), *many)
        assert len(server.seen.admitted) == HOPELESS_AFTER


def test_an_outage_ends_the_run_and_not_in_failed_rows(tmp_path: Path) -> None:
    rows = [answer(number, f"case {number}") for number in range(500)]
    with JudgeServer(reply=lambda prompt, nth: 503) as server:
        with pytest.raises(PrismError, match=r"not available: no reply for \d+ s; HTTP 503"):
            run(tmp_path, server.row(patience_s=1, max_concurrency=20), *rows)
        assert len(server.seen.admitted) < 100
        with pytest.raises(PrismError, match="answered none of 1 calls"):
            run(tmp_path, server.row(retries=0), rows[0])
        closed = server.row(patience_s=1)
    with pytest.raises(PrismError, match="the connection failed"):
        run(tmp_path, closed, *rows)
    assert not (tmp_path / "verdicts.jsonl").exists()
    assert lines(tmp_path) == []


def test_an_endpoint_that_asks_for_more_patience_than_there_is_ends_the_run(tmp_path: Path) -> None:
    with (
        JudgeServer(reply=lambda prompt, nth: (429, {"Retry-After": "25200"}, {})) as server,
        pytest.raises(PrismError, match="asks to wait 25200 s"),
    ):
        run(tmp_path, server.row(), answer(1, "fine"))


@pytest.mark.parametrize(
    ("value", "said"), [("", "is not set"), ("  \n", "is not set"), ("s\u00e9cret-value", "printable")]
)
def test_a_key_that_is_none_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv(KEY_ENV, value)
    with JudgeServer() as server:
        with pytest.raises(PrismError, match=said) as caught:
            run(tmp_path, server.row(), answer(1, "fine"))
        assert server.seen.admitted == []
    assert KEY_ENV in str(caught.value)
    assert "value" not in str(caught.value)


@KINDS
def test_the_key_is_nowhere_but_in_its_header(kind: str, tmp_path: Path) -> None:
    """Not in logs at the finest level, the store, the record, the verdicts or an error, though the server says it."""
    rows = [answer(number, f"case {number}") for number in range(8)]
    faults = [f"I saw {KEY}", 500, (503, {"x": KEY}, {"error": {"message": KEY}}), (400, {}, {"error": KEY}), "yes"]
    environment = os.environ | {"SAFE_LLAVA_LOG_LEVEL": "DEBUG", "PYTHONASYNCIODEBUG": "1", KEY_ENV: f"{KEY}\n"}
    environment["PYTHONPATH"] = str(Path(judge.__file__).parents[2])
    with JudgeServer(reply=lambda prompt, nth: faults[nth % len(faults)]) as server:
        outputs = []
        for status in (None, 401):
            if status:
                server.reply = lambda prompt, nth: (401, {}, {"error": {"message": f"bad key {KEY}"}})
            made = arguments(tmp_path, server.row(kind, retries=1, asks_again=0), *rows, answer(99, "new"))
            command = [sys.executable, "-m", "safe_llava.prism.judge", *made]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            outputs += [done.stdout, done.stderr]
            assert done.returncode == 0, done.stderr
        assert any(KEY in key for key in server.seen.keys)
    assert "[the key]" in outputs[-1]
    files = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not [text for text in [*files, *outputs] if KEY in text]


PRICES = {"prices": {"input": 2.0, "output": 10.0}}


def test_what_it_costs_is_said_before_and_counted_after(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [answer(number, f"case {number}") for number in range(10)]
    with JudgeServer() as server, caplog.at_level(logging.INFO):
        run(tmp_path, server.row(**PRICES), *rows, rows[0] | {"index": 1})
        announced = next(text for text in caplog.messages if "estimated cost" in text)
        assert "11 answers, 10 different calls, 0 there already, 10 to ask" in announced
        caplog.clear()
        run(tmp_path, server.row(**PRICES), *rows)
        assert any("10 there already, 0 to ask" in text for text in caplog.messages)
        caplog.clear()
        run(tmp_path, server.row(model="unpriced"), rows[0])
        assert any("estimated cost unknown" in text for text in caplog.messages)
    tokens = sum(len(body["messages"][0]["content"]) // 4 for body in server.seen.bodies[:10])
    cost = (tokens * 2 + 40 * 10) / 1e6
    assert sum(line["cost"] for line in lines(tmp_path) if line["cost"]) == pytest.approx(cost)
    assert float(announced.split("estimated cost $")[1].split(";")[0]) == pytest.approx(cost, rel=0.5)


def test_max_cost_stops_before_the_first_call_and_on_the_way(tmp_path: Path) -> None:
    rows = [answer(number, f"case {number}") for number in range(50)]
    with JudgeServer() as server:
        with pytest.raises(PrismError, match=r"max_cost.*\n.*nothing was asked"):
            run(tmp_path, server.row(**PRICES, max_cost=0.001), *rows)
        assert server.seen.bodies == []
        # An estimate that is too low does not let the judge pass the bound: what was spent counts.
        server.reply = lambda prompt, nth: server.wrapped("openai", prompt, "yes", completion=1000)
        limit = 0.05
        verdicts = run(tmp_path, server.row(**PRICES, max_cost=limit, max_concurrency=1), *rows)
        assert {"has cost" in str(v.reason) for v in verdicts if v.status == "failed"} == {True}
        spent = sum(line["cost"] for line in lines(tmp_path))
        assert 0.7 * limit < spent <= limit
        asked = len(server.seen.bodies)
        assert len(lines(tmp_path)) == asked
        # What is kept counts again: the bound is the judge's, not one run's.
        again = run(tmp_path, server.row(**PRICES, max_cost=spent), *rows)
        assert [v.status for v in again].count("judged") == len(lines(tmp_path))
        assert any("spent before" in str(v.reason) for v in again)
        assert len(server.seen.bodies) == asked


def test_max_cost_holds_for_calls_under_way_that_cost_more_than_was_estimated(tmp_path: Path) -> None:
    rows = [answer(number, f"case {number}") for number in range(300)]
    with JudgeServer() as server:
        server.latency_s = 0.1
        server.reply = lambda prompt, nth: server.wrapped("openai", prompt, "yes", completion=1000)
        run(tmp_path, server.row(**PRICES, max_cost=0.5), *rows)
    assert 0.4 < sum(line["cost"] for line in lines(tmp_path)) <= 0.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_keeps_everything(tmp_path: Path, number: signal.Signals) -> None:
    rows = [answer(index, f"case {index}") for index in range(400)]
    environment = os.environ | {"PYTHONPATH": str(Path(judge.__file__).parents[2])}
    with JudgeServer(rate=100) as server:
        made = arguments(tmp_path, server.row(max_concurrency=4), *rows)
        process = subprocess.Popen([sys.executable, "-m", "safe_llava.prism.judge", *made], env=environment)
        server.wait_for(100)
        process.send_signal(number)
        assert process.wait(60) == cli.EXIT_RUN_AGAIN
        kept = len(lines(tmp_path))
        assert 90 < kept < 400
        assert sum(server.seen.answered.values()) - kept <= 4
        server.rate = None
        verdicts = run(tmp_path, server.row(), *rows)
    assert sum(server.seen.asked.values()) <= 404
    assert all(verdict.status == "judged" for verdict in verdicts)
