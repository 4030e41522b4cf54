"""What judges said and what it cost, kept for good: a folder of segments, one of each process that wrote.

A segment is a file of JSON lines that only its own process appends to: two processes cannot write into each other, and
a killed one leaves at most a last line without its end, which is passed over. Every reply is one line, written before
anything else happens with it: verdicts in ``NAME.jsonl``, replies that cannot be read and calls that failed in
``NAME.failures.jsonl``, which are never verdicts. ``NAME.asked`` notes the highest cost of each call before it is sent,
and when its end is known: what a kill leaves open there may have been paid, and counts as paid.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

from safe_llava.core.errors import PrismError
from safe_llava.judges.batch_notes import Notes
from safe_llava.judges.calls import Call, Found, Outcome, RawReply, Usage
from safe_llava.judges.replies import Reading
from safe_llava.judges.store_index import ASKED, FAILURES, INDEX, VERDICTS, Spent, StoreIndex

log = logging.getLogger(__name__)
LOCK, FIRST_LOCK = "money.lock", "first.lock"
INDEX_FROM = 4 << 20  # bytes outside the index from which on it is made anew


class VerdictStore(Generic[Found]):
    """The verdicts of one judge, by the key of their calls.

    Args:
        folder: where the segments are; made with the first verdict.
        judge: the judge's name in the tables; what others spent in the same folder is not counted.
        reading: what a row says.

    Raises:
        PrismError: the folder cannot be read, or a line cannot be written.
    """

    def __init__(self, folder: Path, judge: str, reading: Reading[Found]) -> None:
        self.folder, self.judge, self.reading = folder, judge, reading
        self.own = Spent()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
        self.segment = f"{stamp}-{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._files: dict[str, int] = {}
        self._torn: set[str] = set()  # files whose last line was written in part
        self._noted, self._unlocked = 0, False
        self.batches = Notes(folder)
        self._index = StoreIndex(folder, lambda row: reading.stored(row) is not None)
        if self._unread() > INDEX_FROM:
            self._keep_index()
        self.refresh()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def total(self) -> Spent:
        """What the judge has used over all runs."""
        return self._index.spent(self.judge)

    @property
    def spent_at_most(self) -> float:
        """US dollars that the judge has cost, with the highest cost of the calls whose end is not known."""
        return self.total.cost + self._index.open_notes(self.judge)

    def get(self, key: str) -> Outcome[Found] | None:
        """Return the verdict of a call, or None; of several the earliest, so that results stay."""
        row = self._index.verdict(key)
        found = None if row is None else self.reading.stored(row)
        if row is None or found is None:
            return None
        model = row.get("model")
        return Outcome(key, found, model if isinstance(model, str) else None)

    def add(self, call: Call, reply: RawReply, found: Found, *, usage: Usage, cost: float | None, **more: Any) -> None:
        """Keep a verdict with the raw reply, what it took (cost in US dollars), and whatever ``more`` says about it."""
        row = self._row(call, reply, usage, cost) | more | self.reading.columns(found)
        self._append(VERDICTS, row)
        self.own.add(row)

    def fail(
        self,
        call: Call,
        reason: str,
        *,
        reply: RawReply | None = None,
        usage: Usage | None = None,
        cost: float | None = None,
        **more: Any,
    ) -> None:
        """Keep what gave no verdict, and why; the call is asked again by a later run."""
        row = self._row(call, reply, usage, cost) | more | {"reason": reason}
        self._append(FAILURES, row)
        self.own.add(row)

    @contextlib.contextmanager
    def room(self, limit: float | None) -> Iterator[float]:
        """Yield the US dollars that may still be spent beside all others; no other process decides meanwhile."""
        if limit is None:
            yield math.inf
            return
        with self._lock(LOCK):  # one process at a time decides what may be spent
            self.refresh()
            yield limit - self.spent_at_most - self.in_batches()

    def note(self, highest: Callable[[int], float], limit: float | None = None) -> int | None:
        """Note that a call is about to be sent, with its highest cost by the longest reply; return the note's number.

        None where it might pass the limit with all that others spend at the same time: it must not be sent then.
        """
        with self.room(limit) as left:
            most = highest(self.total.longest)
            if most > left:
                return None
            self._noted += 1
            self._append(ASKED, {"judge": self.judge, "call": self._noted, "most": most})
            return self._noted

    def settle(self, note: int) -> None:
        """Note that a call's end is known: its cost is in the store, or it has none."""
        self._append(ASKED, {"judge": self.judge, "call": note})

    def in_batches(self) -> float:
        """Return the US dollars that batches may come to whose results are not in the store."""
        return self.batches.claimed(self.judge)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Let one call be under way over all processes; yield False where it is another one."""
        with self._lock(FIRST_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            yield held

    @contextlib.contextmanager
    def _lock(self, name: str, how: int = fcntl.LOCK_EX) -> Iterator[bool]:
        """Hold a lock, which the system drops where this process is killed; yield whether it is held."""
        self._make_folder()
        with (self.folder / name).open("ab") as stream:
            held = True
            try:
                fcntl.flock(stream, how)
            except BlockingIOError:
                held = False
            except OSError as error:
                if not self._unlocked:
                    log.warning("%s: no locks here (%s): run one job of a judge at a time", self.folder, error)
                self._unlocked = True
            yield held

    def refresh(self) -> None:
        """Read what other processes have written since the last time."""
        try:
            with os.scandir(self.folder) as entries:
                files = [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise PrismError(f"{self.folder}: the store cannot be read: {error}", "see who may read it") from error
        read = self._index.read
        changed = [
            name for name, size in sorted(files) if name.endswith((VERDICTS, ASKED)) and size != read.get(name, 0)
        ]
        # Notes first, and after them what they were settled by: a cost is counted twice for a moment, and never not.
        for name in (one for one in changed if one.endswith(ASKED)):
            self._read_on(name)
            changed += [name.removesuffix(ASKED) + ending for ending in (VERDICTS, FAILURES)]
        for name in dict.fromkeys(one for one in changed if not one.endswith(ASKED)):
            if (self.folder / name).is_file():
                self._read_on(name)

    def sync(self) -> None:
        """Have the system put what was written on the disk, against a loss of power."""
        try:
            for handle in list(self._files.values()):
                os.fsync(handle)
        except OSError as error:
            raise PrismError(f"{self.folder}: verdicts do not get to the disk: {error}", "see its room") from error

    def close(self) -> None:
        """Finish the segments of this process."""
        self.sync()
        while self._files:
            os.close(self._files.popitem()[1])
        self._index.close()

    def prepare(self) -> None:
        """Open this process's segment, so that a store that takes no verdicts is reported before any is paid for."""
        self._opened(VERDICTS)

    def _unread(self) -> int:
        paths = self.folder.glob(f"*{VERDICTS}") if self.folder.is_dir() else ()
        return sum(path.stat().st_size - self._index.read.get(path.name, 0) for path in paths if path.is_file())

    def _keep_index(self) -> None:
        """Read the segments once for all jobs."""
        try:
            with self._lock(LOCK):
                self._index.load()  # another process may have kept it meanwhile
                if self._unread() > INDEX_FROM:
                    self.refresh()
                    self._index.save()
        except OSError as error:  # where nothing can be written, everything is read
            log.warning("%s: no index can be made: %s", self.folder / INDEX, error)

    def _read_on(self, name: str) -> None:
        try:
            self._index.read_on(name)
        except OSError as error:
            raise PrismError(f"{self.folder / name}: cannot be read: {error}", "see who may read it") from error

    def _row(self, call: Call, reply: RawReply | None, usage: Usage | None, cost: float | None) -> dict[str, Any]:
        return {
            "key": call.key,
            "judge": self.judge,
            "task": call.task,
            "asked": call.model,
            "model": reply.model if reply else None,
            "prompt": call.prompt,
            "text_sha256": hashlib.sha256(call.text.encode("utf-8", "surrogatepass")).hexdigest(),
            "raw": reply.text if reply else None,
            "finish_reason": reply.finish_reason if reply else None,
            "usage": None if usage is None else [usage.prompt_tokens, usage.completion_tokens],
            "cost": cost,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        }

    def _make_folder(self) -> None:
        with self._writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def _opened(self, ending: str) -> int:
        if ending not in self._files:
            self._make_folder()
            path = self.folder / f"{self.segment}{ending}"
            with self._writing(path):
                self._files[ending] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        return self._files[ending]

    @staticmethod
    @contextlib.contextmanager
    def _writing(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PrismError(f"{path}: the store takes no verdicts: {error}", "see who may write there") from error

    def _append(self, ending: str, row: dict[str, Any]) -> None:
        # Kept in ASCII: a reply with half a surrogate pair has no UTF-8. A line written in part is ended first.
        line = (b"\n" if ending in self._torn else b"") + (json.dumps(row) + "\n").encode("ascii")
        path = self.folder / f"{self.segment}{ending}"
        handle = self._opened(ending)
        try:
            written = os.write(handle, line)
        except OSError as error:
            raise PrismError(f"{path}: a verdict cannot be written: {error}", "make room, and run again") from error
        if written != len(line):
            self._torn.add(ending)
            raise PrismError(f"{path}: a verdict was written in part: the disk is full", "make room, and run again")
        self._torn.discard(ending)
        self._read_on(path.name)
