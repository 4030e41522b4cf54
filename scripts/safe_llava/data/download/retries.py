"""When a download that failed is tried again, and for how long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from safe_llava.data.download.sources import SourceError
from safe_llava.data.download.throttle import Limiter

logger = logging.getLogger(__name__)
UNREACHABLE_RETRIES = 1
Result = TypeVar("Result")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to bear with a server, and how much to ask of it.

    ``connections`` fetch one large file together; ``limiter`` keeps them below a rate. ``retries`` counts further
    tries that brought no new bytes: a line that breaks often but makes progress is not given up. Times are in seconds.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 1.0
    longest_wait_s: float = 600.0
    connections: int = 1
    limiter: Limiter | None = None


def retried(
    attempt: Callable[[], Result],
    policy: RetryPolicy,
    what: str,
    arrived: Callable[[], int] = int,
    stop: threading.Event | None = None,
) -> Result:
    """Repeat an attempt that failed with a transient error, as the policy allows, and return what it gives.

    Args:
        attempt: raises SourceError where it fails.
        policy: how many failures, and how long to wait between them.
        what: what is fetched, for the log.
        arrived: bytes that are here; an attempt that added to them begins the count of failures anew.
        stop: once set, a failure is the last.
    """
    tries = _Tries(policy, what, arrived, arrived(), stop)
    return tenacity.Retrying(
        retry=tries.transient, stop=tries.exhausted, wait=tries.pause, before_sleep=tries.report, reraise=True
    )(attempt)


@dataclass
class _Tries:
    """The failures of one attempt since it last brought new bytes."""

    policy: RetryPolicy
    what: str
    arrived: Callable[[], int]
    best: int
    stop: threading.Event | None
    failures: int = 0

    def transient(self, state: tenacity.RetryCallState) -> bool:
        """Count a failure, and tell whether another try may help."""
        error = _error(state)
        if not isinstance(error, SourceError) or not error.again or (self.stop is not None and self.stop.is_set()):
            return False
        have = self.arrived()
        self.failures = 1 if have > self.best else self.failures + 1
        self.best = max(self.best, have)
        return True

    def exhausted(self, state: tenacity.RetryCallState) -> bool:
        """Tell whether there were as many failures as the policy bears."""
        error = _error(state)
        unreachable = isinstance(error, SourceError) and error.unreachable
        return self.failures > (UNREACHABLE_RETRIES if unreachable else self.policy.retries)

    def pause(self, state: tenacity.RetryCallState) -> float:
        """Return how long to wait: twice as long each time, spread by chance, and as long as the server asks."""
        error = _error(state)
        asked = error.retry_after if isinstance(error, SourceError) else 0.0
        longest = self.policy.longest_wait_s
        wait = self.policy.backoff_s * 2.0 ** (self.failures - 1)
        spread = tenacity.wait_random(0, wait / 4)(state)
        return min(max(wait + spread, asked), longest)

    def report(self, state: tenacity.RetryCallState) -> None:
        """Log why it is tried again, and when."""
        logger.warning("%s: %s; trying again in %.0f s", self.what, _error(state), state.upcoming_sleep)


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
