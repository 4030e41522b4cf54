"""Fetch one large file over several connections, so that a kill at any moment loses nothing.

The part file is always the beginning of the file, as with one connection. What comes ahead of it lies in a folder
beside it, one file a chunk, named by where the chunk begins; a chunk that is whole is joined to the part file as soon
as the one before it is. How far each has come is said by its size alone: nothing has to be written down.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safe_llava.core.files import CHUNK_BYTES

SEGMENT_BYTES = 32 << 20
# Chunks that may wait for the one before them, for each connection: what the folder may grow to.
WAITING = 2


@dataclass(frozen=True)
class Span:
    """A chunk of the file: from ``start``, up to but without ``stop``."""

    start: int
    stop: int


Fetch = Callable[[Span, Path, threading.Event], None]


def ahead_folder(part: Path) -> Path:
    """Return the folder of what has come ahead of a part file."""
    return part.with_name(part.name + ".ahead")


def ahead_bytes(part: Path) -> int:
    """Return how many bytes lie ahead of what the part file has."""
    folder = ahead_folder(part)
    if not folder.is_dir():
        return 0
    position = part.stat().st_size if part.exists() else 0
    found = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # joined meanwhile, in another thread
            start, have = _read(path)[0], path.stat().st_size
            found += max(0, start + have - max(start, position))
    return found


def discard_ahead(part: Path) -> None:
    """Forget what lies ahead."""
    shutil.rmtree(ahead_folder(part), ignore_errors=True)


def fetch_segments(part: Path, total: int, fetch: Fetch, connections: int, size: int | None = None) -> None:
    """Complete a part file over several connections.

    Args:
        part: the beginning of the file.
        total: how long the file is.
        fetch: brings a span into a file, going on with what that holds, until it is whole or the event is set;
            it runs in threads and raises where it cannot.
        connections: how many spans are fetched at once.
        size: length of a chunk; all but the first and the last begin and end at multiples of it.
    """
    folder = ahead_folder(part)
    folder.mkdir(exist_ok=True)
    spans = list(_spans(_join(part, total), total, size or SEGMENT_BYTES))
    # Of chunks of another length: they would overlap those that are fetched now.
    for path in {*folder.iterdir()} - {folder / _name(span) for span in spans}:
        path.unlink()
    stop = threading.Event()
    queue: deque[Future[None]] = deque()
    with ThreadPoolExecutor(connections) as pool:
        try:
            for span in spans:
                queue.append(pool.submit(fetch, span, folder / _name(span), stop))
                if len(queue) >= WAITING * connections:
                    queue.popleft().result()
                    _join(part, total)
            while queue:
                queue.popleft().result()
                _join(part, total)
        finally:
            stop.set()
            for future in queue:
                future.cancel()
    discard_ahead(part)


def _name(span: Span) -> str:
    return f"{span.start}-{span.stop}"


def _spans(position: int, total: int, size: int) -> Iterator[Span]:
    """Yield what is missing, from ``position``; each but the last ends at a multiple of ``size``."""
    while position < total:
        stop = min((position // size + 1) * size, total)
        yield Span(position, stop)
        position = stop


def _join(part: Path, total: int) -> int:
    """Append what follows on the part file, drop what it already has, and return how long it is now.

    A chunk that begins before the end of the part file is not being fetched: a kill came while it was appended, or
    somebody went on over one connection. It is made use of even where it is not whole.
    """
    position = part.stat().st_size if part.exists() else 0
    found = sorted((*_read(path), path) for path in ahead_folder(part).iterdir())
    for start, stop, path in found:
        have = path.stat().st_size
        if start > position:
            break
        if start + have == stop or start < position:
            if position < start + have:
                _append(path, position - start, part)
                position = start + have
            path.unlink()
    return min(position, total)


def _read(path: Path) -> tuple[int, int]:
    start, stop = path.name.split("-")
    return int(start), int(stop)


def _append(source: Path, offset: int, part: Path) -> None:
    with source.open("rb") as reader, part.open("ab") as writer:
        reader.seek(offset)
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)
