"""How fast a judge may be asked: the row's limits, and what the endpoint's replies teach about its own.

Calls leave through leaky buckets of aiolimiter, evenly and never faster than the row says. Where an endpoint limits
some calls (HTTP 429), each of them waits as long as the reply asks, and the rate of all follows what the endpoint
accepts. Where it rejects one after another, everything pauses as long as the replies ask; then single calls go first
to try, and once one passes the rest follows at the rate, not at once. A call that is limited among others that pass
does not stop the rest.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable

from aiolimiter import AsyncLimiter

CATCH_UP_S = 0.25  # seconds of calls that may leave at once at the start, or after the process was held up
FIRST_RATE = 100.0  # calls a second to begin with where nobody states a limit
MIN_RATE = 0.05
TICK_S = 0.5
TICK_REPLIES = 20  # fewer replies say little about the share that is limited,
SLOW_TICK_S, SLOW_TICK_REPLIES = 5.0, 5  # and at a low rate these have to do
TOO_MANY = 0.13  # share of calls limited from which on the rate goes down
ABOVE = 1.06  # how far over what the endpoint accepts the rate is set: a little is limited, nothing is given away
FAST, SLOW = 2.0, 0.02  # growth a tick: the factor while no limit was met; then this share, more with each easy tick
LEAST = 0.8  # of the rate is kept in a tick, once the limit is known about
SURE = 5  # easy ticks after which the growth is no longer slow
STREAK = 8  # failures in a row after which everything pauses,
STREAK_S = 0.1  # where no call has passed for so many seconds either: many leave at once at a high rate
MAX_PAUSE_S = 60.0
SOON_S = 3.0  # a pause so soon after the last one, or the start, says which rate the endpoint can take
TRY_EVERY_S = 0.25  # between the single calls that try whether a pause is over: one of them may hang
FIRST_LIMIT, LOWEST_LIMIT = 256, 32  # calls under way to begin with, and at least
LIMIT_STEP = 3  # for each reply that comes soon while as many calls as the limit are under way
SOON_SHARE = 0.5  # of the time-out: replies that take longer have waited in a queue of the endpoint
KNOWN_REPLIES = 100  # replies that say how long one takes
HANGS_AFTER, HANGS_S = 5.0, 10.0  # times the slowest twentieth, and seconds at least, after which a call hangs


def backoff(nth: int, first: float = 0.5, most: float = MAX_PAUSE_S) -> float:
    """Return a pause in seconds before try ``nth`` (from 1), doubled each time, spread so that not all end at once."""
    return min(most, first * 2.0 ** min(nth - 1, 30)) * random.uniform(0.5, 1.0)


class RateLimiter:
    """Lets calls leave one after another.

    The buckets hold seconds: a call takes as many as lie between two calls at the present rate, so that a rate that is
    learned changes what a call takes and never the bucket.

    Args:
        requests_per_minute: the row's limit, or None.
        tokens_per_minute: the row's limit, or None.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.learned = LearnedRate(math.inf if requests_per_minute is None else requests_per_minute / 60.0)
        self._token_s = 0.0 if tokens_per_minute is None else 60.0 / tokens_per_minute
        self._calls, self._tokens = AsyncLimiter(CATCH_UP_S, CATCH_UP_S), AsyncLimiter(CATCH_UP_S, CATCH_UP_S)
        self._owed = 0  # tokens that calls took beyond what was expected of them
        self._turn = asyncio.Lock()

    async def turn(self, tokens: int) -> int:
        """Wait until the next call may leave, with the tokens it is expected to take; return its number."""
        async with self._turn:
            while True:
                while (pause := self.learned.pause()) > 0.0:
                    await asyncio.sleep(pause)
                await _take(self._calls, self.learned.gap())
                owed, self._owed = self._owed, 0
                await _take(self._tokens, max(0, tokens + owed) * self._token_s)
                if self.learned.pause() == 0.0:
                    return self.learned.sent()

    def settle(self, expected: int, taken: int) -> None:
        """Put the tokens that a call took in the place of those that were expected."""
        self._owed += taken - expected


async def _take(bucket: AsyncLimiter, seconds: float) -> None:
    while seconds > 0.0:
        part = min(seconds, bucket.max_rate)
        await bucket.acquire(part)
        seconds -= part


class LearnedRate:
    """What the replies of an endpoint teach about the calls a second that it takes, and when to pause.

    Args:
        most: the row's limit, calls a second.
        clock: seconds, as of ``time.monotonic``.
    """

    def __init__(self, most: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._most = clock, most
        self.rate = FIRST_RATE if math.isinf(most) else most
        self._met = False  # the endpoint's limit, at the present rate
        self._easy = 0  # ticks in a row in which hardly anything was limited
        self._begin_tick()
        self._streak = self._pauses = 0
        self._last_passed = -math.inf
        self._calls = self._first = 0  # number of the next call, and of the first since the last pause
        self._paused_until = 0.0
        self._resumed, self._since = clock(), 0  # when the last pause ended, and the calls that have passed since
        self._trying = False  # after a pause, until a call has passed
        self._too_fast = False  # why it paused: calls came too fast, or they failed

    def pause(self) -> float:
        """Return the seconds until any call may leave, 0 for now."""
        return max(0.0, self._paused_until - self._clock())

    def gap(self) -> float:
        """Return the seconds between two calls."""
        return max(1.0 / self.rate, TRY_EVERY_S) if self._trying else 1.0 / self.rate

    def sent(self) -> int:
        """Count a call that leaves now; return its number."""
        self._sent += 1
        self._calls += 1
        return self._calls - 1

    def passed(self, number: int) -> None:
        """Count a call that the endpoint took on, whatever it made of it."""
        self._passed += 1
        self._since += 1
        self._streak = self._pauses = 0
        self._last_passed = self._clock()
        if self._trying and number >= self._first:
            self._trying = False
            self._resumed = self._clock()
            self._since = 1
            self._begin_tick()
        self._adapt()

    def limited(self, number: int, hint: float | None) -> None:
        """Count a call that came too fast, with the seconds that the endpoint asks to wait."""
        self._limited += 1
        self._stumble(number, hint, too_fast=True)
        self._adapt()

    def failed(self, number: int, hint: float | None) -> None:
        """Count a call that failed otherwise; the endpoint may be down."""
        self._passed += 1  # no sign of calls that come too fast
        self._stumble(number, hint, too_fast=False)

    def _stumble(self, number: int, hint: float | None, too_fast: bool) -> None:
        now = self._clock()
        if number < self._first:  # it left before the last pause, and says nothing new
            if now < self._paused_until:
                self._paused_until = max(self._paused_until, now + (hint or 0.0))
            return
        self._streak += 1
        # One that fails while it tries whether calls still come too fast says nothing about that.
        tried_in_vain = self._trying and too_fast >= self._too_fast
        if tried_in_vain or (self._streak >= STREAK and now - self._last_passed > STREAK_S):
            self._pause(now, backoff(self._pauses + 1, first=1.0) if hint is None else hint, too_fast)

    def _pause(self, now: float, seconds: float, too_fast: bool) -> None:
        if too_fast and not self._trying and now - self._resumed < SOON_S and math.isinf(self._most):
            self._met, self._easy = True, SURE  # little is known yet: if it goes well, the rate comes back soon
            taken = max(1, self._since) / (now - self._resumed + seconds)
            self.rate = min(self.rate, max(MIN_RATE, taken * ABOVE, self.rate / 4))
        self._pauses += 1
        self._streak = 0
        self._paused_until = now + seconds
        self._trying, self._too_fast, self._first = True, too_fast, self._calls

    def _begin_tick(self) -> None:
        self._tick_start = self._clock()
        self._sent = self._passed = self._limited = 0

    def _adapt(self) -> None:
        """Set the rate by what became of the calls of the last tick."""
        seconds = self._clock() - self._tick_start
        replies = self._passed + self._limited
        enough = TICK_REPLIES if seconds < SLOW_TICK_S else SLOW_TICK_REPLIES
        if self._trying or seconds < TICK_S or replies < enough:
            return
        share = self._limited / replies
        self._easy = self._easy + 1 if share < TOO_MANY / 2 else 0
        if share > TOO_MANY:
            # What was accepted says too little where the process was held up: the last rate that went well bounds it.
            least = self.rate * LEAST if self._met else self.rate / FAST
            self._met = True
            self.rate = min(self._most, max(MIN_RATE, least, self._sent * (1.0 - share) / seconds * ABOVE))
        elif self._sent > 0.7 * self.rate * seconds:  # else it is not the rate that holds the calls back
            growth = min(FAST, 1.0 + SLOW * 1.5**self._easy) if self._met else FAST
            self.rate = min(self._most, self.rate * growth)
        self._begin_tick()


class ConcurrencyLimiter:
    """Says how many calls may be under way, and how long a call is waited for.

    Calls that hang hold their slots: more are given while replies come soon, and taken back where the endpoint
    queues what it is sent. A call that takes many times as long as the others is given up early and asked again.

    Args:
        most: the row's bound on the calls under way.
        timeout_s: the row's bound on the seconds of a call.
        first: the limit to begin with.
    """

    def __init__(self, most: int, timeout_s: float, first: int = FIRST_LIMIT) -> None:
        self._most, self._timeout_s = most, timeout_s
        self.limit = min(most, first)
        self._free = asyncio.Semaphore(self.limit)
        self._excess = 0  # slots that are taken back when they come free
        self._seconds: deque[float] = deque(maxlen=2 * KNOWN_REPLIES)
        self._replies = 0
        self._hangs_after = timeout_s

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *exception: object) -> None:
        self._give()

    def widen(self, least: int = FIRST_LIMIT) -> None:
        """Raise the limit to so many calls, within the row's bound."""
        for _ in range(min(self._most, least) - self.limit):
            self.limit += 1
            self._give()

    def replied(self, seconds: float, full: bool) -> None:
        """Count a reply, what it took, and whether every slot was taken when it came."""
        if seconds > SOON_SHARE * self._timeout_s:
            if self.limit > min(self._most, LOWEST_LIMIT):
                self.limit -= 1
                self._excess += 1
        elif full:
            self.widen(self.limit + LIMIT_STEP)
        self._seconds.append(seconds)
        self._replies += 1
        if self._replies % KNOWN_REPLIES == 0:
            slow = sorted(self._seconds)[int(0.95 * len(self._seconds))]
            self._hangs_after = max(HANGS_S, HANGS_AFTER * slow)

    def timeout(self, failures: int) -> float:
        """Return the seconds to wait for a call that has failed so often; each failure doubles them."""
        return min(self._timeout_s, self._hangs_after * 2.0 ** min(failures, 30))

    def _give(self) -> None:
        """Let another call use a slot, unless it is one too many."""
        if self._excess:
            self._excess -= 1
        else:
            self._free.release()
