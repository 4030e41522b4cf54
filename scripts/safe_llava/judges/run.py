"""Asking a judge: each call once, at its rate, within its bound, again where it failed, each reply kept at once.

One scheduler serves PRISM's answers, which come all at once, and benchmarks, whose own code asks one after another. A
call under way holds one of the slots; one that waits for its next try holds none, and one that hangs no longer than it
may. What a run could not ask is no loss: what came is in the store, and the next run asks for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.core.progress import Progress
from safe_llava.judges.batch import BatchQueue
from safe_llava.judges.calls import Asked, Call, Found, Outcome, RawReply, Stopped, Usage, is_another_model
from safe_llava.judges.clients import Client
from safe_llava.judges.cost import cost_of, estimated_usage, highest_usage, price_for, too_dear
from safe_llava.judges.faults import CallError, Fault
from safe_llava.judges.rate import FIRST_LIMIT, ConcurrencyLimiter, RateLimiter, backoff
from safe_llava.judges.replies import unreadable
from safe_llava.judges.signals import told_to_stop
from safe_llava.judges.store import VerdictStore

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 2.0  # between looks at what other processes have judged, and between calls of fsync
MAX_RATE_LIMITED = 20  # times that one call may come too fast: some are too long for a limit, and always will be
WAITS_TAKEN = 3  # times that the endpoint's word on how long to wait is enough; then a call waits longer each time
MOST_FILES, SPARE_FILES = 10_000, 64  # files open at once where nothing bounds them; those that are no connections
FIRST_CALLS = 4  # calls under way until a reply has shown that the endpoint works
ALONE_POLL_S = 0.1  # between looks whether another process's call has shown what one takes
HOPELESS_AFTER = 20  # calls that the endpoint rejects, before the first that it answers, until all are given up
FEWEST_WORKERS = 64  # so many calls at least are under way or wait for their next try


@dataclass
class Work:
    """A call on its way to a verdict."""

    call: Call
    estimate: Usage
    attempts: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)


class Scheduler(Generic[Found]):
    """Asks one judge, from one event loop.

    Args:
        judge: the judge's row.
        store: where replies go, and come from where another process was faster.
        client: the judge's endpoint.
    """

    def __init__(self, judge: Judge, store: VerdictStore[Found], client: Client) -> None:
        self.judge, self.store, self._client = judge, store, client
        self._rate = RateLimiter(judge.requests_per_minute, judge.tokens_per_minute)
        self.proven = len(store) > 0  # that the endpoint answers this judge's calls
        most = min(judge.max_concurrency, open_files() - SPARE_FILES)
        self._concurrency = ConcurrencyLimiter(most, judge.timeout_s, FIRST_LIMIT if self.proven else FIRST_CALLS)
        self._batches = BatchQueue(judge, store, client, self.end) if judge.batch else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flying: set[asyncio.Task[Any]] = set()
        self._landed, self._first = asyncio.Event(), asyncio.Lock()
        self._asked: dict[str, asyncio.Task[Outcome[Found]]] = {}
        self._hopeless = 0
        self._heard = time.monotonic()
        self.ended: BaseException | None = None  # why nothing more is asked
        self.sent = 0  # calls that the endpoint was asked
        self.other_models: set[str] = set()
        self.progress: Progress | None = None
        self._failed = 0

    @property
    def reason(self) -> str:
        """Why calls are not asked any more."""
        return self.ended.message if isinstance(self.ended, PrismError) else f"not asked: {self.ended}"

    async def ask(self, call: Call) -> Outcome[Found]:
        """Return the outcome of a call; equal calls are one, and one that failed is not asked again by this run."""
        if call.key not in self._asked:
            if not self._tasks:  # while nothing was asked, nothing was to be heard
                self._heard = time.monotonic()
            self._asked[call.key] = self._spawn(self._outcome(call))
        try:
            return await asyncio.shield(self._asked[call.key])
        except asyncio.CancelledError:
            if self._asked[call.key].cancelled() and self.ended is not None:
                return Outcome(call.key, reason=self.reason)
            raise

    async def ask_all(self, calls: Sequence[Call]) -> dict[str, Outcome[Found]]:
        """Return an outcome for every call; ``ended`` says why some were not asked."""
        # Two processes with the same calls begin at different ones, and find each other's verdicts.
        left = iter(calls if self.judge.batch else random.sample(calls, len(calls)))
        outcomes: dict[str, Outcome[Found]] = {}
        self.progress = Progress(len(calls), "judge", "calls")

        async def worker() -> None:
            for call in left:
                if self.ended is not None:
                    return
                outcomes[call.key] = await self._outcome(call)

        most = len(calls) if self.judge.batch else max(FEWEST_WORKERS, 2 * self.judge.max_concurrency)
        workers = [self._spawn(worker()) for _ in range(min(len(calls), most))]
        loop = asyncio.get_running_loop()
        with told_to_stop(lambda name: loop.call_soon_threadsafe(self._stop, name)):
            keeping = asyncio.create_task(self._keep_house())
            await asyncio.wait(workers) if workers else None
            await self.close()
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        errors = [error for task in workers if not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            raise errors[0]
        self.progress.close(f"{self.store.own.calls} replies, ${self.store.own.cost:.4f}")
        return {call.key: outcomes.get(call.key) or Outcome(call.key, reason=self.reason) for call in calls}

    def end(self, why: BaseException) -> None:
        """Ask nothing more; calls under way are waited for, `patience_s` of the row at most, since they are paid."""
        if self.ended is None:
            self.ended = why
            self._drop(self._tasks - self._flying)
            asyncio.get_running_loop().call_later(self.judge.patience_s, self._drop, self._tasks)

    async def close(self) -> None:
        """Wait for the calls under way, and let go of the endpoint."""
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._batches is not None:
                await self._batches.close()
        finally:
            await self._client.close()
            await asyncio.to_thread(self.store.sync)

    @staticmethod
    def _drop(tasks: set[asyncio.Task[Any]]) -> None:
        for task in list(tasks):
            task.cancel()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _outcome(self, call: Call) -> Outcome[Found]:
        """Ask until there is a verdict, or none is to be had."""
        if self.ended is not None:
            return Outcome(call.key, reason=self.reason)
        work = Work(call, estimated_usage(self.judge, call))
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and self._may_try_again(work, error)),
            wait=lambda state: 0.0 if self.judge.batch else _pause(work, state),
            reraise=True,
        )
        try:
            outcome: Outcome[Found] = await retrying(self._in_batch if self.judge.batch else self._once, work)
        except CallError as error:
            reason = error.reason
            if work.attempts > 1 and error.fault is not Fault.UNREADABLE and not self.judge.batch:
                reason = f"the call failed {work.attempts} times; {reason}"
            if error.fault is not Fault.FATAL and error.fault is not Fault.UNREADABLE:
                self.store.fail(call, reason, attempts=work.attempts)
            outcome = Outcome(call.key, reason=reason)
        except asyncio.CancelledError:
            if self.ended is None:
                raise
            outcome = Outcome(call.key, reason=self.reason)
        except PrismError as error:  # the store takes nothing more
            self.end(error)
            outcome = Outcome(call.key, reason=error.message)
        self._failed += outcome.reason is not None
        if self.progress is not None:
            self.progress.update(note=f"{self._failed} failed" if self._failed else "")
        return outcome

    def _may_try_again(self, work: Work, error: CallError) -> bool:
        work.faults[error.fault] += 1
        most = {
            Fault.RATE_LIMITED: MAX_RATE_LIMITED,
            Fault.TRANSIENT: self.judge.batch_tries if self.judge.batch else self.judge.retries + 1,
            Fault.UNREADABLE: self.judge.asks_again + 1,
        }
        if self.judge.batch and work.attempts >= self.judge.batch_tries:
            return False
        return self.ended is None and work.faults[error.fault] < most.get(error.fault, 0)

    async def _in_batch(self, work: Work) -> Outcome[Found]:
        """Ask once in a batch, with the errors of ``_once``."""
        if (known := self.store.get(work.call.key)) is not None:
            return known
        assert self._batches is not None
        work.attempts += 1
        return await self._batches.ask(work.call, lambda reply: self._keep(work, reply))

    async def _once(self, work: Work) -> Outcome[Found]:
        """Ask once, when concurrency limit, rate and bound let it.

        Raises:
            CallError: there is no verdict.
        """
        async with self._concurrency, self._longest_known(work.call):
            await self._proof()
            number = await self._rate.turn(work.estimate.tokens)
            if self.ended is not None:
                raise CallError(Fault.FATAL, self.reason)
            if (known := self.store.get(work.call.key)) is not None:
                return known
            note = await self._noted(work.call)
            task = asyncio.current_task()
            assert task is not None
            self._flying.add(task)
            try:
                return await self._sent(work, number, note)
            except CallError as error:
                self._learn(number, error)
                raise
            finally:
                self._flying.discard(task)
                self._landed.set()

    async def _proof(self) -> None:
        """Where only rejections came so far, send nothing more while a call is under way that may be answered."""
        while self._hopeless >= HOPELESS_AFTER and not self.proven and self._flying:
            self._landed.clear()
            await self._landed.wait()

    @contextlib.asynccontextmanager
    async def _longest_known(self, call: Call) -> AsyncIterator[None]:
        """Let one call at a time be under way, over all processes, until a reply has shown what one takes.

        The bound needs it of a call without a cap.
        """

        def is_known() -> bool:
            return self.proven or self.store.total.longest > 0

        bounded = self.judge.max_cost is not None and price_for(self.judge, call.model) is not None
        if bounded and call.max_tokens is None and not is_known():
            async with self._first:
                while not is_known():
                    with self.store.alone() as alone:
                        self.store.refresh()  # the call before may have had its reply since
                        if alone:
                            yield
                            return
                    await asyncio.sleep(ALONE_POLL_S)
        yield

    async def _noted(self, call: Call) -> int | None:
        """Note what a call may cost before it is sent; where that might pass the bound, wait for those under way."""

        def highest(longest: int) -> float:
            return cost_of(self.judge, call.model, highest_usage(self.judge, call, longest)) or 0.0

        if price_for(self.judge, call.model) is None:
            return None
        while True:
            note = self.store.note(highest, self.judge.max_cost)
            if note is not None:
                return note
            if not self._flying:
                self.end(too_dear(self.judge, self.store))
                raise CallError(Fault.FATAL, self.reason)
            self._landed.clear()
            await self._landed.wait()

    async def _sent(self, work: Work, number: int, note: int | None) -> Outcome[Found]:
        work.attempts += 1
        self.sent += work.attempts == 1
        seconds = self._concurrency.timeout(work.faults[Fault.TRANSIENT])
        began, settled = time.monotonic(), False
        try:
            async with asyncio.timeout(seconds):  # whatever trickles in meanwhile
                reply = await self._client.ask(work.call)
            self._rate.learned.passed(number)
            self._heard = time.monotonic()
            self._concurrency.replied(self._heard - began, full=len(self._flying) >= self._concurrency.limit)
            self._concurrency.widen()
            outcome = self._keep(work, reply)
            settled = True
            return outcome
        # One whose reply was not seen may have been paid: its note stays open, and counts.
        except TimeoutError:
            raise CallError(Fault.TRANSIENT, f"no reply within {seconds:.3g} s", unseen=True) from None
        except CallError as error:
            settled = not error.unseen
            if error.paid is not None:
                cost = cost_of(self.judge, work.call.model, error.paid)
                self.store.fail(work.call, error.reason, usage=error.paid, cost=cost, attempts=work.attempts)
            raise
        finally:
            if note is not None and settled:
                self.store.settle(note)

    def _keep(self, work: Work, reply: RawReply) -> Outcome[Found]:
        """Put a reply into the store with its cost, whatever it says; return what it says.

        Raises:
            CallError: it cannot be read.
        """
        call, self.proven = work.call, True
        if reply.batch is not None and (known := self.store.get(call.key)) is not None:
            return known  # another run has taken the same batch in
        usage = reply.usage or estimated_usage(self.judge, call, reply.text)
        self._rate.settle(work.estimate.tokens, usage.tokens)
        cost = cost_of(self.judge, call.model, usage, batch=reply.batch is not None)
        if is_another_model(call.model, reply.model) and reply.model not in self.other_models:
            self.other_models.add(str(reply.model))
            log.warning("%s was asked, and %s is the name in its replies", call.model, reply.model)
        found = self.store.reading.read(call, reply)
        facts: dict[str, Any] = {"usage": usage, "cost": cost, "attempts": work.attempts}
        facts |= {} if reply.batch is None else {"batch": reply.batch}
        if found is None:
            self.store.fail(call, unreadable(reply), reply=reply, **facts)
            raise CallError(Fault.UNREADABLE, unreadable(reply))
        self.store.add(call, reply, found, **facts)
        return Outcome(call.key, found, reply.model)

    def _learn(self, number: int, error: CallError) -> None:
        """Take what an error says about the rest of the calls."""
        learned, rejected = self._rate.learned, error.fault is Fault.FATAL
        if error.fault is Fault.FATAL_FOR_CALL:
            learned.passed(number)
            self._heard = time.monotonic()
            self._hopeless += 1
            rejected = self._hopeless >= HOPELESS_AFTER and not self.proven and len(self._flying) == 1
        elif error.is_transient:
            (learned.limited if error.fault is Fault.RATE_LIMITED else learned.failed)(number, error.wait)
            self._end_if_silent(error)
        if rejected:
            self.end(
                PrismError(
                    f"the judge's endpoint rejects every call: {error.reason}",
                    "check the judge's base_url and model, its account, and the key in its environment variable; "
                    "the verdicts so far are kept",
                )
            )

    def _end_if_silent(self, error: CallError) -> None:
        limit, silent = self.judge.patience_s, time.monotonic() - self._heard
        if error.wait is not None and error.wait > limit:
            what = f"it asks to wait {error.wait:.0f} s"
        elif silent > limit:
            what = f"no reply for {silent:.0f} s"
        else:
            return
        self.end(
            PrismError(
                f"the judge's endpoint is not available: {what}; {error.reason}",
                "run again later, or raise the judge's patience_s; the verdicts so far are kept",
            )
        )

    async def _keep_house(self) -> None:
        try:
            while True:
                await asyncio.sleep(HOUSEKEEPING_S)
                await asyncio.to_thread(self.store.sync)  # beside the calls: a busy disk takes seconds for it
                self.store.refresh()
        except PrismError as error:
            self.end(error)

    def _stop(self, name: str) -> None:
        """Ask nothing more at the first signal, and at the second wait for nothing."""
        if self.ended is None:
            log.warning("%s: waiting for %d calls under way, which are paid", name, len(self._flying))
            self.end(Stopped(name))
        else:
            self._drop(self._tasks)


def _pause(work: Work, state: RetryCallState) -> float:
    """Return the seconds before another try: as the reply asks, or longer each time; none after an unreadable reply."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, CallError)
    if error.fault is Fault.UNREADABLE:
        return 0.0
    nth = work.faults[error.fault]
    if error.wait is None:
        return backoff(nth)
    wait = error.wait * random.uniform(1.0, 1.1)
    return wait if nth <= WAITS_TAKEN else max(wait, backoff(nth - WAITS_TAKEN, most=30.0))


def open_files() -> int:
    """Return how many files this process may have open, after raising it as far as the system lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):  # the system keeps its bound
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return MOST_FILES if soft == resource.RLIM_INFINITY else max(soft, 2 * SPARE_FILES)


def open_client(judge: Judge, secret: str | None) -> Client:
    """Return the client of a judge's endpoint; a vendor's library is imported where its judge is asked."""
    for name in ("openai", "google_genai", "httpx2", "httpcore2"):  # they log a line a call, and headers at DEBUG
        logging.getLogger(name).setLevel(logging.WARNING)
    if judge.kind == "gemini":
        from safe_llava.judges.client_gemini import GeminiClient

        return GeminiClient(judge, secret)
    from safe_llava.judges.client_openai import OpenAIClient

    return OpenAIClient(judge, secret)


def ask_all(judge: Judge, calls: Sequence[Call], store: VerdictStore[Found], secret: str | None) -> Asked[Found]:
    """Ask a judge, each call by itself or in batches as its row says.

    Raises:
        Stopped: the process was told to end.
        PrismError: the store takes nothing, or a batch of an earlier run cannot be picked up.
    """

    async def asked() -> Asked[Found]:
        client = open_client(judge, secret)
        scheduler = Scheduler(judge, store, client)
        outcomes = await scheduler.ask_all(calls)
        ended = scheduler.ended
        if ended is not None and not isinstance(ended, PrismError):
            raise ended
        return Asked(outcomes, ended, scheduler.proven)

    return asyncio.run(asked())
