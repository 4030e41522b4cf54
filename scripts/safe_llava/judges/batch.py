"""Judging through a batch API: half the price, within a day, and no batch is submitted twice.

Before calls are submitted, a note of them is written into the store's folder; the batch's id is added as soon as it is
known. A killed run leaves the batch working; the next one finds the note, asks for that batch, and hands in only what
no batch holds. A submission that was cut off is looked for by its label. Results go into the same store as those of
single calls. What a batch leaves without a verdict goes into the next one, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from tenacity import AsyncRetrying, retry_if_exception

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.judges.batch_notes import GONE, Note
from safe_llava.judges.calls import Asked, Call, Outcome, Stopped
from safe_llava.judges.clients import Client, Line
from safe_llava.judges.cost import cost_of, estimated_usage, highest_usage
from safe_llava.judges.faults import CallError, Fault
from safe_llava.judges.rate import backoff
from safe_llava.judges.replies import Found, unreadable
from safe_llava.judges.signals import told_to_stop
from safe_llava.judges.store import VerdictStore

log = logging.getLogger(__name__)
Answered = TypeVar("Answered")
NOT_FOUND = 404


class BatchRun(Generic[Found]):
    """One run of a judge through its batch API.

    Args:
        judge: the judge's row.
        calls: what is to be asked, each key once.
        store: where replies go; notes of the batches lie in its folder.
        client: the judge's endpoint.
    """

    def __init__(self, judge: Judge, calls: Sequence[Call], store: VerdictStore[Found], client: Client) -> None:
        self._judge, self._store, self._client = judge, store, client
        self._notes = store.batches
        self._pending = {call.key: call for call in calls}
        self._tries: Counter[str] = Counter()  # batches that a call was in
        self._unread: Counter[str] = Counter()  # replies to a call that could not be read
        self._reasons: dict[str, str] = {}
        self._most = judge.batch_requests or client.max_requests
        self.outcomes: dict[str, Outcome[Found]] = {}
        self.replied = False

    async def run(self) -> None:
        """Put an outcome for every call into ``outcomes``, after as many batches as it takes.

        Raises:
            PrismError: the API rejects everything, a batch cannot be taken, or ``max_cost`` would be passed.
        """
        while True:
            self._take_known()
            if not self._pending:
                return
            taken = await self._round()
            if not taken:
                self._make_smaller()
                await asyncio.sleep(self._judge.batch_poll_s)
            self._give_up()

    def failed(self, reason: str) -> None:
        """Make failures of what has no outcome yet."""
        self._take_known()
        self.outcomes |= {key: Outcome(key, reason=reason) for key in self._pending}

    async def _round(self) -> bool:
        """Pick up and submit batches, wait for all; return False where none was taken for lack of room."""
        running = [note for note in self._notes.open() if not self._pending.keys().isdisjoint(note.keys)]
        notes = [note for note in [await self._found_again(one) for one in running] if note is not None]
        if notes:
            log.info("%d batches of an earlier run are picked up", len(notes))
        held = {key for note in notes for key in note.keys}
        for part in self._parts([call for key, call in self._pending.items() if key not in held]):
            note = self._noted(part)
            if note is None:  # the bound lets no more of them go now
                break
            notes.append(await self._submitted(note, part[: len(note.keys)]))
        if not notes:
            raise self._too_dear()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(note)) for note in notes]
        return any(task.result() for task in tasks)

    async def _found_again(self, note: Note) -> Note | None:
        """Return a note with its batch's id, or None where the batch was never submitted."""
        if note.batch is not None:
            return note
        batch = await self._insist(lambda: self._has_batches(self._client.find(note.label)))
        if batch is None:
            note.write(state="never submitted", keys=[])
            return None
        return _with_id(note, batch)

    def _noted(self, part: Sequence[Call]) -> Note | None:
        """Note the batch of as many calls as may be paid beside all else; None where that is not one."""
        with self._store.locked():
            self._store.refresh()
            limit, most, count = self._judge.max_cost, 0.0, 0
            spent = self._store.spent_at_most + self._store.in_batches()
            for call in part:
                usage = highest_usage(self._judge, call, self._store.total.longest)
                cost = cost_of(self._judge, call.model, usage, batch=True) or 0.0
                if limit is not None and spent + most + cost > limit:
                    break
                most, count = most + cost, count + 1
            return self._notes.new(part[:count], self._store.judge, most) if count else None

    async def _submitted(self, note: Note, part: Sequence[Call]) -> Note:
        async def submit() -> str:
            try:
                return await self._has_batches(self._client.submit(note.label, part))
            except CallError as error:
                # It may have arrived all the same: look before it is submitted again.
                found = await self._has_batches(self._client.find(note.label)) if _is_transient(error) else None
                if found is None:
                    raise
                return found

        batch = await self._insist(submit)
        log.info("batch %s: %d calls submitted", batch, len(part))
        return _with_id(note, batch)

    async def _follow(self, note: Note) -> bool:
        """Wait for a batch and take in its results; return False where it was not taken for lack of room.

        Raises:
            PrismError: the API found the batch itself wrong: so it would the next.
        """
        batch = str(note.batch)
        try:
            state = await self._insist(lambda: self._client.poll(batch))
            told = ""
            while state.state == "running":
                if state.detail != told:
                    log.info("batch %s: %s", batch, state.detail)
                    told = state.detail
                await asyncio.sleep(self._judge.batch_poll_s)
                state = await self._insist(lambda: self._client.poll(batch))
            lines = await self._insist(lambda: self._client.results(batch)) if state.state == "ended" else []
        except CallError as error:
            if error.status != NOT_FOUND:
                raise self._rejected(error) from None
            log.warning("batch %s is not there any more; its calls are submitted again", batch)
            self._count(note.keys, "the batch is not there any more")
            note.write(state=GONE, keys=[])
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
            replace(note, keys=tuple(left), most=note.most * len(left) / len(note.keys)).write()
        else:
            note.write(state="done", keys=[], calls=len(note.keys), judged=judged)
        log.info("batch %s: %s, %d of %d calls have a verdict", note.batch, detail, judged, len(note.keys))

    def _take(self, call: Call, line: Line, batch: str) -> None:
        if line.reply is None:
            self._reasons[call.key] = line.reason or "no reply"
            return
        self.replied = True
        usage = line.reply.usage or estimated_usage(self._judge, call)
        cost = cost_of(self._judge, call.model, usage, batch=True)
        found = self._store.reading.read(call, line.reply)
        told: dict[str, Any] = {"usage": usage, "cost": cost, "attempts": self._tries[call.key], "batch": batch}
        if found is not None:
            self._store.add(call, line.reply, found, **told)
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
                self.outcomes[key] = Outcome(key, known.found, known.model)

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
                more = self._client.size(call)
                if part and (len(part) >= self._most or size + more > self._client.max_bytes):
                    yield part
                    part, size = [], 0
                part.append(call)
                size += more
            yield part

    def _too_dear(self) -> PrismError:
        spent, waiting = self._store.spent_at_most, self._store.in_batches()
        return PrismError(
            f"the judge has cost ${spent:.4f}, and batches under way may come to ${waiting:.4f}: not one call more is "
            f"sure to stay below max_cost (${self._judge.max_cost or 0.0:.4f})",
            "raise the judge's max_cost and run again: the verdicts so far are kept, and batches under way are picked "
            "up",
        )

    def _rejected(self, error: CallError) -> PrismError:
        return PrismError(
            f"the judge's batch API rejects calls: {error.reason}",
            "see the judge's base_url, model and key, and whether the account may use the batch API",
        )

    @staticmethod
    async def _has_batches(asked: Awaitable[Answered]) -> Answered:
        try:
            return await asked
        except CallError as error:
            if error.status != NOT_FOUND:
                raise
            raise PrismError(
                f"the judge's endpoint has no batch API, or does not know the model: {error.reason}",
                "check the judge's base_url and model, or judge without `batch`",
            ) from None

    async def _insist(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """Return what the API says, trying again after transient errors, for as long as the row's patience.

        Raises:
            CallError: the batch is not there.
            PrismError: the API rejects the call, or is not available.
        """
        until = time.monotonic() + self._judge.patience_s
        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_transient),
            wait=lambda state: backoff(state.attempt_number, most=self._judge.batch_poll_s),
            stop=lambda state: time.monotonic() + state.upcoming_sleep > until,
            reraise=True,
        )

        async def attempt() -> Answered:
            return await ask()

        try:
            answered: Answered = await retrying(attempt)
            return answered
        except CallError as error:
            if error.status == NOT_FOUND:
                raise
            if not _is_transient(error):
                raise self._rejected(error) from None
            raise PrismError(
                f"the batch API is not available for {self._judge.patience_s:g} s: {error.reason}",
                "run again later: batches under way are picked up, not submitted again",
            ) from None


def _with_id(note: Note, batch: str) -> Note:
    noted = replace(note, batch=batch)
    noted.write()
    return noted


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, CallError) and error.fault in (Fault.TRANSIENT, Fault.RATE_LIMITED)


async def run_batches(judge: Judge, calls: Sequence[Call], store: VerdictStore[Found], client: Client) -> Asked[Found]:
    """Ask a judge through its batch API.

    Raises:
        Stopped: the process was told to end; batches under way go on and are picked up by the next run.
        PrismError: a note of a batch cannot be read, or the store takes nothing.
    """
    run, stopped = BatchRun(judge, calls, store, client), list[str]()
    task = asyncio.current_task()
    assert task is not None

    def stop(name: str) -> None:
        stopped.append(name)
        task.cancel()

    ended: PrismError | None = None
    try:
        with told_to_stop(stop):
            try:
                await run.run()
            except* PrismError as group:
                ended = _first(group)
                run.failed(ended.message)
    except asyncio.CancelledError:
        if stopped:
            raise Stopped(stopped[0]) from None
        raise
    finally:
        await client.close()
    return Asked(run.outcomes, ended, run.replied)


def _first(group: BaseExceptionGroup[PrismError]) -> PrismError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
