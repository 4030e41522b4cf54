"""Judging through a batch API: half the price, within a day, and no batch is handed in twice.

Before calls are handed in, a note of them is written into the store's folder; the batch's id is added as soon as it is
known. A killed run leaves the batch working; the next one finds the note, asks for that batch, and hands in only what
no batch holds. A submission that was cut off is looked for by its label. Results go into the same store as those of
single calls. What a batch leaves without a verdict goes into the next one, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.judges.batch.notes import Note, Notes
from safe_llava.judges.batch.services import GoneError, Line, Service, TemporaryError, open_service
from safe_llava.judges.client import Call, Outcome, read_finding, unreadable
from safe_llava.judges.cost import cost_of, estimated_usage
from safe_llava.judges.limits import backoff
from safe_llava.judges.run import Stopped
from safe_llava.judges.store import VerdictStore

log = logging.getLogger(__name__)
Answered = TypeVar("Answered")


class BatchRun:
    """One run of a judge through its batch API.

    Args:
        judge: the judge's row.
        calls: what is to be asked, each key once.
        store: where verdicts go.
        service: the batch API.
    """

    def __init__(self, judge: Judge, calls: Sequence[Call], store: VerdictStore, service: Service) -> None:
        self._judge, self._store, self._service = judge, store, service
        self._notes = Notes(store.folder)
        self._pending = {call.key: call for call in calls}
        self._tries: Counter[str] = Counter()  # batches that a call was in
        self._unread: Counter[str] = Counter()  # replies to a call that could not be read
        self._reasons: dict[str, str] = {}
        self._most = judge.batch_requests or service.max_requests
        self._claimed = 0.0  # US dollars that the batches under way may come to
        self.outcomes: dict[str, Outcome] = {}

    async def run(self) -> dict[str, Outcome]:
        """Return an outcome for every call, after as many batches as it takes.

        Raises:
            PrismError: the API turns everything down, a batch cannot be taken, or ``max_cost`` would be passed.
        """
        while True:
            self._take_known()
            if not self._pending:
                break
            taken = await self._round()
            if not taken:
                self._make_smaller()
                await asyncio.sleep(self._judge.batch_poll_s)
            self._give_up()
        self._refuse_silence()
        return self.outcomes

    async def _round(self) -> bool:
        """Pick up and hand in batches, wait for all; return False where none was taken for lack of room."""
        running = [note for note in self._notes.open() if not self._pending.keys().isdisjoint(note.keys)]
        notes = [note for note in [await self._found_again(one) for one in running] if note is not None]
        if notes:
            log.info("%d batches of an earlier run are picked up", len(notes))
        held = {key for note in notes for key in note.keys}
        for part in self._parts([call for key, call in self._pending.items() if key not in held]):
            notes.append(await self._hand_in(part))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(note)) for note in notes]
        self._claimed = 0.0
        return any(task.result() for task in tasks) or not tasks

    async def _found_again(self, note: Note) -> Note | None:
        """Return a note with its batch's id, or None where the batch was never handed in."""
        if note.batch is not None:
            return note
        batch = await self._insist(lambda: self._has_batches(self._service.find(note.label)))
        if batch is None:
            note.write(state="never handed in", keys=[])
            return None
        return self._noted(note, batch)

    async def _hand_in(self, part: Sequence[Call]) -> Note:
        estimates = [cost_of(self._judge, call.model, estimated_usage(self._judge, call), batch=True) for call in part]
        self._refuse_cost(sum(estimate or 0.0 for estimate in estimates))
        note = self._notes.new(part)

        async def submit() -> str:
            try:
                return await self._has_batches(self._service.submit(note.label, part))
            except TemporaryError:
                # It may have arrived all the same: look before it is handed in again.
                found = await self._has_batches(self._service.find(note.label))
                if found is None:
                    raise
                return found

        batch = await self._insist(submit)
        log.info("batch %s: %d calls handed in", batch, len(part))
        return self._noted(note, batch)

    def _noted(self, note: Note, batch: str) -> Note:
        noted = Note(note.path, note.label, note.keys, batch)
        noted.write()
        return noted

    async def _follow(self, note: Note) -> bool:
        """Wait for a batch and take in its results; return False where it was not taken for lack of room.

        Raises:
            PrismError: the API found the batch itself wrong: so it would the next.
        """
        batch = str(note.batch)
        try:
            state = await self._insist(lambda: self._service.poll(batch))
            told = ""
            while state.state == "running":
                if state.detail != told:
                    log.info("batch %s: %s", batch, state.detail)
                    told = state.detail
                await asyncio.sleep(self._judge.batch_poll_s)
                state = await self._insist(lambda: self._service.poll(batch))
            lines = await self._insist(lambda: self._service.results(batch)) if state.state == "ended" else []
        except GoneError:
            log.warning("batch %s is not there any more; its calls are handed in again", batch)
            self._count(note.keys, "the batch is not there any more")
            note.write(state="gone", keys=[])
            return True
        if state.state == "ended":
            self._take_in(note, lines, state.detail)
            return True
        note.write(state=state.state, detail=state.detail, keys=[])
        if state.state == "full":
            return False
        raise PrismError(
            f"batch {batch} was refused: {state.detail}",
            "see the judge's model, and whether the account may use it in batches; the verdicts so far are kept",
        )

    def _take_in(self, note: Note, lines: Iterable[Line], detail: str) -> None:
        """Store what a batch says of our calls: the first line that holds a reply, for each."""
        replies: dict[str, Line] = {}
        unknown = 0
        for line in lines:
            unknown += line.key not in note.keys
            if line.key not in replies or replies[line.key].reply is None:
                replies[line.key] = line
        if unknown:
            log.warning("batch %s: %d lines of calls that are not in it are passed over", note.batch, unknown)
        self._store.refresh()
        self._count(note.keys, f"the batch ended without a reply ({detail})")
        mine = [key for key in note.keys if key in self._pending and key in replies]
        for key in mine:
            if self._store.get(key) is None:
                self._take(self._pending[key], replies[key], str(note.batch))
        self._store.sync()
        # Another run may wait for the rest of the batch's calls: the note stays open until all of them were taken in.
        left = [key for key in note.keys if key in replies and key not in mine and self._store.get(key) is None]
        judged = sum(1 for key in note.keys if self._store.get(key) is not None)
        if left:
            Note(note.path, note.label, tuple(left), note.batch).write()
        else:
            note.write(state="done", keys=[], calls=len(note.keys), judged=judged)
        log.info("batch %s: %s, %d of %d calls have a verdict", note.batch, detail, judged, len(note.keys))

    def _take(self, call: Call, line: Line, batch: str) -> None:
        if line.reply is None:
            self._reasons[call.key] = line.reason or "no reply"
            return
        usage = line.reply.usage or estimated_usage(self._judge, call)
        cost = cost_of(self._judge, call.model, usage, batch=True)
        finding = read_finding(call.task, line.reply)
        told: dict[str, Any] = {"usage": usage, "cost": cost, "attempts": self._tries[call.key], "batch": batch}
        if finding is not None:
            self._store.add(call, line.reply, finding, **told)
        else:
            self._unread[call.key] += 1
            self._reasons[call.key] = unreadable(line.reply)
            self._store.fail(call, self._reasons[call.key], reply=line.reply, **told)

    def _count(self, keys: Iterable[str], reason: str) -> None:
        for key in keys:
            if key in self._pending:
                self._tries[key] += 1
                self._reasons[key] = reason

    def _take_known(self) -> None:
        self._store.refresh()
        for key in list(self._pending):
            known = self._store.get(key)
            if known is not None:
                del self._pending[key]
                self.outcomes[key] = Outcome(key, known.finding, known.model)

    def _give_up(self) -> None:
        """Make failures of the calls that were in enough batches, or gave enough unreadable replies."""
        for key, call in list(self._pending.items()):
            spent = self._tries[key] >= self._judge.batch_tries or self._unread[key] > self._judge.asks_again
            if spent and self._store.get(key) is None:
                if not self._unread[key]:
                    self._store.fail(call, self._reasons[key], attempts=self._tries[key])
                del self._pending[key]
                self.outcomes[key] = Outcome(key, reason=self._reasons[key])

    def _make_smaller(self) -> None:
        """Halve the batches where the account has no room for even one of them."""
        size = min(self._most, len(self._pending))
        if size <= 1:
            raise PrismError(
                "the account has no room for a batch of even one call (its limit of tokens that wait in batches)",
                "wait until other batches of the account are done, or judge without `batch`",
            )
        self._most = (size + 1) // 2
        log.warning("the account has no room for a batch of %d calls: %d are tried", size, self._most)

    def _parts(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """Split calls into batches of one model each, within the API's limits."""
        by_model: dict[str, list[Call]] = defaultdict(list)
        for call in calls:
            by_model[call.model].append(call)
        for same in by_model.values():
            part: list[Call] = []
            size = 0
            for call in same:
                more = self._service.size(call)
                if part and (len(part) >= self._most or size + more > self._service.max_bytes):
                    yield part
                    part, size = [], 0
                part.append(call)
                size += more
            yield part

    def _refuse_cost(self, estimate: float) -> None:
        self._claimed += estimate
        spent, limit = self._store.total.cost, self._judge.max_cost
        if limit is not None and spent + self._claimed > limit:
            raise PrismError(
                f"the judge has cost ${spent:.4f}, and its batches may come to ${self._claimed:.4f}: "
                f"more than max_cost (${limit:.4f})",
                "raise the judge's max_cost and run again: the verdicts so far are kept, and batches under way are "
                "picked up",
            )

    @staticmethod
    async def _has_batches(asked: Awaitable[Answered]) -> Answered:
        try:
            return await asked
        except GoneError as error:
            raise PrismError(
                f"the judge's endpoint has no batch API, or does not know the model: {error}",
                "check the judge's base_url and model, or judge without `batch`",
            ) from None

    async def _insist(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """Return what the API says, trying again while it may be had, for as long as the row's patience."""
        since = time.monotonic()
        tries = 0
        while True:
            try:
                return await ask()
            except TemporaryError as error:
                tries += 1
                pause = backoff(tries, most=self._judge.batch_poll_s)
                if time.monotonic() + pause - since > self._judge.patience_s:
                    raise PrismError(
                        f"the batch API is not to be had for {self._judge.patience_s:g} s: {error}",
                        "run again later: batches under way are picked up, not handed in again",
                    ) from None
            await asyncio.sleep(pause)

    def _refuse_silence(self) -> None:
        reasons = [outcome.reason for outcome in self.outcomes.values()]
        if reasons and all(reasons) and not self._unread:
            raise PrismError(f"the judge answered none of {len(reasons)} calls; {reasons[0]}", "see its endpoint")


async def run_batch(judge: Judge, calls: Sequence[Call], store: VerdictStore, secret: str | None) -> dict[str, Outcome]:
    """Ask a judge through its batch API and return an outcome for every call.

    Args:
        judge: the judge's row; ``batch`` is set.
        calls: what has no verdict yet, each key once.
        store: where verdicts go; notes of the batches lie in its folder.
        secret: the key, or None where none is needed.

    Raises:
        PrismError: see ``BatchRun.run``.
        Stopped: the process was told to end; batches under way go on and are picked up by the next run.
    """
    service = open_service(judge, secret)
    stopped: list[str] = []
    try:
        with _signals(stopped):
            return await BatchRun(judge, calls, store, service).run()
    except asyncio.CancelledError:
        if stopped:
            raise Stopped(stopped[0]) from None
        raise
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        await service.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that batches were given up for: one that names its remedy, where there is one."""
    errors = list(group.exceptions)
    return next((error for error in errors if isinstance(error, PrismError)), errors[0])


@contextmanager
def _signals(stopped: list[str]) -> Iterator[None]:
    """Cancel the run at SIGTERM and SIGINT and note which it was; only a main thread hears them."""
    heard = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(name: str) -> None:
        stopped.append(name)
        if task is not None:
            task.cancel()

    for number in heard:
        loop.add_signal_handler(number, stop, signal.Signals(number).name)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
