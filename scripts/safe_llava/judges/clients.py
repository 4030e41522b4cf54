"""A judge's endpoint through its vendor's client: a reply, or the error that says what it means; calls and batches.

The vendors' own retries are off and their time-outs are set here. Nothing of their exceptions is passed on: they may
hold the key. Whatever an endpoint says has the key cut out before anything else sees it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import certifi
import httpx2

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import without_secret
from safe_llava.core.errors import PrismError
from safe_llava.core.http import proxy_for
from safe_llava.judges.calls import Call, RawReply, Usage, endpoint_url
from safe_llava.judges.faults import CallError, Fault, error_in, read_error

log = logging.getLogger(__name__)
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
LABEL = "safe_llava_label"  # of a batch, among its metadata
PAGES = 10  # pages of batches that are looked through for a label, the newest first


@dataclass(frozen=True)
class BatchState:
    """How far a batch is: ``full`` where it was not taken for lack of room, ``failed`` where nothing was asked."""

    state: Literal["running", "ended", "failed", "full"]
    detail: str = ""


@dataclass(frozen=True)
class Line:
    """What a batch says of one call: a reply, or the reason why there is none."""

    key: str
    reply: RawReply | None = None
    reason: str | None = None


class Client(ABC):
    """A judge's endpoint through its vendor's client; what goes wrong is a ``CallError``.

    Args:
        judge: the judge's row.
        secret: the key, or None where none is needed.
    """

    max_requests: int  # of a batch
    max_bytes: int

    def __init__(self, judge: Judge, secret: str | None) -> None:
        self._judge, self._secret, self._url = judge, secret, endpoint_url(judge)
        self._http = http_client(self._url, judge.timeout_s)

    @abstractmethod
    async def ask(self, call: Call) -> RawReply:
        """Ask once."""

    @abstractmethod
    def size(self, call: Call) -> int:
        """Return the bytes that a call takes in a batch."""

    @abstractmethod
    async def submit(self, label: str, calls: Sequence[Call]) -> str:
        """Submit calls of one model as a batch and return the batch's id."""

    @abstractmethod
    async def find(self, label: str) -> str | None:
        """Return the id of the batch that was submitted under a label, or None."""

    @abstractmethod
    async def poll(self, batch: str) -> BatchState:
        """Return how far a batch is."""

    @abstractmethod
    async def results(self, batch: str) -> list[Line]:
        """Return the results of a batch that has ended, in any order, perhaps not all."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the connections."""


def http_client(url: str, timeout_s: float) -> httpx2.AsyncClient:
    """Return the connections to an endpoint: no redirects, no passwords out of files, the environment's proxy.

    Raises:
        PrismError: the proxy that the environment names cannot be used.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())  # a container image may have none of the system's
    # A vendor's client retries nothing and limits nothing: this project does.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    try:
        return httpx2.AsyncClient(
            timeout=timeout_s, limits=limits, trust_env=False, proxy=proxy_for(url), verify=context
        )
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        raise PrismError(
            f"{url} cannot be asked through the proxy of the environment: {type(error).__name__}",
            "name an HTTP proxy in HTTPS_PROXY (http_proxy for http addresses), or the endpoint's host in NO_PROXY",
        ) from None


@contextlib.contextmanager
def http_errors(url: str) -> Iterator[None]:
    """Turn what the connections raise into a ``CallError``: never sent, or perhaps answered."""
    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise CallError(Fault.FATAL, f"{url} is no address") from None
    except (httpx2.HTTPError, OSError) as error:
        if isinstance(error, httpx2.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise CallError(Fault.FATAL, f"{url}: its certificate is not trusted") from None
        reason = f"the connection failed: {type(error).__name__}"
        raise CallError(Fault.TRANSIENT, reason, unseen=not isinstance(error, NEVER_SENT)) from None


def json_of(body: bytes | str, secret: str | None) -> Any:
    """Return the JSON value of a body without the key, None where it is none.

    The key is cut out of the texts of the value, where no escape hides it.
    """
    try:
        return without_key(json.loads(body), secret)
    except (ValueError, RecursionError):
        return None


def without_key(value: Any, secret: str | None) -> Any:
    """Return a JSON value without a key that its texts may repeat."""
    if isinstance(value, str):
        return without_secret(value, secret)
    if isinstance(value, list):
        return [without_key(one, secret) for one in value]
    if isinstance(value, dict):
        return {without_secret(name, secret): without_key(one, secret) for name, one in value.items()}
    return value


def whole_text(text: str) -> str:
    """Return a text that has a UTF-8 form: halves of surrogate pairs become replacement characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def reply_or_error(value: Any, size: int, read: Any, headers: Mapping[str, str] | None = None) -> RawReply:
    """Return the reply in a body of status 200; one without its parts is an empty reply if its tokens are counted.

    Raises:
        CallError: the body holds an error, or is no reply at all.
    """
    if value is None:
        raise CallError(Fault.TRANSIENT, f"a reply of {size} bytes that is not JSON", unseen=True)
    if error_in(value) is not None:
        raise read_error(200, headers or {}, value)
    usage = Usage.counted(value)
    try:
        reply: RawReply = read(value)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if usage is None:
            what = f"a reply without its parts: {type(error).__name__}"
            raise CallError(Fault.TRANSIENT, what, unseen=True) from error
        reply = RawReply("", finish_reason="no reply in it", model=word(value.get("model", value.get("modelVersion"))))
    return replace(reply, usage=usage)


def word(value: Any) -> str | None:
    """Return a value that is a text, else None."""
    return value if isinstance(value, str) else None


def batch_line(key: str, body: Any, read: Any) -> Line:
    """Return what a batch says of a call that has a body."""
    try:
        return Line(key, reply=reply_or_error(body, 0, read))
    except CallError as error:
        reason = f"the batch holds no reply: {error.reason}"
        return Line(key, reason=reason) if error.paid is None else Line(key, RawReply("", error.paid, reason))


def json_rows(text: str, what: str, secret: str | None) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of lines; a broken line is reported and its call is asked again."""
    broken = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        row = json_of(line, secret)
        broken += row is None
        if isinstance(row, dict):
            yield row
    if broken:
        log.warning("%s: %d broken lines are passed over; their calls are asked again", what, broken)
