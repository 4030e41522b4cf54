"""What was submitted and has not been accounted for, on disk: a second Snakemake finds there what the first one left.

One folder of the working directory, ``.snakemake/slurm-steady``: one small JSON file an unfinished job, one text file
a submission (``script.py``), and ``jobs.jsonl``, in which every submission that ended has a line.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from safe_llava.core.files import write_json
from snakemake_executor_plugin_slurm_steady.fates import Fate, Record, parse_record

LOG_TAIL_BYTES = 16_384
NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@dataclass
class Entry:
    """An unfinished job of the workflow.

    Args:
        key: names the job by what it makes.
        content: digest of its command and its inputs; a job left behind is taken over only if it is the same.
        asked: what the rule asks for of that which may grow.
        number: of the submission, from 1 on.
        token: of the last submission, drawn by lot; empty when it has ended.
        slurm_id: of the last submission; None when it has ended, or SLURM's answer is not known.
        log: of the last submission; ``%j`` in its name stands for an ``slurm_id`` that is not known.
        prefix: of the last submission's name.
        grown: how often memory and time were doubled.
        given: memory and time that SLURM gave a job whose rule asks for none: what is doubled.
        events: how often each fate has come about.
    """

    key: str
    name: str
    content: str = ""
    asked: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    token: str = ""
    slurm_id: str | None = None
    submitted: float = 0.0
    log: str = ""
    prefix: str = ""
    given: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=lambda: {"memory": 0, "time": 0})
    events: dict[str, int] = field(default_factory=dict)

    @property
    def job_name(self) -> str:
        """The name that squeue shows; no two submissions have the same, in whatever folder."""
        return f"{self.prefix}{self.name}.{self.key[:10]}.{self.number}-{self.token}"

    def begin(self, log: str, prefix: str = "") -> None:
        """Name the next submission, before SLURM is asked to take it."""
        self.number, self.token, self.prefix = self.number + 1, secrets.token_hex(4), prefix
        self.slurm_id, self.submitted, self.log = None, time.time(), log

    def taken(self, slurm_id: str) -> None:
        """SLURM has taken the submission."""
        folder, slash, name = self.log.rpartition("/")
        self.slurm_id, self.log = slurm_id, folder + slash + name.replace("%j", slurm_id)

    def forget_growth(self) -> None:
        """Ask for what the rule says."""
        self.grown, self.given = dict.fromkeys(self.grown, 0), {}


def key_of(rule: str, outputs: Iterable[str]) -> str:
    """Name a job by its rule and what it makes."""
    return digest_of([rule, *sorted(map(str, outputs))])[:20]


def digest_of(value: Any) -> str:
    """Digest of anything that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def stamps(paths: Iterable[str]) -> dict[str, int]:
    """When each file last changed; one that is absent counts as never."""
    found = {}
    for path in paths:
        try:
            found[str(path)] = os.stat(path).st_mtime_ns  # noqa: PTH116 (inputs are strings of Snakemake's own type)
        except OSError:
            found[str(path)] = 0
    return found


class Ledger:
    """The folder of unfinished jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.events = self.folder / "events"
        (self.folder / "records").mkdir(parents=True, exist_ok=True)
        self.events.touch()
        self.has_locks = True
        self._lock: IO[str] | None = None

    def lock(self) -> str | None:
        """Be the only Snakemake that submits from here; return who else is, or None.

        The system drops the lock with its process, however that ends. Some file systems have no locks: no lock then
        (``has_locks``).
        """
        stream = (self.folder / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            self.has_locks = error.errno not in NO_LOCKS_HERE
            return (holder or "another process") if self.has_locks else None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        self._lock = stream
        return None

    def entry(self, key: str, name: str) -> Entry:
        """Return the entry of a job, a new one if there is none; what cannot be read counts as absent."""
        try:
            read = json.loads(self._file(key).read_text(encoding="utf-8"))
            known = {each.name for each in fields(Entry)}
            return Entry(**{name: value for name, value in read.items() if name in known})
        except (OSError, ValueError, TypeError):
            return Entry(key, name)

    def save(self, entry: Entry) -> None:
        """Write an entry, whole or not at all."""
        write_json(self._file(entry.key), asdict(entry))

    def record_file(self, entry: Entry) -> Path:
        """The file in which the entry's last submission says how it ends; each launcher has a ``FILE.NODE``."""
        return self.folder / "records" / f"{entry.key}.{entry.number}-{entry.token}"

    def record(self, entry: Entry) -> Record:
        """Read what the entry's last submission has said so far."""
        text = ""
        for file in self._record_files(entry):
            with suppress(OSError):
                text += file.read_text(encoding="utf-8", errors="replace") + "\n"
        return parse_record(text)

    def ended(self, entry: Entry, fate: Fate, nodes: str) -> None:
        """Write down how a submission ended, and forget it; a job that is done is forgotten altogether."""
        line = {
            "job": entry.slurm_id,
            "name": entry.job_name,
            "fate": fate.name,
            "nodes": nodes,
            "image": self.record(entry).image,
            "submitted": round(entry.submitted, 3),
            "noticed": round(time.time(), 3),
        }
        with (self.folder / "jobs.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        for file in self._record_files(entry):
            file.unlink(missing_ok=True)
        entry.slurm_id, entry.token = None, ""
        if fate is Fate.DONE:
            self._file(entry.key).unlink(missing_ok=True)
        else:
            self.save(entry)

    def signals(self) -> int:
        """A number that changes when a job has ended.

        An open asks a network file system for the file as it is now, where a look at a folder may be served from
        what was seen a minute ago.
        """
        try:
            with self.events.open("rb") as stream:
                return os.fstat(stream.fileno()).st_size
        except OSError:
            return 0

    def _record_files(self, entry: Entry) -> list[Path]:
        """The record's files: that of the batch script, then those of the launchers, the first to end first."""
        first = self.record_file(entry)
        return [first, *sorted(first.parent.glob(f"{first.name}.*"), key=_written)]

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _written(file: Path) -> int:
    return stamps([str(file)])[str(file)]


def log_tail(path: str) -> str:
    """The last lines of a job's log."""
    try:
        with Path(path).open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
