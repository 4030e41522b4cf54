"""Answers kept as they come, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from safe_llava.core.files import file_digest
from safe_llava.engine.base import Reply

logger = logging.getLogger(__name__)

SYNC_EVERY = 64  # replies between two calls of fsync: a killed process loses none, a lost machine at most these


class ReplyStore:
    """An append-only file of good replies by key; failed ones are not kept, so a rerun asks them again.

    A last line that a kill left half written is dropped; any other line that does not read is passed over.

    Args:
        path: the file; it is made with its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replies: dict[str, Reply] = {}
        self._unsynced = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._load()
        self._stream: TextIO = path.open("a", encoding="utf-8")

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __len__(self) -> int:
        return len(self._replies)

    def __getitem__(self, key: str) -> Reply:
        return self._replies[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sync()
        self._stream.close()

    def add(self, reply: Reply) -> None:
        """Keep a reply; a failed one only until the store closes."""
        self._replies[reply.key] = reply
        if reply.status != "ok":
            return
        self._stream.write(json.dumps(asdict(reply), ensure_ascii=False) + "\n")
        self._stream.flush()
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._stream.fileno())
        self._unsynced = 0

    def _load(self) -> None:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            logger.warning("%s: the last line was cut off; it is dropped", self._path)
            os.truncate(self._path, len(whole))
        unread = 0
        for line in whole.split(b"\n"):
            if not line.strip():
                continue
            try:
                reply = Reply(**json.loads(line))
            except (ValueError, TypeError):
                unread += 1
            else:
                self._replies[reply.key] = reply
        if unread:
            logger.warning("%s: %d lines do not read; they are asked again", self._path, unread)


def content_key(**facts: Any) -> str:
    """Return a digest of everything that an answer depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Return one digest over the names and bytes of a folder's files, hidden ones left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
