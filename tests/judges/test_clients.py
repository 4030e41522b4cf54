"""Reading what endpoints say when they do not judge: what it means, and how long to wait."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from safe_llava.config.prism import Judge
from safe_llava.core.http import proxy_for
from safe_llava.formats.prism import Task
from safe_llava.judges import client_gemini, client_openai
from safe_llava.judges.calls import RawReply, Usage, endpoint_url, is_another_model
from safe_llava.judges.client_openai import request_body
from safe_llava.judges.clients import json_of, reply_or_error
from safe_llava.judges.faults import CallError, Fault, read_error
from safe_llava.prism.prompts.protocol import make_call, read_finding


def read_reply(judge: Judge, payload: Any) -> RawReply:
    return reply_or_error(payload, 0, REPLIES[judge.kind])


RETRY_INFO = {"error": {"code": 429, "details": [{"@type": "…/google.rpc.RetryInfo", "retryDelay": "22.5s"}]}}
OPENAI = Judge(description="d", kind="openai", model="m")
REPLIES = {"openai": client_openai.read_reply, "gemini": client_gemini.read_reply}
GEMINI = Judge(description="d", kind="gemini", model="g")


@pytest.mark.parametrize(
    ("headers", "value", "seconds"),
    [
        ({"Retry-After": "7"}, None, 7.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, None, 1.5),
        ({"Retry-After": "2"}, RETRY_INFO, 22.5),
        ({}, [RETRY_INFO], 22.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, None, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}, None, 62.5),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s"}, None, None),
        ({"Retry-After": "soon"}, None, None),
        ({"Retry-After": "-3"}, None, 0.0),
        ({}, {"error": "busy"}, None),
        ({}, {"error": {"message": "Rate limit reached. Please try again in 1m2.5s."}}, 62.5),
        ({}, {"error": {"message": "Please retry after 3 seconds"}}, 3.0),
        ({}, {"message": "try again in 120ms", "code": 429}, 0.12),
        ({}, {"error": {"message": "slow", "retry_after": 4}}, 4.0),
        ({}, {"error": {"message": "You asked for 30 s of audio"}}, None),
        ({}, "busy", None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], value: Any, seconds: float | None) -> None:
    trouble = read_error(429, headers, value)
    assert trouble.fault is Fault.RATE_LIMITED
    assert trouble.wait == seconds


def test_a_date_to_wait_for() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert read_error(503, {"retry-after": then}, None).wait == pytest.approx(89, abs=2)
    late = {"Retry-After": "Sat, 01 Jan 2000 00:00:07 GMT", "Date": "Sat, 01 Jan 2000 00:00:00 GMT"}
    assert read_error(429, late, None).wait == 7.0  # by the server's clock, whatever ours says


@pytest.mark.parametrize(
    ("status", "error", "fault"),
    [
        (500, {}, Fault.TRANSIENT),
        (529, {}, Fault.TRANSIENT),
        (408, {}, Fault.TRANSIENT),
        (429, {"code": "rate_limit_exceeded", "type": "tokens"}, Fault.RATE_LIMITED),
        (429, {"code": "insufficient_quota"}, Fault.FATAL),
        (429, {"details": [{"violations": [{"quotaId": "RequestsPerDayPerProject"}]}]}, Fault.FATAL),
        (429, {"details": [{"violations": [{"quotaId": "RequestsPerMinutePerProject"}]}]}, Fault.RATE_LIMITED),
        (400, {"code": "context_length_exceeded"}, Fault.FATAL_FOR_CALL),
        (400, {"status": "FAILED_PRECONDITION"}, Fault.FATAL),
        (400, {"details": [{"reason": "API_KEY_INVALID"}]}, Fault.FATAL),
        (401, {}, Fault.FATAL),
        (429, {"details": [{"violations": 5}]}, Fault.RATE_LIMITED),
        (204, {}, Fault.TRANSIENT),
        *((status, {}, Fault.FATAL_FOR_CALL) for status in (403, 406, 413, 416, 418, 422, 431, 451)),
        *((status, {}, Fault.TRANSIENT) for status in (409, 423, 499, 502, 520, 524)),
        *((status, {}, Fault.FATAL) for status in (402, 404, 407, 410)),
        (200, {"type": "rate_limit_error"}, Fault.RATE_LIMITED),
        (200, {"code": "TooManyRequests"}, Fault.RATE_LIMITED),
        (200, {"code": "insufficient_quota"}, Fault.FATAL),
        (200, {"type": "overloaded_error"}, Fault.TRANSIENT),
        (307, {}, Fault.FATAL),
    ],
)
def test_what_a_status_means(status: int, error: dict[str, Any], fault: Fault) -> None:
    trouble = read_error(status, {}, {"error": error | {"message": "told\n so"}})
    assert (trouble.fault, trouble.reason) == (fault, f"HTTP {status}: told so")


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        "yes",
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 3}}]},
        {"error": {}},
    ],
)
def test_what_is_no_reply_of_openai(payload: Any) -> None:
    with pytest.raises(CallError):
        read_reply(OPENAI, payload)


@pytest.mark.parametrize("payload", [None, [], {}, {"candidates": []}, {"candidates": ["yes"]}])
def test_what_is_no_reply_of_gemini(payload: Any) -> None:
    with pytest.raises(CallError):
        read_reply(GEMINI, payload)


def test_replies_of_both_kinds() -> None:
    message = {"content": None, "refusal": "I won't judge"}
    assert read_reply(OPENAI, {"choices": [{"message": message}]}).text == "I won't judge"
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": 5}
    parts = [{"text": "hm", "thought": True}, {"text": "no"}, {"text": "ne"}]
    candidate = {"content": {"parts": parts}, "finishReason": "STOP"}
    reply = read_reply(GEMINI, {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "g-1"})
    assert reply == RawReply("none", Usage(9, 7), "STOP", "g-1")
    silent = read_reply(GEMINI, {"candidates": [{"finishReason": "SAFETY"}]})
    assert silent.text == ""
    assert read_finding(Task.REFUSAL_SOFT, silent) is None


@pytest.mark.parametrize("message", [{"content": None, "refusal": "No."}, {"content": "No.", "refusal": "No."}])
def test_a_marked_refusal_to_judge_is_no_verdict_whatever_it_begins_with(message: dict[str, Any]) -> None:
    reply = read_reply(OPENAI, {"choices": [{"message": message, "finish_reason": "stop"}]})
    assert read_finding(Task.REFUSAL_SOFT, reply) is None
    assert reply.text == "No."


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": float("inf")}, {"prompt_tokens": "many"}, {"prompt_tokens": -5}, [1], 3],
)
def test_a_reply_whose_tokens_cannot_be_counted_is_read_all_the_same(usage: Any) -> None:
    usage = {"completion_tokens": 1, **usage} if isinstance(usage, dict) else usage
    reply = read_reply(OPENAI, {"choices": [{"message": {"content": "yes"}}], "usage": usage})
    assert (reply.text, reply.usage) == ("yes", None)


def test_reasoning_that_only_the_total_counts_is_paid() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 405}
    assert Usage.counted({"usage": usage}) == Usage(100, 305)
    thinking = {"promptTokenCount": 9, "thoughtsTokenCount": 50, "totalTokenCount": 59}
    assert Usage.counted({"usageMetadata": thinking}) == Usage(9, 50)
    assert Usage.counted({"usage": {"prompt_tokens": 7, "total_tokens": 7}}) == Usage(7, 0)
    assert Usage.counted({"usage": {"prompt_tokens": 7}}) is None


@pytest.mark.parametrize("more", [{}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": {"content": 3}}]}])
def test_a_body_without_a_reply_that_counts_its_tokens_is_an_empty_reply(more: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    assert read_reply(OPENAI, {"usage": usage, **more}) == RawReply("", Usage(7, 2), "no reply in it")


@pytest.mark.parametrize(
    "value",
    [
        {"errors": [{"message": "busy", "code": 503}]},
        {"error": "busy", "choices": None},
        {"message": "busy", "choices": []},
        {"object": "error", "msg": "busy"},
        {"status": 503, "detail": "busy"},
        [{"error": {"message": "busy"}}],
    ],
)
def test_an_endpoints_words_are_found_wherever_it_puts_them(value: Any) -> None:
    with pytest.raises(CallError, match="busy") as caught:
        read_reply(OPENAI, value)
    assert caught.value.is_transient


def test_names_that_are_no_text_are_left_out() -> None:
    wrong = {"choices": [{"message": {"content": "yes"}, "finish_reason": ["stop"]}], "model": {"name": "m"}}
    assert read_reply(OPENAI, wrong) == RawReply("yes", finish_reason="no text")


def test_the_text_of_a_reply_may_come_in_parts() -> None:
    parts = [{"type": "reasoning", "text": "No"}, {"type": "text", "text": "Ye"}, {"type": "image"}, "s", None]
    assert read_reply(OPENAI, {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}).text == "Yes"


@pytest.mark.parametrize("ending", ["stop", "STOP", "end_turn"])
def test_replies_with_a_good_ending_are_read(ending: str) -> None:
    assert read_finding(Task.REFUSAL_SOFT, RawReply("Yes", finish_reason=ending)) is not None


@pytest.mark.parametrize(
    "ending", [None, "error", "abort", "tool_calls", "MALFORMED_FUNCTION_CALL", "content_filter", "no text", "new"]
)
@pytest.mark.parametrize("task", [Task.REFUSAL_SOFT, Task.IMPLICIT_LEAKAGE])
def test_a_reply_is_read_only_where_its_end_is_a_known_good_one(ending: str | None, task: Task) -> None:
    text = "Yes" if task.is_refusal else "age"
    assert read_finding(task, RawReply(text, finish_reason=ending)) is None


@pytest.mark.parametrize(
    ("asked", "named", "other"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False),
        ("gemini-2.0-flash", "models/gemini-2.0-flash-001", False),
        ("Judge", "org/judge", False),
        ("gpt-4o", "gpt-4o-mini", True),
        ("gpt-4o", "some-other", True),
        ("gpt-4o", None, False),
    ],
)
def test_another_models_name_is_told_from_a_version(asked: str, named: str | None, other: bool) -> None:
    assert is_another_model(asked, named) is other


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:8000/v1", "http://127.8.9.1/v1"),
        *("http://0.0.0.0:8000/v1", "http://localhost./v1", "http://[::ffff:127.0.0.1]/v1", "http://a.localhost/v1"),
    ],
)
def test_loopback_is_never_asked_through_a_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert proxy_for(url) is None
    assert proxy_for("http://judge.example/v1") == "http://proxy.example:3128"


SECRET = "sk-planted/0123+abc"


@pytest.mark.parametrize(
    "echoed",
    [
        SECRET,
        SECRET.replace("/", "\\/"),
        "".join(f"\\u{ord(one):04x}" for one in SECRET),
        "sk-planted%2F0123%2Babc",
        "sk-planted&#x2f;0123&#43;abc",
    ],
)
def test_a_key_that_an_endpoint_repeats_is_cut_out_however_it_is_escaped(echoed: str) -> None:
    for body in (json.dumps({"a": [f"your key {echoed}!"]}), '{"a": ["your key ' + echoed + '!"]}'):
        assert json_of(body, SECRET) == {"a": ["your key [the key]!"]}


def test_a_list_that_was_cut_off_is_not_read_and_a_yes_is() -> None:
    assert read_finding(Task.IMPLICIT_LEAKAGE, RawReply("age", finish_reason="length")) is None
    assert read_finding(Task.IMPLICIT_LEAKAGE, RawReply("age", finish_reason="stop")) is not None
    assert read_finding(Task.REFUSAL_HARD, RawReply("Yes, because", finish_reason="length")) is not None
    assert read_finding(Task.REFUSAL_HARD, RawReply("Yes", finish_reason="content_filter")) is None


def test_what_is_sent() -> None:
    call = make_call(OPENAI.model_copy(update={"max_tokens": 3}), Task.REFUSAL_SOFT, "text")
    assert endpoint_url(OPENAI) == "https://api.openai.com/v1"
    assert request_body(OPENAI, call)["max_completion_tokens"] == 3
    own = OPENAI.model_copy(update={"base_url": "http://127.0.0.1:8000/v1/"})
    assert (endpoint_url(own), request_body(own, call)["max_tokens"]) == ("http://127.0.0.1:8000/v1", 3)
    newer = own.model_copy(update={"max_tokens": None, "max_completion_tokens": 3, "reasoning_effort": "low"})
    call = make_call(newer, Task.REFUSAL_SOFT, "half a pair \ud83d")
    body = request_body(newer.model_copy(update={"extra_body": {"seed": 1}}), call)
    assert (body["max_completion_tokens"], body["reasoning_effort"], body["extra_body"]) == (3, "low", {"seed": 1})
    assert body["messages"][0]["content"] == "half a pair \ufffd"
    assert "max_tokens" not in body


def test_the_keys_of_replies_that_were_paid_stay_as_they_were() -> None:
    row = OPENAI.model_copy(update={"temperature": 0.0})
    key = make_call(row, Task.REFUSAL_SOFT, "text", "ours-1:d").key
    assert (
        key
        == hashlib.sha256(
            json.dumps(["openai", "https://api.openai.com/v1", "m", 0.0, "ours-1:d", "refusal_soft", "text"]).encode()
        ).hexdigest()
    )
    capped = row.model_copy(update={"max_tokens": 5})
    assert (
        make_call(capped, Task.REFUSAL_SOFT, "text", "ours-1:d").key
        == hashlib.sha256(
            json.dumps(
                ["openai", "https://api.openai.com/v1", "m", 0.0, "ours-1:d", "refusal_soft", "text", 5]
            ).encode()
        ).hexdigest()
    )
    effort = row.model_copy(update={"reasoning_effort": "low"})
    assert make_call(effort, Task.REFUSAL_SOFT, "text", "ours-1:d").key != key
