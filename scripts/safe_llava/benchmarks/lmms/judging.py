"""Chat completions that a benchmark's own code asks for, from a judge of ``prism.judges``, each kept for good.

A reply lies in the judge's store under everything that it depends on: the judge, and the whole request. What fails is
noted beside it, is never a reply, and is asked again by the next run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from safe_llava.config.prism import Judge
from safe_llava.core.errors import BenchmarkError
from safe_llava.formats.prism import Task
from safe_llava.judges.client import STOPPED, Call, Finding, RawReply, Usage, endpoint_url, unreadable
from safe_llava.judges.cost import Budget, cost_of, estimated_usage
from safe_llava.judges.http import Connection, Fault, Trouble
from safe_llava.judges.limits import Pace, backoff
from safe_llava.judges.run import MAX_TURNED_DOWN
from safe_llava.judges.store import FAILURES, Stored, VerdictStore

logger = logging.getLogger(__name__)
# What a request may hold beside its message; anything else would change the reply, and is not passed on.
PASSED_ON = {"model", "messages", "temperature", "max_tokens", "max_completion_tokens"}
NEUTRAL = {"n": 1, "top_p": 1.0, "stream": False}  # may stand in a request where they say nothing


class ReplyBook(VerdictStore):
    """A verdict store whose lines are replies of any kind: the benchmark reads them, not this project."""

    def __init__(self, folder: Path, judge: str) -> None:
        self.replies: dict[str, RawReply] = {}
        super().__init__(folder, judge)

    def keep(self, call: Call, reply: RawReply, usage: Usage, cost: float | None, attempts: int, **more: Any) -> None:
        """Keep a reply, before anything else happens with it."""
        self.add(call, reply, Finding(), usage=usage, cost=cost, attempts=attempts, **more)
        self.replies.setdefault(call.key, reply)

    def _take_row(self, path: Path, row: dict[str, Any]) -> None:
        key, text = row.get("key"), row.get("raw")
        if not path.name.endswith(FAILURES) and isinstance(key, str) and isinstance(text, str):
            stored = Stored(Finding(), row.get("model"), (row["time"], path.name.removesuffix(".jsonl")))
            known = self.get(key)
            self._take(key, stored)
            if known is None or stored.order < known.order:
                self.replies[key] = RawReply(text, None, row.get("finish_reason"), row.get("model"))
        if row.get("judge") == self.judge:
            self._count(self.total, row)


class BadRequestError(Exception):
    """A request that cannot be passed on as it is."""


def read_request(judge: Judge, request: Mapping[str, Any], benchmark: str) -> tuple[Call, float | None]:
    """Return the call that a request for a chat completion comes to, and its temperature (None: not sent).

    The model is the judge's, whatever the request names. The temperature is the request's, for a judge that takes one.

    Raises:
        BadRequestError: it is more than one message of text, or holds a setting that is not passed on.
    """
    strange = [name for name, value in request.items() if name not in PASSED_ON and NEUTRAL.get(name) != value]
    if strange:
        raise BadRequestError(f"the benchmark's request sets {', '.join(sorted(strange))}, which is not passed on")
    messages = request.get("messages")
    message = messages[0] if isinstance(messages, list) and len(messages) == 1 else None
    text = message.get("content") if isinstance(message, dict) and message.get("role") == "user" else None
    if not isinstance(text, str):
        raise BadRequestError("the benchmark's request is not one message of text from the user")
    asked = request.get("temperature")
    temperature = None if judge.temperature is None or asked is None else float(asked)
    cap = request.get("max_tokens") or request.get("max_completion_tokens")
    max_tokens = int(cap) if cap else judge.max_tokens
    identity = [judge.kind, endpoint_url(judge), judge.model, temperature, max_tokens, "chat", text]
    key = hashlib.sha256(json.dumps(identity, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
    # The store writes the task's name into the line, and nothing else is done with it.
    return Call(key, cast(Task, benchmark), text, str(judge.model), max_tokens, "lmms-eval"), temperature


class Judging:
    """One benchmark's judge: asks what is not in the book, at the judge's pace, again where it failed.

    Args:
        judge: the judge's row, behind an API.
        name: its name.
        benchmark: the benchmark's name, for the book.
        pattern: a usable reply matches it in full, outer white space aside.
        folder: of the book.
        secret: the key, or None where none is needed.
    """

    def __init__(self, judge: Judge, name: str, benchmark: str, pattern: str, folder: Path, secret: str | None) -> None:
        if judge.kind == "rules" or judge.batch:
            raise BenchmarkError(
                f"judge {name} cannot be asked for a chat completion at once",
                "set `benchmarks.judge` to a row of prism.judges behind an API (not `rules`, not `batch`)",
            )
        self.judge, self.name, self.benchmark = judge, name, benchmark
        self._pattern, self._secret = re.compile(pattern, re.DOTALL), secret
        self.book = ReplyBook(folder, name)
        self._pace = Pace(judge.requests_per_minute, judge.tokens_per_minute)
        self._budget = Budget(judge.max_cost, self.book.total.cost)
        self._connections: dict[float | None, Connection] = {}
        self._places = asyncio.Semaphore(judge.max_concurrency)
        self._flying: dict[str, asyncio.Task[RawReply | None]] = {}
        self._heard = time.monotonic()
        self._awaited = 0  # calls under way
        self.failures: dict[str, str] = {}  # reasons by key
        self.used: dict[str, str | None] = {}  # models that replied, by key
        self.asked = 0
        self._over: str | None = None  # why no further call can succeed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judging", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.book.close()

    def reply(self, request: Mapping[str, Any]) -> RawReply | None:
        """Return the judge's reply to a request for a chat completion, or None where there is none; any thread may ask.

        Equal requests get one reply. Why there is none stands in ``failures``.
        """
        try:
            reply: RawReply | None = self._run(self._reply(request)).result()
            return reply
        except Exception as error:  # a full disk, a defect of ours: the benchmark's code would make a score of it
            self.failures[f"{type(error).__name__}"] = f"{type(error).__name__}: {error}"
            return None

    def describe(self) -> dict[str, Any]:
        """Return what is worth keeping beside a score."""
        return {
            "judge": self.name,
            "row": self.judge.model_dump(mode="json"),
            "models": sorted({model for model in self.used.values() if model}),
            "calls": len(self.used) + len(self.failures),
            "asked": self.asked,
            "failed": len(self.failures),
            "cost": round(self.book.own.cost, 6),
        }

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        """End: nothing more is asked, and what was asked is waited for, since it is paid for."""
        self._over = self._over or "the run has ended"
        if flying := [task for task in self._flying.values() if not task.done()]:
            _, late = await asyncio.wait(flying, timeout=self.judge.patience_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in self._connections.values():
            await connection.__aexit__(None, None, None)

    async def _reply(self, request: Mapping[str, Any]) -> RawReply | None:
        try:
            call, temperature = read_request(self.judge, request, self.benchmark)
        except BadRequestError as error:
            self.failures[json.dumps(request, sort_keys=True, default=str)[:200]] = str(error)
            return None
        if call.key in self.failures:
            return None  # a benchmark asks again at once; the next run does
        if call.key not in self._flying:
            self._flying[call.key] = asyncio.create_task(self._known_or_asked(call, temperature))
        return await self._flying[call.key]

    async def _known_or_asked(self, call: Call, temperature: float | None) -> RawReply | None:
        known = self.book.replies.get(call.key)
        if known is None:
            async with self._places:
                known = await self._ask(call, temperature)
        if known is not None:
            self.used[call.key] = known.model
        return known

    async def _ask(self, call: Call, temperature: float | None) -> RawReply | None:
        self.asked += 1
        if self._awaited == 0:  # while nothing was asked, nothing was to be heard
            self._heard = time.monotonic()
        self._awaited += 1
        try:
            return await self._ask_until_told(call, temperature)
        finally:
            self._awaited -= 1

    async def _ask_until_told(self, call: Call, temperature: float | None) -> RawReply | None:
        usage, cost, attempts, asks, troubles, turned_down = Usage(0, 0), 0.0, 0, 0, 0, 0
        known_price = cost_of(self.judge, call.model, usage) is not None
        while True:
            attempts += 1
            found = await self._once(call, temperature)
            if isinstance(found, RawReply):
                taken = found.usage or estimated_usage(self.judge, call)
                usage, cost = usage + taken, cost + (cost_of(self.judge, call.model, taken) or 0.0)
                spent = cost if known_price else None
                asks += 1
                if self._usable(found):
                    self.book.keep(call, found, usage, spent, attempts, temperature=temperature)
                    return found
                if asks > self.judge.asks_again:
                    self.book.fail(call, unreadable(found), reply=found, usage=usage, cost=spent, attempts=attempts)
                    self.failures[call.key] = unreadable(found)
                    return None
                continue
            turned_down += found.fault is Fault.TURNED_DOWN
            troubles += found.fault is Fault.PASSING
            if wait := self._wait(found, troubles, turned_down):
                await asyncio.sleep(wait)
                continue
            reason = found.reason if attempts == 1 else f"the call failed {attempts} times; {found.reason}"
            self.book.fail(call, reason, usage=usage, cost=cost if known_price else None, attempts=attempts)
            self.failures[call.key] = reason
            return None

    async def _once(self, call: Call, temperature: float | None) -> RawReply | Trouble:
        """Ask once, when pace and budget let it."""
        while (wait := self._pace.wait()) > 0 and self._over is None:
            await asyncio.sleep(wait)
        estimate = estimated_usage(self.judge, call)
        price = cost_of(self.judge, call.model, estimate) or 0.0
        if self._over is None and not self._budget.allows(price):
            self._over = f"max_cost (${self.judge.max_cost or 0.0:.4f}) is reached"
        if self._over is not None:
            return Trouble(Fault.OF_ALL, self._over)
        connection = await self._connected(temperature)
        self._budget.hold(price)
        tokens = estimate.prompt_tokens + estimate.completion_tokens
        number = self._pace.sent(tokens)
        found: RawReply | Trouble | None = None
        try:
            found = await connection.ask(call)
        finally:
            used = (found.usage or estimate) if isinstance(found, RawReply) else None
            self._budget.settle(price, (cost_of(self.judge, call.model, used) or 0.0) if used else 0.0)
        if used is not None:
            self._pace.settle(tokens, used.prompt_tokens + used.completion_tokens)
        self._count(number, found)
        return found

    def _count(self, number: int, found: RawReply | Trouble) -> None:
        """Tell the pace what became of a call, and stop all where nothing more can come."""
        if isinstance(found, RawReply) or found.fault is Fault.OF_CALL:
            self._pace.passed(number)
            self._heard = time.monotonic()
        elif found.fault is Fault.OF_ALL:
            self._over = found.reason
        else:
            (self._pace.turned_down if found.fault is Fault.TURNED_DOWN else self._pace.failed)(number, found.wait)
            silent = time.monotonic() - self._heard
            if silent > self.judge.patience_s or (found.wait or 0.0) > self.judge.patience_s:
                self._over = f"the endpoint is not to be had for {silent:.0f} s: {found.reason}"

    def _wait(self, trouble: Trouble, troubles: int, turned_down: int) -> float | None:
        """Return the seconds before another try, or None where there is none."""
        if trouble.fault in (Fault.OF_ALL, Fault.OF_CALL) or self._over is not None:
            return None
        if troubles > self.judge.retries or turned_down >= MAX_TURNED_DOWN:
            return None
        return backoff(max(troubles, turned_down)) if trouble.wait is None else max(trouble.wait, 0.001)

    async def _connected(self, temperature: float | None) -> Connection:
        if temperature not in self._connections:
            row = self.judge.model_copy(update={"temperature": temperature})
            self._connections[temperature] = Connection(row, self._secret)
            await self._connections[temperature].__aenter__()
        return self._connections[temperature]

    def _usable(self, reply: RawReply) -> bool:
        # One that was cut off may hold what counts: the pattern says so.
        return reply.finish_reason not in STOPPED and self._pattern.fullmatch(reply.text.strip()) is not None
