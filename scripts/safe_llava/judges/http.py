"""Asking an endpoint once: a reply, or what went wrong and whether it is worth another try.

aiohttp is used, and not the client library of OpenAI or Google: it takes a tenth of their time for a call, and both
kinds of endpoint are paced, tried again and watched by the same code. The key goes into one header; whatever comes
back has it cut out before anything else sees it, and no exception of the library, which may hold it, is passed on.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import without_secret
from safe_llava.judges.client import (
    Call,
    RawReply,
    UnusableReplyError,
    auth_headers,
    endpoint_url,
    read_reply,
    request_body,
    request_path,
)

_OF_ALL = {
    *("insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "account_deactivated"),
    *("model_not_found", "invalid_api_key", "API_KEY_INVALID", "FAILED_PRECONDITION"),
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Fault(StrEnum):
    """What a trouble means for the calls."""

    TURNED_DOWN = "came too fast"  # the call waits and is tried again
    PASSING = "failed"  # the call is tried again, a bounded number of times
    OF_CALL = "cannot be asked"  # this call fails, others may not
    OF_ALL = "turned down for good"  # no call can succeed


@dataclass(frozen=True)
class Trouble:
    """Why there is no reply; ``wait`` is how many seconds the endpoint asks to wait, None where it says nothing."""

    fault: Fault
    reason: str
    wait: float | None = None


class Connection:
    """An open connection pool to a judge's endpoint.

    Args:
        judge: the judge's row.
        secret: the key, or None where none is needed.
    """

    def __init__(self, judge: Judge, secret: str | None) -> None:
        self._judge, self._url = judge, endpoint_url(judge)
        self._headers = auth_headers(judge, secret) | {"Content-Type": "application/json"}
        self._secret = secret
        parts = urlsplit(self._url)
        # Not aiohttp's own reading of the environment, which would take passwords out of ~/.netrc too.
        self._proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_trusted()),
            timeout=aiohttp.ClientTimeout(total=self._judge.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def ask(self, call: Call) -> RawReply | Trouble:
        """Ask once, and wait ``timeout_s`` of the row at most."""
        body = json.dumps(request_body(self._judge, call)).encode("ascii")
        url = self._url + request_path(self._judge, call)
        try:
            async with self._session.post(url, data=body, proxy=self._proxy, allow_redirects=False) as response:
                data = await response.read()
                status, headers = response.status, response.headers
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            return Trouble(Fault.OF_ALL, f"{self._url} is no address")
        except aiohttp.ClientConnectorCertificateError:
            return Trouble(Fault.OF_ALL, f"{self._url}: its certificate is not trusted")
        except TimeoutError:
            return Trouble(Fault.PASSING, f"no reply within {self._judge.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Trouble(Fault.PASSING, f"the connection failed: {type(error).__name__}")
        data = without_secret(data, self._secret)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):  # a body that is no text among them
            value = None
        if status != 200:
            return read_trouble(status, headers, value)
        if value is None:
            return Trouble(Fault.PASSING, f"a reply of {len(data)} bytes that is not JSON")
        try:
            return read_reply(self._judge, value)
        except UnusableReplyError as error:
            return Trouble(Fault.PASSING, str(error))


def read_trouble(status: int, headers: Mapping[str, str], value: Any) -> Trouble:
    """Return what a status other than 200 means.

    Args:
        status: of HTTP.
        headers: of the response, whatever the case of their names.
        value: the JSON value of the body, or None where it is none.
    """
    headers = {name.lower(): text for name, text in headers.items()}
    error = _error(value)
    told = " ".join(str(error.get("message") or "").split())[:200]
    reason = f"HTTP {status}" + (f": {told}" if told else "")
    codes = {str(error.get(name)) for name in ("code", "type", "status")} | {
        str(detail.get("reason")) for detail in _details(error)
    }
    if codes & _OF_ALL or (status == 429 and _day_is_over(error)):
        return Trouble(Fault.OF_ALL, reason)
    if status == 429:
        return Trouble(Fault.TURNED_DOWN, reason, _told_to_wait(headers, error))
    if status in (408, 409, 425) or status >= 500 or 200 <= status < 300:
        return Trouble(Fault.PASSING, reason, _told_to_wait(headers, error))
    if status in (400, 413, 422):
        return Trouble(Fault.OF_CALL, reason)
    return Trouble(Fault.OF_ALL, reason)


def _error(value: Any) -> dict[str, Any]:
    if isinstance(value, list) and value:  # Gemini's answers come in a list at times
        value = value[0]
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def _details(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _day_is_over(error: Mapping[str, Any]) -> bool:
    """Return whether a quota of the day is used up; the wait that Gemini names beside it is of the minute's."""
    found = [detail.get("violations") for detail in _details(error)]
    violations = [one for each in found if isinstance(each, list) for one in each if isinstance(one, dict)]
    return any("PerDay" in str(violation.get("quotaId")) for violation in violations)


def _told_to_wait(headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:
    """Return the seconds to wait, from the most exact of the places where servers say it."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000.0)
        for detail in _details(error):
            if "retryDelay" in detail:
                return max(0.0, float(str(detail["retryDelay"]).removesuffix("s")))
        if "retry-after" in headers:
            return _seconds_or_date(headers["retry-after"], headers.get("date"))
    except (ValueError, TypeError):
        pass
    used_up = [
        _span(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}", "").split(".")[0] == "0"
    ]
    return max((seconds for seconds in used_up if seconds is not None), default=None)


def _seconds_or_date(text: str, date: str | None) -> float:
    """Return the seconds of a Retry-After; a date is taken by the server's clock, where it tells its time."""
    try:
        return max(0.0, float(text))
    except ValueError:
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())


def _span(text: str) -> float | None:
    """Return the seconds of a span such as ``6m0s``, ``1.2s`` or ``120ms``."""
    parts = _SPAN.findall(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else None


def _trusted() -> ssl.SSLContext:
    """Return what certificates are trusted: the system's, and certifi's where an image has none."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
