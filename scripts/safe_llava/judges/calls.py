"""What a judge is asked and what came back: calls, known by all that their replies depend on, replies, outcomes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError

OPENAI_URL = "https://api.openai.com/v1"
GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta"
Found = TypeVar("Found")
# What may follow a model's name where an endpoint names the version that it chose: a date, a number, a channel.
_VERSION = r"(?:[-@:](?:\d[\w.-]*|latest|preview[\w.-]*|exp[\w.-]*))?"


@dataclass(frozen=True)
class Call:
    """One question to a judge; calls of equal ``key`` are one call.

    ``task`` says what is judged: a task of PRISM, or a benchmark. ``model`` is the judge's model, ``max_tokens`` a cap
    on the reply, ``prompt`` the name and digest of the prompts.
    """

    key: str
    task: str
    text: str
    model: str
    max_tokens: int | None = None
    prompt: str = ""
    temperature: float | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of one call as its server counted them, those of reasoning among the completion's."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    @classmethod
    def counted(cls, body: Any) -> Usage | None:
        """Return the tokens that a body counts, of either kind; None where it does not say, or says what is no count.

        Some servers leave reasoning out of the completion's tokens and count it in the total alone.
        """
        usage = (body.get("usage") or body.get("usageMetadata")) if isinstance(body, dict) else None
        if not isinstance(usage, dict):
            return None
        try:
            prompt = int(usage["prompt_tokens"] if "prompt_tokens" in usage else usage["promptTokenCount"])
            names = ("completion_tokens", "candidatesTokenCount", "thoughtsTokenCount")
            parts = [int(usage[name]) for name in names if usage.get(name) is not None]
            total = int(usage.get("total_tokens") or usage.get("totalTokenCount") or 0)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        known = min([prompt, *parts]) >= 0 and (parts or total >= prompt)
        return cls(prompt, max(sum(parts), total - prompt)) if known else None


@dataclass(frozen=True)
class RawReply:
    """What came back for a call.

    ``model`` is as the server names it, ``usage`` None where it says nothing of it, ``batch`` that which held it.
    """

    text: str
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None
    batch: str | None = None


@dataclass(frozen=True)
class Outcome(Generic[Found]):
    """How a call ended: with what was found and the model that said it, or with the reason why there is nothing."""

    key: str
    found: Found | None = None
    model: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Asked(Generic[Found]):
    """What a run came to: an outcome for every call, why it ended early, whether the endpoint ever replied."""

    outcomes: dict[str, Outcome[Found]]
    ended: PrismError | None = None
    replied: bool = True


class Stopped(Exception):  # noqa: N818 — not an error: somebody asked for it
    """The run was asked to stop; everything that came is kept."""


def endpoint_url(judge: Judge) -> str:
    """Return the address of a judge's endpoint, without a slash at its end."""
    return (judge.base_url or (GEMINI_URL if judge.kind == "gemini" else OPENAI_URL)).rstrip("/")


def call_key(judge: Judge, *identity: Any) -> str:
    """Return the key under which the replies to a call are kept.

    What a row sets beside its model and cap is part of it only where it is set: replies of earlier versions are found.
    """
    extra = {"reasoning_effort": judge.reasoning_effort, "extra_body": judge.extra_body}
    parts = [judge.kind, endpoint_url(judge), *identity, *([extra] if any(extra.values()) else [])]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def is_another_model(asked: str, named: str | None) -> bool:
    """Return whether a reply names another model than the one that was asked, and not just a version of it."""
    if named is None:
        return False
    asked, named = (name.lower().rpartition("/")[2] for name in (asked, named))
    return re.fullmatch(re.escape(asked) + _VERSION, named) is None
