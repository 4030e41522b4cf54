"""What goes wrong when an endpoint is asked, and whether it is worth another try: transient, or fatal for one or all.

Sources: the error pages of OpenAI's and Gemini's API references; RFC 9110 for Retry-After.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from safe_llava.judges.calls import Usage

FATAL_CODES = {
    *("insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "account_deactivated"),
    *("model_not_found", "invalid_api_key", "API_KEY_INVALID", "FAILED_PRECONDITION"),
}
RATE_CODE = re.compile(r"429|resource.?exhausted|.*rate.?limit.*|.*too.?many.?requests.*|.*throttl.*", re.IGNORECASE)
TRANSIENT_STATUSES = {408, 409, 421, 423, 424, 425, 499}
# So all calls would end. Of another 4xx, one answer may be the reason: it may be too long, or be flagged.
FATAL_STATUSES = {401, 402, 404, 405, 407, 410, 426}
WORDS = ("message", "detail", "msg", "error_message", "error_msg")  # where servers say what went wrong
CODES = ("code", "type", "status", "status_code", "error_code")
_IN_WORDS = re.compile(r"\b(?:again in|retry (?:in|after)) ((?:\d+(?:\.\d+)? ?(?:ms|h|m|s)[a-z]*)+)")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Fault(StrEnum):
    """What an error means for the calls."""

    RATE_LIMITED = "came too fast"  # the call waits and is tried again
    TRANSIENT = "failed"  # the call is tried again, a bounded number of times
    UNREADABLE = "cannot be read"  # the reply is paid; the call is asked again, a bounded number of times
    FATAL_FOR_CALL = "cannot be asked"  # this call fails, others may not
    FATAL = "rejected for good"  # no call can succeed


@dataclass(eq=False)
class CallError(Exception):
    """Why a call has no verdict.

    Args:
        fault: what it means for the calls.
        reason: the endpoint's own words, where it has any.
        wait: seconds that the endpoint asks to wait, None where it says nothing.
        unseen: whether the call may have been answered, and so be paid, without the reply having come.
        status: of HTTP, None where there was no response.
        paid: the tokens that the call took all the same, where the endpoint counts them.
    """

    fault: Fault
    reason: str
    wait: float | None = None
    unseen: bool = False
    status: int | None = None
    paid: Usage | None = None

    @property
    def is_transient(self) -> bool:
        """Whether the same may go well later."""
        return self.fault in (Fault.TRANSIENT, Fault.RATE_LIMITED)


def read_error(status: int, headers: Mapping[str, str], value: Any) -> CallError:
    """Return what an error's status and body mean.

    Args:
        status: of HTTP; 200 for an error inside a body of that status, which has its own code.
        headers: of the response, whatever the case of their names.
        value: the JSON value of the body, or None where it is none.
    """
    headers = {name.lower(): text for name, text in headers.items()}
    error = error_in(value) or {}
    said = " ".join(str(error.get("message") or "").split())[:200]
    codes = {str(error.get(name)) for name in CODES} | {str(detail.get("reason")) for detail in _details(error)}
    if status == 200:
        status = next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), status)
    fault = _fault(status, codes, error)
    wait = _told_to_wait(headers, error) if fault in (Fault.TRANSIENT, Fault.RATE_LIMITED) else None
    reason = f"HTTP {status}" + (f": {said}" if said else "")
    return CallError(fault, reason, wait, status=status, paid=Usage.counted(value))


def _fault(status: int, codes: set[str], error: Mapping[str, Any]) -> Fault:
    if codes & FATAL_CODES or (status == 429 and _day_is_over(error)):
        return Fault.FATAL
    if status == 429 or (status == 200 and any(RATE_CODE.fullmatch(code) for code in codes)):
        return Fault.RATE_LIMITED
    if status in TRANSIENT_STATUSES or status >= 500 or 200 <= status < 300:
        return Fault.TRANSIENT
    return Fault.FATAL_FOR_CALL if status >= 400 and status not in FATAL_STATUSES else Fault.FATAL


def error_in(value: Any) -> dict[str, Any] | None:
    """Return the error that a body holds, with its ``message``, or None; servers put it in places of their own."""
    if isinstance(value, list) and value:  # Gemini's errors come in a list at times
        value = value[0]
    if not isinstance(value, dict):
        return None
    error = value.get("error", value.get("errors"))
    error = error[0] if isinstance(error, list) and error else error
    if isinstance(error, str) and error:
        error = {**value, "message": error}
    if isinstance(error, dict) or value.get("choices") or value.get("candidates"):
        return error if isinstance(error, dict) else None
    said = next((value[name] for name in WORDS if value.get(name)), None)
    return None if said is None else {**value, "message": said if isinstance(said, str) else str(said)[:200]}


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
        if error.get("retry_after") is not None:
            return max(0.0, float(error["retry_after"]))
    except (ValueError, TypeError):
        pass
    used_up = [
        _span(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}", "").split(".")[0] == "0"
    ]
    if told := _IN_WORDS.search(str(error.get("message")).lower()):
        used_up.append(_span(told.group(1).replace(" ", "")))
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
