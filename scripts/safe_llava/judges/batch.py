"""Judging through a batch API: half the price, within a day, and no batch is submitted twice.

The scheduler's calls wait here for their batch. Before calls are submitted, a note of them is written into the store's
folder; the batch's id is added as soon as it is known. A killed run leaves the batch working; the next one finds the
note, asks for that batch, and hands in only what no batch holds. A submission that was cut off is looked for by its
label. What a batch leaves without a reply is asked again by the scheduler, and goes into the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.judges.batch_notes import GONE, Note
from safe_llava.judges.calls import Call, Found, Outcome, RawReply
from safe_llava.judges.clients import Client, Line
from safe_llava.judges.cost import cost_of, highest_usage, too_dear
from safe_llava.judges.faults import CallError, Fault
from safe_llava.judges.rate import backoff
from safe_llava.judges.store import VerdictStore

log = logging.getLogger(__name__)
Answered = TypeVar("Answered")
NOT_FOUND = 404
GATHER_S = 0.05  # calls are submitted when for so long no more have come


@dataclass(frozen=True)
class Waiting(Generic[Found]):
    """A call that waits for its batch, how its reply is kept, and where its outcome goes."""

    call: Call
    keep: Callable[[RawReply], Outcome[Found]]
    answered: asyncio.Future[Outcome[Found]]


class BatchQueue(Generic[Found]):
    """Asks a judge through its batch API.

    Args:
        judge: the judge's row.
        store: notes of the batches lie in its folder.
        client: the judge's endpoint.
        end: called with why nothing more can be asked.
    """

    def __init__(
        self, judge: Judge, store: VerdictStore[Found], client: Client, end: Callable[[PrismError], None]
    ) -> None:
        self._judge, self._store, self._client, self._end = judge, store, client, end
        self._notes = store.batches
        self._waiting: dict[str, Waiting[Found]] = {}
        self._held: set[str] = set()  # keys of calls in batches that are waited for
        self._following: set[asyncio.Task[bool]] = set()
        self._most = judge.batch_requests or client.max_requests
        self._running: asyncio.Task[None] | None = None

    async def ask(self, call: Call, keep: Callable[[RawReply], Outcome[Found]]) -> Outcome[Found]:
        """Ask in a batch; the reply is in the store before the batch's note is closed.

        Raises:
            CallError: there is no verdict.
        """
        waiting = Waiting(call, keep, asyncio.get_running_loop().create_future())
        self._waiting[call.key] = waiting
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await waiting.answered

    async def close(self) -> None:
        """Wait for no batch any more; those under way are picked up by the next run."""
        tasks = [*self._following, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while await self._gathered():
                await self._submit()
                taken = False
                while self._following and not taken:
                    done, self._following = await asyncio.wait(self._following, return_when=asyncio.FIRST_COMPLETED)
                    taken = True in [task.result() for task in done]
                if not taken:
                    self._make_smaller()
                    await asyncio.sleep(self._judge.batch_poll_s)
        except PrismError as error:
            self._end(error)
        except CallError as error:
            self._end(
                PrismError(
                    f"the judge's endpoint has no batch API, or does not know the model: {error.reason}",
                    "check the judge's base_url and model, or judge without `batch`",
                )
            )
        except Exception as error:  # a defect of ours: nobody waits for an answer for ever
            for waiting in self._waiting.values():
                if not waiting.answered.done():
                    waiting.answered.set_exception(error)

    async def _gathered(self) -> int:
        """Return how many calls wait, once no more of them come."""
        count = -1
        while count != len(self._waiting):
            count = len(self._waiting)
            await asyncio.sleep(GATHER_S)
        return count

    async def _submit(self) -> None:
        """Pick up the batches that hold our calls, and submit the rest as far as the bound lets it.

        Raises:
            PrismError: the API rejects everything, or not one call more may be paid.
        """
        open_to = self._waiting.keys() - self._held
        running = [note for note in self._notes.open() if not open_to.isdisjoint(note.keys)]
        notes = [note for note in [await self._found_again(one) for one in running] if note is not None]
        if notes:
            log.info("%d batches of an earlier run are picked up", len(notes))
        for note in notes:
            self._follow(note)
        for part in self._parts([one.call for key, one in self._waiting.items() if key not in self._held]):
            made = self._noted(part)
            if made is None:  # the bound lets no more of them go now
                break
            self._follow(await self._submitted(made, part[: len(made.keys)]))
        if not self._following:
            raise too_dear(self._judge, self._store)

    def _follow(self, note: Note) -> None:
        self._held.update(note.keys)
        self._following.add(asyncio.create_task(self._taken_in(note)))

    async def _found_again(self, note: Note) -> Note | None:
        """Return a note with its batch's id, or None where the batch was never submitted."""
        if note.batch is not None:
            return note
        batch = await self._insist(self._client.find, note.label)
        if batch is None:
            note.write(state="never submitted", keys=[])
            return None
        return note.submitted_as(batch)

    def _noted(self, part: Sequence[Call]) -> Note | None:
        """Note the batch of as many calls as may be paid beside all else; None where that is not one."""
        with self._store.room(self._judge.max_cost) as left:
            most, count, longest = 0.0, 0, self._store.total.longest
            if self._judge.max_cost is not None and part[0].max_tokens is None and not longest:
                # Nothing has shown yet what a reply takes: one call goes first, over all processes.
                part = [] if any(note.judge == self._store.judge for note in self._notes.open()) else part[:1]
            for call in part:
                cost = cost_of(self._judge, call.model, highest_usage(self._judge, call, longest), batch=True) or 0.0
                if most + cost > left:
                    break
                most, count = most + cost, count + 1
            return self._notes.new(part[:count], self._store.judge, most) if count else None

    async def _submitted(self, note: Note, part: Sequence[Call]) -> Note:
        async def submit() -> str:
            try:
                return await self._client.submit(note.label, part)
            except CallError as error:
                # It may have arrived all the same: look before it is submitted again.
                found = await self._client.find(note.label) if error.is_transient else None
                if found is None:
                    raise
                return found

        batch = await self._insist(submit)
        log.info("batch %s: %d calls submitted", batch, len(part))
        return note.submitted_as(batch)

    async def _taken_in(self, note: Note) -> bool:
        """Wait for a batch and take in its results; return False where it was not taken for lack of room.

        Raises:
            PrismError: the API found the batch itself wrong: so it would the next.
        """
        batch = str(note.batch)
        try:
            state = await self._insist(self._client.poll, batch)
            logged = ""
            while state.state == "running":
                if state.detail != logged:
                    log.info("batch %s: %s", batch, state.detail)
                    logged = state.detail
                await asyncio.sleep(self._judge.batch_poll_s)
                state = await self._insist(self._client.poll, batch)
            lines = await self._insist(self._client.results, batch) if state.state == "ended" else []
        except CallError:  # no such batch
            log.warning("batch %s is not there any more; its calls are submitted again", batch)
            note.write(state=GONE, keys=[])
            gone = CallError(Fault.TRANSIENT, "the batch is not there any more")
            self._answer(note, {key: gone for key in note.keys if key in self._waiting})
            return True
        if state.state == "ended":
            self._keep(note, lines, state.detail)
            return True
        note.write(state=state.state, detail=state.detail, keys=[])
        self._held.difference_update(note.keys)
        if state.state == "full":
            return False
        raise PrismError(
            f"batch {batch} was refused: {state.detail}",
            "see the judge's model, and whether the account may use it in batches; the verdicts so far are kept",
        )

    def _keep(self, note: Note, lines: Sequence[Line], detail: str) -> None:
        """Keep what a batch says of our calls: the first line that holds a reply, for each."""
        replies: dict[str, Line] = {}
        for line in lines:
            if line.key not in replies or replies[line.key].reply is None:
                replies[line.key] = line
        if unknown := len(replies.keys() - set(note.keys)):
            log.warning("batch %s: lines of %d calls that are not in it are passed over", note.batch, unknown)
        self._store.refresh()
        nothing = f"the batch ended without a reply ({detail})"
        answers: dict[str, Outcome[Found] | CallError] = {}
        for key in (key for key in note.keys if key in self._waiting):
            line = replies.get(key) or Line(key, reason=nothing)
            try:
                if line.reply is None:
                    raise CallError(Fault.TRANSIENT, line.reason or nothing)
                answers[key] = self._waiting[key].keep(replace(line.reply, batch=note.batch))
            except CallError as error:
                answers[key] = error
        self._store.sync()
        # Another run may wait for the rest of the batch's calls: the note stays open until all of them were taken in.
        others = [key for key in note.keys if key in replies and key not in answers]
        left = tuple(key for key in others if self._store.get(key) is None)
        judged = sum(1 for key in note.keys if self._store.get(key) is not None)
        if left:
            replace(note, keys=left, most=note.most * len(left) / len(note.keys)).write()
        else:
            note.write(state="done", keys=[], calls=len(note.keys), judged=judged)
        log.info("batch %s: %s, %d of %d calls have a verdict", note.batch, detail, judged, len(note.keys))
        self._answer(note, answers)

    def _answer(self, note: Note, answers: Mapping[str, Outcome[Found] | CallError]) -> None:
        self._held.difference_update(note.keys)
        for key, answer in answers.items():
            waiting = self._waiting.pop(key)
            if waiting.answered.done():  # nobody waits for it any more
                continue
            if isinstance(answer, CallError):
                waiting.answered.set_exception(answer)
            else:
                waiting.answered.set_result(answer)

    def _make_smaller(self) -> None:
        """Halve the batches where the account has no room for even one of them."""
        size = min(self._most, len(self._waiting))
        if size <= 1:
            raise PrismError(
                "the account has no room for a batch of even one call (its limit of tokens that wait in batches)",
                "wait until other batches of the account are done, or judge without `batch`",
            )
        self._most = (size + 1) // 2
        log.warning("the account has no room for a batch of %d calls: %d are tried", size, self._most)

    def _parts(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """Split calls into batches of one model each, within the API's limits."""
        part: list[Call] = []
        size = 0
        for call in sorted(calls, key=lambda call: call.model):
            more = self._client.size(call)
            full = len(part) >= self._most or size + more > self._client.max_bytes
            if part and (full or call.model != part[0].model):
                yield part
                part, size = [], 0
            part.append(call)
            size += more
        if part:
            yield part

    async def _insist(self, ask: Callable[..., Awaitable[Answered]], *what: Any) -> Answered:
        """Return what the API says, trying again after transient errors, for `patience_s` of the row.

        Raises:
            CallError: the batch is not there.
            PrismError: the API rejects the call, or is not available.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.is_transient),
            wait=lambda state: backoff(state.attempt_number, most=self._judge.batch_poll_s),
            stop=stop_before_delay(self._judge.patience_s),
            reraise=True,
        )

        try:
            return await retrying(ask, *what)
        except CallError as error:
            if error.status == NOT_FOUND:
                raise
            if not error.is_transient:
                raise PrismError(
                    f"the judge's batch API rejects calls: {error.reason}",
                    "see the judge's base_url, model and key, and whether the account may use the batch API",
                ) from None
            raise PrismError(
                f"the batch API is not available for {self._judge.patience_s:g} s: {error.reason}",
                "run again later: batches under way are picked up, not submitted again",
            ) from None
