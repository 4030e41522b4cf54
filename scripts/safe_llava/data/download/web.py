"""What servers answer, and what it means for a file that is wanted byte by byte."""

from __future__ import annotations

import email.utils
import logging
import re
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import get_token

from safe_llava.core.errors import DataError
from safe_llava.core.http import open_http_client
from safe_llava.data.download.hub import is_hub, refusal_remedy
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import SourceError, shown

# Its lines name every address that a redirect leads to, and some of those carry signatures.
for library in ("httpx", "httpx2"):
    logging.getLogger(library).setLevel(logging.WARNING)
HTML_PAGE = (
    "an HTML page instead of the file (a quota, login or error page)",
    "open the address in a browser to see what it asks for",
)
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def client_for(policy: RetryPolicy, **options: Any) -> httpx2.Client:
    """Return a client with the time-outs of a policy, to be used in a ``with``.

    Raises:
        DataError: the environment names a proxy that cannot be used.
    """
    timeout = httpx2.Timeout(policy.read_timeout_s, connect=policy.connect_timeout_s)
    return open_http_client(DataError, timeout=timeout, **options)


def headers_for(url: str) -> dict[str, str]:
    """Return the headers of a request for a file's very bytes."""
    # Without `identity` a server may compress, and byte ranges would count compressed bytes.
    headers = {"Accept-Encoding": "identity", "User-Agent": "safe-llava"}
    # The client drops this header where a redirect leads to another host.
    if is_hub(url) and (token := get_token()):
        headers["Authorization"] = f"Bearer {token}"
    return headers


def check_body(response: httpx2.Response) -> None:
    """Refuse an answer that is not the bytes of a file.

    Raises:
        SourceError: a status that is not 200 or 206, a page of text, or compressed bytes.
    """
    if response.status_code not in (200, 206):
        raise refusal(response)
    if "text/html" in response.headers.get("content-type", ""):
        raise SourceError(*HTML_PAGE)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceError("the server compresses the file although it was asked not to")


def content_range(response: httpx2.Response) -> tuple[int, int, int | None]:
    """Return start, stop (not part of it) and total of a part of a file; -1 where the header cannot be read."""
    given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", ""))
    if given is None:
        return -1, -1, None
    total = None if given.group(3) == "*" else int(given.group(3))
    return int(given.group(1)), int(given.group(2)) + 1, total


def refusal(response: httpx2.Response) -> SourceError:
    """Return what a status other than that of success means."""
    status, url, wait = response.status_code, str(response.url), seconds_of(response.headers.get("retry-after"))
    reason = f"HTTP {status} {response.reason_phrase}".strip()
    if status in TRANSIENT_STATUSES:
        return SourceError(reason, "run the same command later", again=True, retry_after=wait)
    if is_hub(url):
        return SourceError(reason, refusal_remedy(status, "authorization" in response.request.headers))
    if status in (401, 403) and response.history:
        # Signed addresses hold for some minutes: the one who gave this one gives a new one.
        return SourceError(f"{reason}: the signed address that it redirects to expired or is not for you", again=True)
    if status in (401, 403):
        return SourceError(reason, f"{response.url.host} wants credentials or refuses this machine: name a mirror")
    if status in (404, 410):
        return SourceError(reason, "correct the row's `url` or `revision` if the file has moved")
    return SourceError(reason, "run the same command later")


def seconds_of(value: str | None) -> float:
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


def explain_broken(error: httpx2.HTTPError, url: str, have: int, total: int | None) -> SourceError:
    """Return what a broken conversation means, with how much of the file is here."""
    if isinstance(error, httpx2.TooManyRedirects):
        return SourceError("it redirects in a circle")
    if isinstance(error, httpx2.UnsupportedProtocol):
        return SourceError(f"it leads to an address that is not of the web: {error}")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        host = shown(urlsplit(url).netloc)
        return SourceError(f"no connection to {host}: {error or 'timed out'}", again=True, unreachable=True)
    of = f"{total:,}" if total is not None else "an unknown number of"
    return SourceError(
        f"the connection broke, {have:,} of {of} bytes are here ({type(error).__name__})",
        "run the same command again: it goes on where it stopped",
        again=True,
    )


def validator(response: httpx2.Response) -> str:
    """Return what proves later that the file is still the same; a weak ETag does not."""
    etag: str = response.headers.get("etag", "")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str = response.headers.get("last-modified", "")
    return modified
