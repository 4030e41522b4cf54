"""Bring the bytes of one source into a part file that survives kills and is gone on with later."""

from __future__ import annotations

import email.utils
import errno
import json
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from huggingface_hub import get_token

from safe_llava.core.errors import DataError
from safe_llava.core.files import CHUNK_BYTES, read_json, write_json
from safe_llava.data.meter import metered
from safe_llava.data.sources import SourceError

logger = logging.getLogger(__name__)
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
UNREACHABLE_RETRIES = 1
HUB_HOST = "huggingface.co"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server.

    ``retries`` counts further tries that brought no new bytes: a line that breaks often but makes
    progress is not given up. Times are in seconds.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 1.0
    longest_wait_s: float = 600.0

    def pause(self, failures: int, retry_after: float) -> float:
        """Return how long to wait after the n-th failure: twice as long each time, spread by chance."""
        wait = self.backoff_s * 2 ** (failures - 1) * random.uniform(1.0, 1.25)
        return min(max(wait, retry_after), self.longest_wait_s)


@dataclass(frozen=True)
class PartState:
    """What is known of a part file: whose bytes they are, and how many there should be."""

    source: str
    validator: str
    total: int | None


@contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn a full disk into an error that names the disk.

    Raises:
        DataError: no space, or the quota is used up. What was written so far is kept.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free
        raise DataError(
            f"{path}: {error.strerror or 'no space left on the device'} ({free:,} bytes are free)",
            "make room or set `data.root` to a larger disk, then run the same command: it goes on where it stopped",
        ) from error


def require_space(path: Path, wanted: int) -> None:
    """Check that ``wanted`` more bytes fit beside ``path``.

    Raises:
        DataError: they do not.
    """
    free = shutil.disk_usage(path.parent).free
    if wanted > free:
        raise DataError(
            f"{path}: {wanted:,} bytes are needed and {free:,} are free",
            "make room or set `data.root` to a larger disk, then run the same command: it goes on where it stopped",
        )


def state_path(part: Path) -> Path:
    """Return the file that says whose bytes a part file holds."""
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Forget a part file; the bytes go first, so that a kill in between leaves nothing mislabelled."""
    part.unlink(missing_ok=True)
    state_path(part).unlink(missing_ok=True)


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


def download(url: str, part: Path, patience: Patience, *, verified_later: bool) -> None:
    """Fetch ``url`` into ``part``, going on with what is there, until it is whole.

    Args:
        url: an http or https address.
        part: file that receives the bytes; beside it lies a small file with its state.
        patience: how long to bear with the server.
        verified_later: whether a checksum will prove the bytes; only then is a body of unknown length taken.

    Raises:
        SourceError: this source cannot give the file; ``part`` keeps what it gave.
        DataError: the disk is full.
    """
    timeout = httpx.Timeout(patience.read_timeout_s, connect=patience.connect_timeout_s)
    with httpx.Client(timeout=timeout, follow_redirects=True, headers=_headers(url)) as client:
        persist(lambda: _attempt(client, url, part, verified_later), lambda: _size(part), patience, url)


def persist(attempt: Callable[[], Result], arrived: Callable[[], int], patience: Patience, what: str) -> Result:
    """Repeat an attempt that failed for a passing reason, as long as patience lasts, and return what it gives.

    Args:
        attempt: raises SourceError where it fails.
        arrived: bytes that are here; an attempt that added to them begins the count of failures anew.
        patience: how many failures, and how long to wait between them.
        what: what is fetched, for the log.
    """
    failures, best = 0, arrived()
    while True:
        try:
            return attempt()
        except SourceError as error:
            if not error.again:
                raise
            failures = 1 if arrived() > best else failures + 1
            best = max(best, arrived())
            if failures > (UNREACHABLE_RETRIES if error.unreachable else patience.retries):
                raise
            wait = patience.pause(failures, error.retry_after)
            logger.warning("%s: %s; trying again in %.0f s", what, error.reason, wait)
        time.sleep(wait)


def _headers(url: str) -> dict[str, str]:
    # Without `identity` a server may compress, and byte ranges would count compressed bytes.
    headers = {"Accept-Encoding": "identity", "User-Agent": "safe-llava"}
    # The client drops this header where a redirect leads to another host.
    if urlsplit(url).hostname == HUB_HOST and url.startswith("https://") and (token := get_token()):
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _attempt(client: httpx.Client, url: str, part: Path, verified_later: bool) -> None:
    state = _read_state(part)
    start = _size(part) if state and state.source == url and (state.validator or verified_later) else 0
    if state and start and start == state.total:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    if state and start and state.validator:
        headers["If-Range"] = state.validator
    try:
        with client.stream("GET", url, headers=headers) as response:
            start, total = _check(response, part, start, state)
            if start == 0:
                discard(part)
                write_json(state_path(part), asdict(PartState(url, _validator(response), total)))
            if total is None and not verified_later and "chunked" not in response.headers.get("transfer-encoding", ""):
                raise SourceError("the server does not say how long the file is")
            require_space(part, (total or 0) - start)
            _receive(response, part, start, total)
    except httpx.HTTPError as error:
        raise _explain(error, part, url) from error
    except (httpx.InvalidURL, httpx.StreamError) as error:
        raise SourceError(f"{type(error).__name__}: {error}", "correct the address in the configuration") from error


def _check(response: httpx.Response, part: Path, start: int, state: PartState | None) -> tuple[int, int | None]:
    """Return where the body begins and how long the whole file is; raise where there is no such body."""
    status = response.status_code
    if status == 206 and start:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        total = int(given.group(2)) if given and given.group(2) != "*" else None
        if given and int(given.group(1)) == start and (state is None or state.total in (None, total)):
            return start, total
        discard(part)
        raise SourceError("the file changed while it was being fetched", again=True)
    if status == 416:
        discard(part)
        raise SourceError("the server refused to go on with the file", again=True)
    if status != 200:
        raise _refusal(response)
    if "text/html" in response.headers.get("content-type", ""):
        raise SourceError(
            "an HTML page instead of the file (a quota, login or error page)",
            "open the address in a browser to see what it asks for",
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceError("the server compresses the file although it was asked not to")
    length = response.headers.get("content-length")
    return 0, int(length) if length and length.isdigit() else None


def _receive(response: httpx.Response, part: Path, start: int, total: int | None) -> None:
    label = f"fetch {part.name.removesuffix('.part')}"
    with explain_disk(part), part.open("ab" if start else "wb") as writer, metered(total, label) as count:
        count(start)
        # No chunk size: the client would hold back up to one chunk, and lose it where the line breaks.
        for chunk in response.iter_raw():
            writer.write(chunk)
            count(len(chunk))
    if total is not None and _size(part) != total:
        raise SourceError(f"{_size(part):,} of {total:,} bytes came", again=_size(part) < total)


def _refusal(response: httpx.Response) -> SourceError:
    status = response.status_code
    reason = f"HTTP {status} {response.reason_phrase}".strip()
    if status in (401, 403):
        remedy = "accept the data set's terms and set HF_TOKEN where it asks for them"
    elif status in (404, 410):
        remedy = "correct the row's `url` or `revision` if the file has moved"
    else:
        remedy = "run the same command later"
    return SourceError(
        reason, remedy, again=status in PASSING_STATUSES, retry_after=_retry_after(response.headers.get("retry-after"))
    )


def _retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header, which gives seconds or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _explain(error: httpx.HTTPError, part: Path, url: str) -> SourceError:
    if isinstance(error, httpx.TooManyRedirects):
        return SourceError("it redirects in a circle")
    if isinstance(error, httpx.UnsupportedProtocol):
        return SourceError(f"it leads to an address that is not of the web: {error}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        host = urlsplit(url).netloc
        return SourceError(f"no connection to {host}: {error or 'timed out'}", again=True, unreachable=True)
    state = _read_state(part)
    total = f"{state.total:,}" if state and state.total is not None else "an unknown number of"
    return SourceError(
        f"the connection broke, {_size(part):,} of {total} bytes are here ({type(error).__name__})",
        "run the same command again: it goes on where it stopped",
        again=True,
    )


def _validator(response: httpx.Response) -> str:
    """Return what proves later that the file is still the same; a weak ETag does not."""
    etag: str = response.headers.get("etag", "")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str = response.headers.get("last-modified", "")
    return modified


def _read_state(part: Path) -> PartState | None:
    path = state_path(part)
    if not path.exists():
        return None
    try:
        return PartState(**read_json(path))
    except (DataError, TypeError, json.JSONDecodeError):
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
