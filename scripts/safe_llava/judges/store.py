"""What judges said, kept for good: a folder of segments, one of each process that wrote, read as their union.

A segment is one file of JSON lines that only its own process appends to: two processes cannot write into each other,
and a killed one leaves at most a last line without its end, which is passed over. A finished call is one line, written
before anything else happens with it. Calls that failed stand in a file beside the segment and are never verdicts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Task
from safe_llava.judges.client import Call, Finding, RawReply, Usage

log = logging.getLogger(__name__)
FAILURES = ".failures.jsonl"


@dataclass(frozen=True)
class Stored:
    """A verdict as it lies in the store; of several for one call the earliest counts, so that results stay."""

    finding: Finding
    model: str | None
    order: tuple[str, str]  # when it was written, and into which segment


@dataclass
class Spent:
    """What the calls in a store used: their number, their tokens, and their cost in US dollars."""

    calls: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    cost: float = 0.0

    def add(self, usage: Usage | None, cost: float | None) -> None:
        """Count one more call."""
        self.calls += 1
        self.usage = self.usage + (usage or Usage(0, 0))
        self.cost += cost or 0.0


class VerdictStore:
    """The verdicts of one judge, by the key of their calls.

    Args:
        folder: where the segments are; made with the first verdict.
        judge: the judge's name in the tables; what others spent in the same folder is not counted.

    Raises:
        PrismError: the folder cannot be read, or a line cannot be written.
    """

    def __init__(self, folder: Path, judge: str) -> None:
        self.folder, self.judge = folder, judge
        self.total, self.own = Spent(), Spent()
        self._found: dict[str, Stored] = {}
        self._read: dict[Path, int] = {}  # bytes of each segment that have been read
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
        self.segment = f"{stamp}-{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._files: dict[str, int] = {}
        self._torn: set[str] = set()  # files whose last line was written in part
        self.refresh()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> Stored | None:
        """Return the verdict of a call, or None where there is none yet."""
        return self._found.get(key)

    def add(
        self,
        call: Call,
        reply: RawReply,
        finding: Finding,
        *,
        usage: Usage | None = None,
        cost: float | None = None,
        attempts: int = 1,
        **more: Any,
    ) -> None:
        """Keep a verdict, with the raw reply, what it took, and whatever ``more`` says about it.

        ``usage`` and ``cost`` (US dollars) are of all the asks that led to it.
        """
        row = self._row(call, reply, usage, cost, attempts) | more
        row |= {"refused": finding.refused, "leaked": finding.leaked}
        self._append(".jsonl", row)
        self._take(call.key, Stored(finding, reply.model, (row["time"], self.segment)))
        self._count(self.own, row)
        self._count(self.total, row)

    def fail(
        self,
        call: Call,
        reason: str,
        *,
        reply: RawReply | None = None,
        usage: Usage | None = None,
        cost: float | None = None,
        attempts: int = 1,
        **more: Any,
    ) -> None:
        """Note that a call gave no verdict, and why; it will be asked again by a later run."""
        row = self._row(call, reply, usage, cost, attempts) | more | {"reason": reason}
        self._append(FAILURES, row)
        self._count(self.own, row)
        self._count(self.total, row)

    def refresh(self) -> None:
        """Read what other processes have written since the last time."""
        try:
            paths = sorted(self.folder.glob("*.jsonl")) if self.folder.is_dir() else []
            for path in filter(Path.is_file, paths):
                if path.name in (f"{self.segment}.jsonl", f"{self.segment}{FAILURES}"):
                    continue
                for row in self._new_rows(path):
                    self._take_row(path, row)
        except OSError as error:
            raise PrismError(f"{self.folder}: the store cannot be read: {error}", "see who may read it") from error

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

    def _row(
        self, call: Call, reply: RawReply | None, usage: Usage | None, cost: float | None, attempts: int
    ) -> dict[str, Any]:
        usage = usage or (reply.usage if reply else None)
        return {
            "key": call.key,
            "judge": self.judge,
            "task": str(call.task),
            "asked": call.model,
            "model": reply.model if reply else None,
            "prompt": call.prompt,
            "text_sha256": hashlib.sha256(call.text.encode("utf-8", "surrogatepass")).hexdigest(),
            "raw": reply.text if reply else None,
            "finish_reason": reply.finish_reason if reply else None,
            "usage": None if usage is None else [usage.prompt_tokens, usage.completion_tokens],
            "cost": cost,
            "attempts": attempts,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        }

    def prepare(self) -> None:
        """Open this process's segment, so that a store that takes no verdicts is told of before any is paid for."""
        self._opened(".jsonl")

    def _opened(self, ending: str) -> int:
        if ending not in self._files:
            path = self.folder / f"{self.segment}{ending}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._files[ending] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            except OSError as error:
                raise PrismError(f"{path}: the store takes no verdicts: {error}", "see who may write there") from error
        return self._files[ending]

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

    def _new_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        start = self._read.get(path, 0)
        if path.stat().st_size == start:
            return
        with path.open("rb") as stream:
            stream.seek(start)
            data = stream.read()
        whole = data.rfind(b"\n") + 1  # what follows is being written, or was torn by a kill
        self._read[path] = start + whole
        broken = 0
        for line in data[:whole].splitlines():
            try:
                row = json.loads(line)
                if not (isinstance(row["key"], str) and isinstance(row["time"], str)):
                    raise TypeError("key, time")
                Spent().add(*_took(row))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                broken += bool(line.strip())
            else:
                yield row
        if broken:
            log.warning("%s: %d broken lines are passed over; what they held is asked again", path, broken)

    def _take_row(self, path: Path, row: dict[str, Any]) -> None:
        failed = path.name.endswith(FAILURES)
        if not failed:
            finding = _finding(row)
            if finding is None:
                log.warning("%s: a line without a finding is passed over", path)
                return
            self._take(row["key"], Stored(finding, _model(row), (row["time"], path.name.removesuffix(".jsonl"))))
        if row.get("judge") == self.judge:
            self._count(self.total, row)

    def _take(self, key: str, stored: Stored) -> None:
        known = self._found.get(key)
        if known is None or stored.order < known.order:
            self._found[key] = stored

    @staticmethod
    def _count(spent: Spent, row: dict[str, Any]) -> None:
        spent.add(*_took(row))


def _model(row: dict[str, Any]) -> str | None:
    model = row.get("model")
    return model if isinstance(model, str) else None


def _took(row: dict[str, Any]) -> tuple[Usage | None, float | None]:
    """Return the tokens and the cost of a line."""
    usage, cost = row.get("usage"), row.get("cost")
    prompt, completion = usage or (0, 0)
    return Usage(int(prompt), int(completion)) if usage else None, None if cost is None else float(cost)


def _finding(row: dict[str, Any]) -> Finding | None:
    """Return the finding of a line, or None where it holds none that fits its task."""
    try:
        if Task(row["task"]).is_refusal:
            return Finding(refused=row["refused"]) if isinstance(row["refused"], bool) else None
        return Finding(leaked=tuple(Attribute(name) for name in row["leaked"]))
    except (KeyError, TypeError, ValueError):
        return None
