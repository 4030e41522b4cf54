"""What a judge is asked and what it said: the calls, their replies, and the wire formats of the two kinds of endpoint.

Kind ``openai`` is asked as the chat completions of OpenAI and of every server compatible with it; kind ``gemini`` as
Gemini's generateContent. Bodies and replies are the same whether a call goes out by itself or within a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safe_llava.config.prism import Judge
from safe_llava.formats.prism import Attribute, Task
from safe_llava.judges.replies import parse_leakage, parse_refusal

OPENAI_URL = "https://api.openai.com/v1"
GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta"
CUT_OFF = {"length", "MAX_TOKENS"}
REFUSED = "refusal"  # in the place of a finish reason, where the endpoint marks a refusal to judge as one
STOPPED = {
    REFUSED,
    "content_filter",
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "LANGUAGE",
    "OTHER",
}


@dataclass(frozen=True)
class Call:
    """One question to a judge; calls of equal ``key`` are one call.

    ``model`` is the judge's model, ``prompt`` the name and digest of the prompts, ``max_tokens`` a cap on the reply.
    """

    key: str
    task: Task
    text: str
    model: str
    max_tokens: int | None = None
    prompt: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens of one call as its server counted them, those of reasoning among the completion's."""

    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True)
class RawReply:
    """What came back for a call: ``model`` as the server names it, ``usage`` None where it says nothing of it."""

    text: str
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Finding:
    """What a judge found in an answer: for a direct question ``refused``, for a description ``leaked``."""

    refused: bool | None = None
    leaked: tuple[Attribute, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a call ended: with a finding and the model that made it, or with the reason why there is none."""

    key: str
    finding: Finding | None = None
    model: str | None = None
    reason: str | None = None


class UnusableReplyError(Exception):
    """A body of status 200 that is no reply at all: not JSON, or not of the promised shape."""


def endpoint_url(judge: Judge) -> str:
    """Return the address that a judge's paths are appended to, without a slash at its end."""
    return (judge.base_url or (GEMINI_URL if judge.kind == "gemini" else OPENAI_URL)).rstrip("/")


def model_for(judge: Judge, task: Task) -> str:
    """Return the model that judges a task."""
    return str((judge.leakage_model or judge.model) if task is Task.IMPLICIT_LEAKAGE else judge.model)


def make_call(judge: Judge, task: Task, text: str, prompt: str = "") -> Call:
    """Return the call for one answer, known by all that its reply may depend on.

    Args:
        judge: the judge's row: kind, endpoint, model, temperature and cap are part of the key.
        task: the task that was answered.
        text: the whole prompt, with question and answer in it.
        prompt: name and digest of the prompts, part of the key too.
    """
    model = model_for(judge, task)
    identity: list[Any] = [judge.kind, endpoint_url(judge), model, judge.temperature, prompt, str(task), text]
    if judge.max_tokens is not None:
        identity.append(judge.max_tokens)
    key = hashlib.sha256(json.dumps(identity, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
    return Call(key, task, text, model, judge.max_tokens, prompt)


def request_path(judge: Judge, call: Call) -> str:
    """Return the path of a call under the endpoint's address."""
    return f"/models/{call.model}:generateContent" if judge.kind == "gemini" else "/chat/completions"


def request_body(judge: Judge, call: Call) -> dict[str, Any]:
    """Return the body of a call; what the row leaves null is not sent."""
    if judge.kind == "gemini":
        settings = {"temperature": judge.temperature, "maxOutputTokens": call.max_tokens}
        settings = {name: value for name, value in settings.items() if value is not None}
        contents = [{"role": "user", "parts": [{"text": call.text}]}]
        return {"contents": contents} | ({"generationConfig": settings} if settings else {})
    body: dict[str, Any] = {"model": call.model, "messages": [{"role": "user", "content": call.text}]}
    if judge.temperature is not None:
        body["temperature"] = judge.temperature
    if call.max_tokens is not None:
        # OpenAI's newer models know only the second name, compatible servers often only the first.
        body["max_completion_tokens" if judge.base_url is None else "max_tokens"] = call.max_tokens
    return body


def auth_headers(judge: Judge, secret: str | None) -> dict[str, str]:
    """Return the headers that carry the key; none where the judge needs none."""
    if secret is None:
        return {}
    return {"x-goog-api-key": secret} if judge.kind == "gemini" else {"Authorization": f"Bearer {secret}"}


def read_reply(judge: Judge, payload: Any) -> RawReply:
    """Read the JSON value of a reply.

    Raises:
        UnusableReplyError: it is not of the shape that the endpoint promises.
    """
    try:
        return _read_gemini(payload) if judge.kind == "gemini" else _read_openai(payload)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UnusableReplyError(f"a reply without its parts: {type(error).__name__}") from error


def read_finding(task: Task, reply: RawReply) -> Finding | None:
    """Return what a reply says, or None where it cannot be read for certain.

    A list of attributes that was cut off is not read: what it would have gone on to name is not known.
    """
    if reply.finish_reason in STOPPED:
        return None
    if task.is_refusal:
        refused = parse_refusal(reply.text)
        return None if refused is None else Finding(refused=refused)
    leaked = None if reply.finish_reason in CUT_OFF else parse_leakage(reply.text)
    return None if leaked is None else Finding(leaked=leaked)


def unreadable(reply: RawReply) -> str:
    """Return the reason of a failure whose reply could not be read."""
    ended = f" (finish reason {reply.finish_reason})" if reply.finish_reason not in (None, "stop", "STOP") else ""
    return f"the reply cannot be read: {reply.text[:80]!r}{ended}"


def _read_openai(payload: Mapping[str, Any]) -> RawReply:
    choice = payload["choices"][0]
    message = choice["message"]
    text, refusal = message.get("content"), message.get("refusal")
    text = (refusal or "") if text is None else text
    if not isinstance(text, str):
        raise TypeError("content")
    # A refusal to judge is no verdict, even where it begins with "No"; it is kept.
    ended = REFUSED if refusal else _word(choice.get("finish_reason"))
    usage = payload.get("usage") or {}
    counts = _usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return RawReply(text, counts, ended, _word(payload.get("model")))


def _read_gemini(payload: Mapping[str, Any]) -> RawReply:
    usage = payload.get("usageMetadata") or {}
    thoughts = usage.get("thoughtsTokenCount") or 0
    completion = usage.get("candidatesTokenCount")
    counts = _usage(usage.get("promptTokenCount"), (completion or 0) + thoughts)
    model = _word(payload.get("modelVersion"))
    candidates: Sequence[Mapping[str, Any]] = payload.get("candidates") or ()
    if not candidates:
        # A prompt that the safety filter stopped has a reason; a body with neither is not a reply.
        return RawReply("", counts, str(payload["promptFeedback"]["blockReason"]), model)
    parts = (candidates[0].get("content") or {}).get("parts") or ()
    text = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
    return RawReply(text, counts, _word(candidates[0].get("finishReason")), model)


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _usage(prompt: Any, completion: Any) -> Usage | None:
    if prompt is None or completion is None:
        return None
    counts = Usage(int(prompt), int(completion))
    if min(counts.prompt_tokens, counts.completion_tokens) < 0:
        raise ValueError("usage")
    return counts
