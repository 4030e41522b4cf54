"""Reading what endpoints say when they do not judge: what it means, and how long to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from safe_llava.config.prism import Judge
from safe_llava.formats.prism import Task
from safe_llava.judges.client import (
    RawReply,
    UnusableReplyError,
    Usage,
    endpoint_url,
    make_call,
    read_finding,
    read_reply,
    request_body,
    request_path,
)
from safe_llava.judges.http import Fault, read_trouble

RETRY_INFO = {"error": {"code": 429, "details": [{"@type": "…/google.rpc.RetryInfo", "retryDelay": "22.5s"}]}}
OPENAI = Judge(description="d", kind="openai", model="m")
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
        ({}, "busy", None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], value: Any, seconds: float | None) -> None:
    trouble = read_trouble(429, headers, value)
    assert trouble.fault is Fault.TURNED_DOWN
    assert trouble.wait == seconds


def test_a_date_to_wait_for() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert read_trouble(503, {"retry-after": then}, None).wait == pytest.approx(89, abs=2)
    late = {"Retry-After": "Sat, 01 Jan 2000 00:00:07 GMT", "Date": "Sat, 01 Jan 2000 00:00:00 GMT"}
    assert read_trouble(429, late, None).wait == 7.0  # by the server's clock, whatever ours says


@pytest.mark.parametrize(
    ("status", "error", "fault"),
    [
        (500, {}, Fault.PASSING),
        (529, {}, Fault.PASSING),
        (408, {}, Fault.PASSING),
        (429, {"code": "rate_limit_exceeded", "type": "tokens"}, Fault.TURNED_DOWN),
        (429, {"code": "insufficient_quota"}, Fault.OF_ALL),
        (429, {"details": [{"violations": [{"quotaId": "RequestsPerDayPerProject"}]}]}, Fault.OF_ALL),
        (429, {"details": [{"violations": [{"quotaId": "RequestsPerMinutePerProject"}]}]}, Fault.TURNED_DOWN),
        (400, {"code": "context_length_exceeded"}, Fault.OF_CALL),
        (400, {"status": "FAILED_PRECONDITION"}, Fault.OF_ALL),
        (400, {"details": [{"reason": "API_KEY_INVALID"}]}, Fault.OF_ALL),
        (401, {}, Fault.OF_ALL),
        (429, {"details": [{"violations": 5}]}, Fault.TURNED_DOWN),
        (204, {}, Fault.PASSING),
        (307, {}, Fault.OF_ALL),
    ],
)
def test_what_a_status_means(status: int, error: dict[str, Any], fault: Fault) -> None:
    trouble = read_trouble(status, {}, {"error": error | {"message": "told\n so"}})
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
    with pytest.raises(UnusableReplyError):
        read_reply(OPENAI, payload)


@pytest.mark.parametrize("payload", [None, [], {}, {"candidates": []}, {"candidates": ["yes"]}])
def test_what_is_no_reply_of_gemini(payload: Any) -> None:
    with pytest.raises(UnusableReplyError):
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
def test_a_reply_whose_tokens_cannot_be_counted_is_none(usage: Any) -> None:
    usage = {"completion_tokens": 1, **usage} if isinstance(usage, dict) else usage
    with pytest.raises(UnusableReplyError):
        read_reply(OPENAI, {"choices": [{"message": {"content": "yes"}}], "usage": usage})


def test_names_that_are_no_text_are_left_out() -> None:
    wrong = {"choices": [{"message": {"content": "yes"}, "finish_reason": ["stop"]}], "model": {"name": "m"}}
    assert read_reply(OPENAI, wrong) == RawReply("yes")
    assert read_finding(Task.REFUSAL_SOFT, read_reply(OPENAI, wrong)) is not None


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
    call = make_call(GEMINI, Task.REFUSAL_SOFT, "text")
    assert request_body(GEMINI, call) == {"contents": [{"role": "user", "parts": [{"text": "text"}]}]}
    assert endpoint_url(GEMINI) + request_path(GEMINI, call) == (
        "https://generativelanguage.googleapis.com/v1beta/models/g:generateContent"
    )
