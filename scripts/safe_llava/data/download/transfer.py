"""Bring the bytes of one source into a part file that survives kills and is resumed later."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

from safe_llava.core.errors import DataError
from safe_llava.core.files import CHUNK_BYTES, read_json, write_json
from safe_llava.data.download import hub, segments
from safe_llava.data.download.hub import Stated, stated
from safe_llava.data.download.meter import metered
from safe_llava.data.download.retries import RetryPolicy, retried
from safe_llava.data.download.room import explain_disk, require_space
from safe_llava.data.download.segments import Span
from safe_llava.data.download.sources import SourceError, shown
from safe_llava.data.download.web import check_body, client_for, content_range, explain_broken, headers_for, validator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartState:
    """What is known of a part file: whose bytes they are, how many there should be, and what the hub says of them."""

    source: str
    validator: str
    total: int | None
    sha256: str = ""
    git_id: str = ""
    commit: str = ""


class ChangedError(SourceError):
    """What comes now belongs to another version of the file than what is here."""

    def __init__(self) -> None:
        super().__init__("the file changed while it was being fetched")


def state_path(part: Path) -> Path:
    """Return the file that says whose bytes a part file holds."""
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Forget a part file; the bytes go first, so that a kill in between leaves nothing mislabelled."""
    segments.discard_ahead(part)
    part.unlink(missing_ok=True)
    state_path(part).unlink(missing_ok=True)


def stated_of(part: Path) -> Stated:
    """Return what the hub said of the file that a part file is of; nothing where it is not from there."""
    state = _read_state(part)
    return Stated(state.sha256, state.git_id, state.commit) if state else Stated()


def copy_file(source: Path, part: Path) -> None:
    """Copy a mirror's file into ``part``.

    Raises:
        SourceError: the mirror has no such file, or it cannot be read.
        DataError: the disk is full.
    """
    if not source.is_file():
        raise SourceError("not in the mirror", "put the file into the mirror")
    discard(part)
    size = source.stat().st_size
    require_space(part, size)
    try:
        reader = source.open("rb")
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", "make the mirror's files readable") from error
    with reader, explain_disk(part), part.open("wb") as writer, metered(size, f"copy {source.name}") as count:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            count(len(chunk))


def download(url: str, part: Path, policy: RetryPolicy, *, verified_later: bool) -> None:
    """Fetch ``url`` into ``part``, resuming what is there, until it is whole.

    Args:
        url: an http or https address.
        part: file that receives the bytes; beside it lies a small file with its state.
        policy: how long to bear with the server, and how many connections to open.
        verified_later: whether a checksum will prove the bytes; only then is a body of unknown length taken.

    Raises:
        SourceError: this source cannot give the file; ``part`` keeps what it gave.
        DataError: the disk is full.
    """
    with client_for(policy) as client:
        one = _Transfer(client, hub.at_endpoint(url), part, policy, verified_later, url)
        retried(one.attempt, policy, shown(one.url), lambda: size_of(part) + segments.ahead_bytes(part))


@dataclass(frozen=True)
class _Transfer:
    """One file on its way from one address."""

    client: httpx2.Client
    url: str
    part: Path
    policy: RetryPolicy
    verified_later: bool
    identity: str

    def attempt(self) -> None:
        """Resume the part file, over one connection or several."""
        state = _read_state(self.part)
        have = size_of(self.part)
        if not state or state.source != self.identity or not (state.validator or self.verified_later):
            state, have = None, 0
        if state and have and have == state.total:
            return
        if not (state and have and self._divisible(state, have)):
            self._stream(state, have)
            state = _read_state(self.part)
        if state and state.total is not None and size_of(self.part) < state.total:
            self._gather(state, state.total)

    def _divisible(self, state: PartState, have: int) -> bool:
        """Tell whether what is missing is worth several connections."""
        return self.policy.connections > 1 and (state.total or 0) - have > segments.SEGMENT_BYTES

    def _stream(self, state: PartState | None, start: int) -> None:
        """Receive the rest over one connection; where several are wanted, the first chunk, to see if they may be."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        if self.policy.connections > 1 and not start:
            headers = {"Range": f"bytes=0-{segments.SEGMENT_BYTES - 1}"}
        if state and start and state.validator:
            headers["If-Range"] = state.validator
        with self._asked(headers) as response:
            if response.status_code == 416 and not start and headers:
                return self._plain()  # an empty file has no first byte
            start, stop, total = self._check(response, start, state)
            if total is None and stop is not None:
                return self._plain()  # it does not say how long the whole is, so a part of it leads nowhere
            self._receive(response, start, stop, total)
        return None

    def _plain(self) -> None:
        with self._asked({}) as response:
            start, stop, total = self._check(response, 0, None)
            self._receive(response, start, stop, total)

    @contextmanager
    def _asked(self, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        try:
            with self.client.stream("GET", self.url, headers=headers_for(self.url) | headers) as response:
                yield response
        except httpx2.HTTPError as error:
            state = _read_state(self.part)
            have = size_of(self.part) + segments.ahead_bytes(self.part)
            raise explain_broken(error, self.url, have, state.total if state else None) from error
        except (httpx2.InvalidURL, httpx2.StreamError) as error:
            raise SourceError(f"{type(error).__name__}: {error}", "correct the address in the configuration") from error

    def _check(
        self, response: httpx2.Response, start: int, state: PartState | None
    ) -> tuple[int, int | None, int | None]:
        """Return where the body begins, where it ends and how long the file is; raise where there is no such body."""
        if response.status_code == 206 and "range" in response.request.headers:
            check_body(response)
            first, last, total = content_range(response)
            if first != start or (state and state.total not in (None, total)):
                discard(self.part)
                raise SourceError("the file changed while it was being fetched", again=True)
            return start, last, total
        if response.status_code == 416:
            discard(self.part)
            raise SourceError("the server refused to resume the file", again=True)
        check_body(response)
        length = response.headers.get("content-length")
        total = int(length) if length and length.isdigit() else None
        return 0, total, total

    def _receive(self, response: httpx2.Response, start: int, stop: int | None, total: int | None) -> None:
        part = self.part
        if start == 0:
            discard(part)
            said = stated(response)
            state = PartState(self.identity, validator(response), total, said.sha256, said.git_id, said.commit)
            write_json(state_path(part), asdict(state))
        if total is None and not self.verified_later and "chunked" not in response.headers.get("transfer-encoding", ""):
            raise SourceError("the server does not say how long the file is")
        require_space(part, (total or 0) - start)
        label = f"fetch {part.name.removesuffix('.part')}"
        with explain_disk(part), part.open("ab" if start else "wb") as writer, metered(stop, label) as count:
            count(start)
            # No chunk size: the client would hold back up to one chunk, and lose it where the line breaks.
            for chunk in response.iter_raw():
                writer.write(chunk)
                count(len(chunk))
                if self.policy.limiter:
                    self.policy.limiter.take(len(chunk))
        if stop is not None and size_of(part) != stop:
            raise SourceError(f"{size_of(part):,} of {stop:,} bytes came", again=size_of(part) < stop)

    def _gather(self, state: PartState, total: int) -> None:
        """Receive the rest over several connections, each of which bears with the server by itself."""
        have = size_of(self.part) + segments.ahead_bytes(self.part)
        require_space(self.part, total - have)
        try:
            with metered(total, f"fetch {self.part.name.removesuffix('.part')}") as count:
                count(have)
                together = _Together(self, state, total, count, threading.Lock())
                segments.fetch_segments(self.part, total, together.fetch, self.policy.connections)
        except ChangedError as error:
            discard(self.part)
            raise SourceError(error.reason, again=True) from error


@dataclass(frozen=True)
class _Together:
    """What the connections of one file share."""

    transfer: _Transfer
    state: PartState
    total: int
    count: Callable[[int], None]
    lock: threading.Lock

    def fetch(self, span: Span, path: Path, stop: threading.Event) -> None:
        """Bring one span into its file.

        Raises:
            SourceError: the retry policy is at its end; the connection is not to be tried again by whoever waits.
        """
        transfer = self.transfer
        try:
            retried(
                lambda: self._attempt(span, path, stop),
                transfer.policy,
                shown(transfer.url),
                lambda: size_of(path),
                stop,
            )
        except ChangedError:
            raise
        except SourceError as error:
            raise SourceError(error.reason, error.remedy) from error

    def _attempt(self, span: Span, path: Path, stop: threading.Event) -> None:
        transfer, begin = self.transfer, span.start + size_of(path)
        if begin >= span.stop or stop.is_set():
            return
        headers = {"Range": f"bytes={begin}-{span.stop - 1}"}
        if self.state.validator:
            headers["If-Range"] = self.state.validator
        with transfer._asked(headers) as response:
            check_body(response)
            if response.status_code != 206:
                raise ChangedError
            if content_range(response) != (begin, span.stop, self.total):
                raise ChangedError
            with explain_disk(path), path.open("ab") as writer:
                for chunk in response.iter_raw():
                    writer.write(chunk)
                    begin += len(chunk)
                    with self.lock:
                        self.count(len(chunk))
                    if transfer.policy.limiter:
                        transfer.policy.limiter.take(len(chunk))
                    if stop.is_set():
                        return
        if begin != span.stop:
            raise SourceError(f"{begin:,} of {span.stop:,} bytes came", again=begin < span.stop)


def _read_state(part: Path) -> PartState | None:
    path = state_path(part)
    if not path.exists():
        return None
    try:
        return PartState(**read_json(path))
    except (DataError, TypeError, json.JSONDecodeError):
        return None


def size_of(path: Path) -> int:
    """Return a file's length; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
