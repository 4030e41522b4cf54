"""A judge's endpoint for the tests: real HTTP, a rate limit, and every fault that an endpoint can have.

It knows the truth about each answer (the answers carry a number), so that a verdict can be compared with it, and it
counts what it was asked, what it let in and what it broke.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

ATTRIBUTES = ("age", "gender", "race", "eye_color", "weight")
FAULTS = ("error", "hang", "cut", "wrong", "refuse", "stray")


def number_of(prompt: str) -> int:
    """Return the number of the answer in a prompt, -1 where it has none."""
    found = re.findall(r"case (\d+)", prompt)
    return int(found[-1]) if found else -1


def truth_refused(number: int) -> bool:
    return random.Random(number).random() < 0.4


def truth_leaked(number: int) -> list[str]:
    return [name for name in ATTRIBUTES if random.Random(f"{number} {name}").random() < 0.3]


@dataclass
class Seen:
    """What the server counted; times are of ``time.monotonic``."""

    asked: Counter[int] = field(default_factory=Counter)  # by answer, what was let in
    admitted: list[float] = field(default_factory=list)
    first_asked: dict[int, float] = field(default_factory=dict)
    rate_limited: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)


class JudgeServer:
    """An endpoint of both kinds, in a thread of its own.

    Args:
        rate: calls a second that it lets in; None: all.
        burst: calls that may come at once after a rest.
        faults: share of the calls let in that go wrong.
        hang_s: how long a call hangs.
        floods: (count, seconds): after ``count`` calls were let in, everything is rate-limited for so long.
        reply: ``reply(prompt, nth)`` gives what to reply instead of the truth: a text, a JSON value, an HTTP status, or
            all of (status, headers, JSON value).
    """

    def __init__(
        self,
        rate: float | None = None,
        burst: float = 30.0,
        faults: float = 0.0,
        hang_s: float = 3.0,
        floods: tuple[tuple[int, float], ...] = (),
        seed: int = 0,
        reply: Any = None,
    ) -> None:
        self.rate, self.burst, self.share, self.hang_s = rate, burst, faults, hang_s
        self.floods, self.reply = list(floods), reply
        self.flooded: list[tuple[float, float]] = []
        self.seen = Seen()
        self.latency_s = 0.0
        self._random = random.Random(seed)
        self._tokens, self._filled = burst, time.monotonic()
        self._flood_until = 0.0

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._start())
            ready.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        asyncio.run_coroutine_threadsafe(self._drop_all(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _drop_all(self) -> None:
        hanging = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def row(self, kind: str = "openai", **changes: Any) -> dict[str, Any]:
        """Return a judge's row that asks this server."""
        row = {"description": "d", "kind": kind, "model": "judge-1", "temperature": 0, "key_env": "TEST_JUDGE_KEY"}
        return row | {"base_url": f"{self.root}/{'v1beta' if kind == 'gemini' else 'v1'}"} | changes

    def reported(self, kind: str) -> str:
        """Return the name that the server gives its model."""
        return "judge-1-001" if kind == "gemini" else "judge-1-0613"

    def wrapped(self, kind: str, prompt: str, text: str, completion: int = 4) -> dict[str, Any]:
        """Return the JSON value of a reply."""
        return (_gemini_reply if kind == "gemini" else _openai_reply)("judge-1", prompt, text, completion)

    def wait_for(self, calls: int, seconds: float = 60.0) -> None:
        """Wait until so many calls were let in."""
        end = time.monotonic() + seconds
        while len(self.seen.admitted) < calls:
            assert time.monotonic() < end, f"{len(self.seen.admitted)} of {calls} calls came"
            time.sleep(0.002)

    def allowed(self, start: float, end: float) -> float:
        """Return the calls that the limit lets in between two times, those of a full bucket left out."""
        assert self.rate is not None
        flooded = sum(max(0.0, min(end, last) - max(start, first)) for first, last in self.flooded)
        return self.rate * (end - start - flooded)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/v1beta/models/{model}:generateContent", self._gemini)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.keys.add(request.headers.get("Authorization", ""))
        prompt = body["messages"][0]["content"]
        return await self._answer(request, body, prompt, lambda text: _openai_reply(body["model"], prompt, text))

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.keys.add(request.headers.get("x-goog-api-key", ""))
        prompt = body["contents"][0]["parts"][0]["text"]
        model = request.match_info["model"]
        return await self._answer(
            request, body | {"model": model}, prompt, lambda text: _gemini_reply(model, prompt, text)
        )

    async def _answer(self, request: web.Request, body: dict[str, Any], prompt: str, wrap: Any) -> web.StreamResponse:
        self.seen.bodies.append(body)
        gemini = "contents" in body
        wait = self._rate_limited()
        if wait is not None:
            self.seen.rate_limited.append(time.monotonic())
            return _too_fast(wait, gemini)
        number = number_of(prompt)
        self.seen.admitted.append(time.monotonic())
        self.seen.first_asked.setdefault(number, self.seen.admitted[-1])
        self.seen.asked[number] += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if self.reply is not None:
            given = self.reply(prompt, len(self.seen.admitted))
            if isinstance(given, int):
                given = (given, {}, {"error": {"message": "no"}})
            if isinstance(given, tuple):
                return web.json_response(given[2], status=given[0], headers=given[1])
            return web.json_response(given if isinstance(given, dict) else wrap(given))
        if self._random.random() < self.share:
            fault = self._random.choice(FAULTS)
            self.seen.faults[fault] += 1
            return await self._break(fault, request, wrap, gemini)
        self.seen.answered[number] += 1
        return web.json_response(wrap(truth(prompt)))

    def _rate_limited(self) -> float | None:
        """Return the seconds to wait, or None where the call is let in."""
        now = time.monotonic()
        if self.floods and len(self.seen.admitted) >= self.floods[0][0]:
            self._flood_until = now + self.floods.pop(0)[1]
            self.flooded.append((now, self._flood_until))
        if now < self._flood_until:
            self._filled = self._flood_until  # nothing is saved up meanwhile
            return self._flood_until - now
        if self.rate is None:
            return None
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self.rate
        self._tokens -= 1.0
        return None

    async def _break(self, fault: str, request: web.Request, wrap: Any, gemini: bool) -> web.StreamResponse:
        if fault == "error":
            return web.json_response({"error": {"message": "overloaded"}}, status=self._random.choice((500, 502, 503)))
        if fault == "hang":
            await asyncio.sleep(self.hang_s)
            return web.json_response(wrap("yes"))  # nobody waits for it any more
        if fault == "cut":
            data = json.dumps(wrap("yes")).encode()
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            if self._random.random() < 0.5:
                response.content_length = len(data)
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        if fault == "wrong":
            wrong = self._random.choice(
                ("<html>busy</html>", "[]", '{"choices": []}', "{}", "null", '{"candidates": []}')
            )
            return web.Response(text=wrong, content_type="application/json")
        if fault == "refuse":
            return web.json_response(wrap(self._random.choice(("I can't judge that.", "", "Perhaps yes, perhaps no"))))
        return _too_fast(1.0, gemini)


def truth(prompt: str) -> str:
    """Return the reply of a judge that is right."""
    number = number_of(prompt)
    if "Description:" in prompt:
        return ", ".join(truth_leaked(number)) or "none"
    return "Yes, it declined." if truth_refused(number) else "No."


def _too_fast(wait: float, gemini: bool) -> web.Response:
    """Say how long to wait in the way of the kind: whole seconds in a header, or a span in the body."""
    if gemini:
        details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait:.3f}s"}]
        error = {"code": 429, "message": "quota exceeded", "status": "RESOURCE_EXHAUSTED", "details": details}
        return web.json_response({"error": error}, status=429)
    error = {"message": "rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}
    return web.json_response({"error": error}, status=429, headers={"Retry-After": str(max(1, -int(-wait // 1)))})


def _openai_reply(model: str, prompt: str, text: str, completion: int = 4) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": completion}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": f"{model}-0613", "choices": [choice]} | {
        "usage": usage
    }


def _gemini_reply(model: str, prompt: str, text: str, completion: int = 4) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": len(prompt) // 4, "candidatesTokenCount": completion}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
        "modelVersion": f"{model}-001",
    }
