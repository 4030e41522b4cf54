"""Chat completions that a benchmark's own code asks for, from a judge of ``prism.judges``, each kept for good.

A reply lies in the judge's store under everything that it depends on: the judge, and the whole request. What fails is
noted beside it, is never a reply, and is asked again by the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safe_llava.config.prism import Judge
from safe_llava.core.cli import EXIT_RUN_AGAIN
from safe_llava.core.errors import BenchmarkError
from safe_llava.judges.calls import Call, RawReply, Stopped, call_key
from safe_llava.judges.replies import CUT_OFF, GOOD_ENDINGS, without_reasoning
from safe_llava.judges.run import Scheduler, open_client
from safe_llava.judges.signals import told_to_stop
from safe_llava.judges.store import VerdictStore

logger = logging.getLogger(__name__)
# What a request may hold beside its message; anything else would change the reply, and is not passed on.
PASSED_ON = {"model", "messages", "temperature", "max_tokens", "max_completion_tokens"}
NEUTRAL = {"n": 1, "top_p": 1.0, "stream": False}  # may stand in a request where they say nothing


class BenchmarkReading:
    """How replies to a benchmark's requests are read: as they are, for the benchmark's code to make something of them.

    Args:
        pattern: a usable reply matches it in full, outer white space and reasoning aside.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)

    def read(self, call: Call, reply: RawReply) -> RawReply | None:
        text = without_reasoning(reply.text)
        # One that was cut off may hold what counts: the pattern says so.
        usable = reply.finish_reason in GOOD_ENDINGS | CUT_OFF and self._pattern.fullmatch(text.strip())
        return RawReply(text, reply.usage, reply.finish_reason, reply.model) if usable else None

    def columns(self, found: RawReply) -> dict[str, Any]:
        return {}

    def stored(self, row: Mapping[str, Any]) -> RawReply | None:
        if not isinstance(row.get("raw"), str):
            return None
        return RawReply(without_reasoning(row["raw"]), None, row.get("finish_reason"), row.get("model"))


class BadRequestError(Exception):
    """A request that cannot be passed on as it is."""


def read_request(judge: Judge, request: Mapping[str, Any], benchmark: str) -> Call:
    """Return the call that a request for a chat completion comes to.

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
    max_tokens = int(cap) if cap else judge.reply_cap
    key = call_key(judge, judge.model, temperature, max_tokens, "chat", text)
    return Call(key, benchmark, text, str(judge.model), max_tokens, "lmms-eval", temperature)


class Judging:
    """One benchmark's judge: asks what is not in its store.

    Args:
        judge: the judge's row, behind an API.
        name: its name.
        benchmark: the benchmark's name, for the store.
        pattern: a usable reply matches it in full, outer white space aside.
        folder: of what the judge said.
        secret: the key, or None where none is needed.
    """

    def __init__(self, judge: Judge, name: str, benchmark: str, pattern: str, folder: Path, secret: str | None) -> None:
        if judge.kind == "rules" or judge.batch:
            raise BenchmarkError(
                f"judge {name} cannot be asked for a chat completion at once",
                "set `benchmarks.judge` to a row of prism.judges behind an API (not `rules`, not `batch`)",
            )
        self.judge, self.name, self.benchmark = judge, name, benchmark
        self.store = VerdictStore(folder, name, BenchmarkReading(pattern))
        self.failures: dict[str, str] = {}  # reasons by key
        self.used: dict[str, str | None] = {}  # models that replied, by key
        self._signals = contextlib.ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judging", daemon=True)
        self._scheduler = Scheduler(judge, self.store, open_client(judge, secret))

    def __enter__(self) -> Self:
        self._thread.start()
        self._signals.enter_context(told_to_stop(self._leave))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._signals:  # a second one waits for nothing
            self._run(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.store.close()

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
            "other_models": sorted(self._scheduler.other_models),
            "calls": len(self.used) + len(self.failures),
            "asked": self._scheduler.sent,
            "failed": len(self.failures),
            "cost": round(self.store.own.cost, 6),
        }

    def _leave(self, name: str) -> None:
        logger.warning("%s: waiting for the judge's calls under way, which are paid", name)
        self._loop.call_soon_threadsafe(self._scheduler.end, Stopped(name))
        raise SystemExit(EXIT_RUN_AGAIN)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        """Ask nothing more, and wait for what was asked, since it is paid."""
        self._scheduler.end(Stopped("the run has ended"))
        await self._scheduler.close()

    async def _reply(self, request: Mapping[str, Any]) -> RawReply | None:
        try:
            call = read_request(self.judge, request, self.benchmark)
        except BadRequestError as error:
            self.failures[json.dumps(request, sort_keys=True, default=str)[:200]] = str(error)
            return None
        known = self.store.get(call.key)
        if known is None:
            outcome = await self._scheduler.ask(call)
            if outcome.found is None:
                self.failures[call.key] = outcome.reason or "no reply"
                return None
            self.used[call.key] = outcome.model
            return outcome.found
        self.used[call.key] = known.model
        return known.found
