"""Asking a judge about all that has no verdict yet: at its pace, again where it failed, each verdict kept at once.

One loop hands the calls out. A call under way holds one of at most ``max_concurrency`` places; one that waits for its
next try holds none, and one that hangs no longer than ``timeout_s``: the rest goes on beside them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.core.progress import Progress
from safe_llava.judges.client import Call, Outcome, RawReply, Usage, read_finding, unreadable
from safe_llava.judges.cost import Budget, cost_of, estimated_usage
from safe_llava.judges.http import Connection, Fault, Trouble
from safe_llava.judges.limits import Pace, Places, backoff
from safe_llava.judges.store import VerdictStore

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 2.0  # between looks at what other processes have judged, and between calls of fsync
LANDING_S = 30.0  # that calls under way may take to come home when a run stops for a reason of its own
MAX_TURNED_DOWN = 20  # times that one call may come too fast: some are too long for a limit, and always will be
PATIENT_TRIES = 3  # times that the endpoint's word on how long to wait is enough; then a call waits longer each time
MOST_FILES, SPARE_FILES = 10_000, 64  # files open at once where nothing bounds them; those that are no connections
UNTOLD_PLACES = 4  # calls under way until a reply has told what one costs, where the cost is bounded
DEAF_AFTER = 3  # calls that an endpoint cannot make sense of, before the first that it answers, until all are given up


def open_files() -> int:
    """Return how many files this process may have open, after raising it as far as the system lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (ValueError, OSError):
            log.debug("the system keeps its bound of %d open files", soft)
    return MOST_FILES if soft == resource.RLIM_INFINITY else max(soft, 2 * SPARE_FILES)


class Stopped(Exception):  # noqa: N818 — not an error: somebody asked for it
    """The run was asked to stop; everything that came is kept."""


@dataclass
class Work:
    """A call on its way to a verdict: what it is expected to take, and what it has taken so far."""

    call: Call
    estimate: Usage
    price: float  # the estimate, in US dollars
    attempts: int = 0
    failures: int = 0
    turned_down: int = 0
    asks: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    cost: float | None = None


class Run:
    """One run of a judge over the calls that have no verdict.

    Args:
        judge: the judge's row.
        calls: what is to be asked, each key once.
        store: where verdicts go, and come from where another process was faster.
        secret: the key, or None where none is needed.
    """

    def __init__(self, judge: Judge, calls: Sequence[Call], store: VerdictStore, secret: str | None) -> None:
        self._judge, self._store = judge, store
        self._connection = Connection(judge, secret)
        self._pace = Pace(judge.requests_per_minute, judge.tokens_per_minute)
        self._places = Places(min(judge.max_concurrency, open_files() - SPARE_FILES), judge.timeout_s)
        self._before = store.total.cost - store.own.cost
        self._budget = Budget(judge.max_cost, store.total.cost)
        self._ready = deque(self._work(call) for call in calls)
        # Two processes with the same calls begin at different ones, and find each other's verdicts.
        random.shuffle(self._ready)
        self._later: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()
        self._flying: set[asyncio.Task[None]] = set()
        self._timers: dict[asyncio.Timeout, tuple[Work, float]] = {}  # of the calls under way, and when they left
        self._syncing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._answered = self._deaf = self._failed = 0
        self._heard = self._cleaned = time.monotonic()
        self._progress = Progress(len(calls), "judge", "calls")
        self.outcomes: dict[str, Outcome] = {}

    async def run(self) -> dict[str, Outcome]:
        """Ask, and return an outcome for every call.

        Raises:
            PrismError: no call can succeed, the endpoint is down, ``max_cost`` is reached, or the store is full.
            Stopped: the process was told to end.
        """
        with self._signals():
            async with self._connection:
                try:
                    while self._error is None and (self._ready or self._later or self._flying):
                        await self._step()
                    if self._error is not None:
                        raise self._error
                finally:
                    await self._land()
        self._refuse_silence()
        return self.outcomes

    def _work(self, call: Call) -> Work:
        estimate = estimated_usage(self._judge, call)
        return Work(call, estimate, cost_of(self._judge, call.model, estimate) or 0.0)

    async def _step(self) -> None:
        """Send one call, or wait until the next may go or something has come back."""
        now = time.monotonic()
        if now - self._cleaned > HOUSEKEEPING_S:
            await self._keep_house()
        while self._later and self._later[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._later)[2])
        wait = self._later[0][0] - now if self._later else HOUSEKEEPING_S
        places = min(self._places.now, UNTOLD_PLACES) if self._budget.untold else self._places.now
        if self._ready and len(self._flying) < places:
            wait = min(wait, self._pace.wait())
            if wait <= 0.0:
                self._send(self._ready.popleft())
                return
        self._changed.clear()
        try:
            async with asyncio.timeout(min(wait, HOUSEKEEPING_S)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _send(self, work: Work) -> None:
        known = self._store.get(work.call.key)
        if known is not None:
            self._finish(Outcome(work.call.key, known.finding, known.model))
            return
        if not self._budget.allows(work.price):
            self._stop(self._too_dear())
            return
        self._budget.hold(work.price)
        number = self._pace.sent(work.estimate.prompt_tokens + work.estimate.completion_tokens)
        task = asyncio.create_task(self._ask(work, number))
        self._flying.add(task)
        task.add_done_callback(self._landed)

    async def _ask(self, work: Work, number: int) -> None:
        work.attempts += 1
        cost = 0.0
        began = time.monotonic()
        try:
            reply = await self._in_time(work, began)
            if isinstance(reply, RawReply):
                cost = self._count(work, reply)
        finally:
            self._budget.settle(work.price, cost)
        if isinstance(reply, RawReply):
            self._pace.passed(number)
            self._answered += 1
            self._heard = time.monotonic()
            self._places.replied(self._heard - began, full=len(self._flying) >= self._places.now)
            self._take(work, reply)
        else:
            self._trouble(work, number, reply)

    async def _in_time(self, work: Work, began: float) -> RawReply | Trouble:
        """Ask once, for as long as a call may take; that may become less meanwhile."""
        seconds = self._places.timeout(work.failures)
        try:
            async with asyncio.timeout(seconds) as timer:
                self._timers[timer] = work, began
                return await self._connection.ask(work.call)
        except TimeoutError:
            return Trouble(Fault.PASSING, f"no reply within {time.monotonic() - began:.3g} s")
        finally:
            self._timers.pop(timer, None)

    def _shorten(self) -> None:
        """Give calls up that hang by what has been learned since they left."""
        now, clock = time.monotonic(), asyncio.get_running_loop().time()
        for timer, (work, began) in self._timers.items():
            end = clock + began + self._places.timeout(work.failures) - now
            if not timer.expired() and (timer.when() or 0.0) > end:
                timer.reschedule(max(end, clock))

    def _count(self, work: Work, reply: RawReply) -> float:
        """Count what a reply took; a server that does not say so is taken to have used what was expected."""
        usage = reply.usage or work.estimate
        work.usage = work.usage + usage
        expected, taken = work.estimate, usage
        self._pace.settle(
            expected.prompt_tokens + expected.completion_tokens, taken.prompt_tokens + taken.completion_tokens
        )
        cost = cost_of(self._judge, work.call.model, usage)
        if cost is not None:
            work.cost = (work.cost or 0.0) + cost
        return cost or 0.0

    def _take(self, work: Work, reply: RawReply) -> None:
        finding = read_finding(work.call.task, reply)
        work.asks += 1
        if finding is not None:
            self._store.add(*(work.call, reply, finding), usage=work.usage, cost=work.cost, attempts=work.attempts)
            self._finish(Outcome(work.call.key, finding, reply.model))
        elif work.asks > self._judge.asks_again:
            self._fail(work, unreadable(reply), reply)
        else:
            self._ready.appendleft(work)

    def _trouble(self, work: Work, number: int, trouble: Trouble) -> None:
        """Decide what becomes of a call without a reply, and what it says about the rest."""
        if trouble.fault is Fault.OF_ALL:
            self._stop(self._never(trouble))
        elif trouble.fault is Fault.OF_CALL:
            self._pace.passed(number)
            self._deaf += 1
            if not self._answered and self._deaf >= DEAF_AFTER:
                self._stop(self._never(trouble))
            self._fail(work, trouble.reason)
        elif trouble.fault is Fault.TURNED_DOWN:
            self._pace.turned_down(number, trouble.wait)
            work.turned_down += 1
            self._again(work, trouble, work.turned_down, MAX_TURNED_DOWN)
        else:
            self._pace.failed(number, trouble.wait)
            work.failures += 1
            self._again(work, trouble, work.failures, self._judge.retries + 1)
        self._lose_patience(trouble)

    def _again(self, work: Work, trouble: Trouble, nth: int, most: int) -> None:
        if nth >= most:
            self._fail(work, f"the call failed {work.attempts} times; {trouble.reason}")
            return
        wait = backoff(nth) if trouble.wait is None else trouble.wait * random.uniform(1.0, 1.1)
        if trouble.wait is not None and nth > PATIENT_TRIES:
            wait = max(wait, backoff(nth - PATIENT_TRIES, most=30.0))
        heapq.heappush(self._later, (time.monotonic() + wait, next(self._numbers), work))

    def _lose_patience(self, trouble: Trouble) -> None:
        patience = self._judge.patience_s
        if trouble.wait is not None and trouble.wait > patience:
            self._stop(self._down(f"it asks to wait {trouble.wait:.0f} s", trouble))
        elif time.monotonic() - self._heard > patience:
            self._stop(self._down(f"no reply for {patience:g} s", trouble))

    def _fail(self, work: Work, reason: str, reply: RawReply | None = None) -> None:
        self._store.fail(work.call, reason, reply=reply, usage=work.usage, cost=work.cost, attempts=work.attempts)
        self._finish(Outcome(work.call.key, reason=reason))

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes[outcome.key] = outcome
        self._failed += outcome.reason is not None
        self._progress.update(note=f"{self._failed} failed" if self._failed else "")

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self._changed.set()

    async def _keep_house(self) -> None:
        # Beside the calls: a disk that is busy takes seconds for it.
        if self._syncing is None or self._syncing.done():
            await self._synced()
            self._syncing = asyncio.create_task(asyncio.to_thread(self._store.sync))
        self._store.refresh()
        self._budget.beside = self._store.total.cost - self._store.own.cost - self._before
        self._shorten()
        self._cleaned = time.monotonic()

    async def _synced(self) -> None:
        if self._syncing is not None:
            await self._syncing

    async def _land(self) -> None:
        """Take in what is about to come where a bound ended the run; else drop what is under way."""
        flying = list(self._flying)
        if not isinstance(self._error, PrismError):
            for task in flying:
                task.cancel()
        elif flying:
            await asyncio.wait(flying, timeout=min(self._judge.timeout_s, LANDING_S))
        await asyncio.gather(*flying, self._synced(), return_exceptions=True)
        self._progress.close(f"{self._store.own.calls} calls done, ${self._store.own.cost:.4f}")

    def _refuse_silence(self) -> None:
        reasons = [outcome.reason for outcome in self.outcomes.values()]
        if reasons and all(reasons) and not self._answered:
            raise PrismError(
                f"the judge answered none of {len(reasons)} calls; {reasons[0]}", "see that its endpoint is up"
            )

    def _never(self, trouble: Trouble) -> PrismError:
        return PrismError(
            f"the judge's endpoint turns every call down: {trouble.reason}",
            "check the judge's base_url and model, its account, and the key in its environment variable; "
            "the verdicts so far are kept",
        )

    def _down(self, what: str, trouble: Trouble) -> PrismError:
        return PrismError(
            f"the judge's endpoint is not to be had: {what}; {trouble.reason}",
            "run again later, or raise the judge's patience_s; the verdicts so far are kept",
        )

    def _too_dear(self) -> PrismError:
        return PrismError(
            f"the judge has cost ${self._budget.spent + self._budget.beside:.4f}, and the next call may pass "
            f"max_cost (${self._judge.max_cost or 0.0:.4f})",
            "raise the judge's max_cost and run again; the verdicts so far are kept",
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT, with everything kept; only a main thread hears them."""
        heard = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        loop = asyncio.get_running_loop()
        for number in heard:
            loop.add_signal_handler(number, self._stop, Stopped(signal.Signals(number).name))
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)


def ask_all(judge: Judge, calls: Sequence[Call], store: VerdictStore, secret: str | None) -> dict[str, Outcome]:
    """Ask a judge, each call by itself or in batches as its row says, and return an outcome for every call.

    Raises:
        PrismError: see ``Run.run``.
        Stopped: the process was told to end.
    """
    if judge.batch:
        from safe_llava.judges.batch.run import run_batch  # only judges in this mode need it

        return asyncio.run(run_batch(judge, calls, store, secret))

    async def direct() -> dict[str, Outcome]:
        return await Run(judge, calls, store, secret).run()

    return asyncio.run(direct())
