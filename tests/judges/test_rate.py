"""The rate of a judge, on a clock of the test's own: even, never faster than allowed, and learned from the replies."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest

from safe_llava.judges import rate as judge_rate
from safe_llava.judges.rate import (
    CATCH_UP_S,
    FIRST_LIMIT,
    LOWEST_LIMIT,
    STREAK,
    ConcurrencyLimiter,
    LearnedRate,
    RateLimiter,
    backoff,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bucket:
    """An endpoint that lets in ``rate`` calls a second, ``burst`` of them at once after a rest."""

    def __init__(self, clock: Clock, rate: float, burst: float) -> None:
        self.clock, self.rate, self.burst = clock, rate, burst
        self.tokens, self.last = burst, clock.now

    def lets_in(self) -> bool:
        self.tokens = min(self.burst, self.tokens + (self.clock.now - self.last) * self.rate)
        self.last = self.clock.now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Driven:
    """A learned rate whose calls leave as its gaps and pauses say."""

    def __init__(self, most: float = math.inf) -> None:
        self.clock = Clock()
        self.learned = LearnedRate(most, self.clock)
        self._next = self.clock.now

    def wait(self) -> float:
        return max(self.learned.pause(), self._next - self.clock.now, 0.0)

    def send(self) -> int:
        self._next = max(self._next, self.clock.now - CATCH_UP_S) + self.learned.gap()
        return self.learned.sent()

    def drive(self, seconds: float, bucket: Bucket | None = None) -> int:
        """Send calls for some time; return how many the endpoint let in."""
        end, let_in = self.clock.now + seconds, 0
        while True:
            self.clock.now += self.wait() + 1e-9
            if self.clock.now >= end:
                return let_in
            number = self.send()
            if bucket is None or bucket.lets_in():
                let_in += 1
                self.learned.passed(number)
            else:
                self.learned.limited(number, 1.0)


class LoopClock(asyncio.SelectorEventLoop):
    """An event loop whose time goes on at once to the next thing that is due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now + 1e-6, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def leave(limiter: RateLimiter, seconds: float, tokens: int = 1) -> list[float]:
    """Return when calls leave, as soon as each may, for some seconds."""

    async def turns() -> list[float]:
        left: list[float] = []
        loop = asyncio.get_running_loop()
        while not left or left[-1] < seconds:
            await limiter.turn(tokens)
            left.append(loop.time())
        return left

    with asyncio.Runner(loop_factory=LoopClock) as runner:
        return runner.run(turns())


@pytest.mark.parametrize("per_minute", [30, 600, 6000])
def test_a_stated_limit_is_kept_evenly_and_used_up(per_minute: float) -> None:
    left = leave(RateLimiter(per_minute, None), 60)
    at_once = max(1, int(per_minute / 60 * CATCH_UP_S))
    assert len(left) == pytest.approx(per_minute + at_once, abs=3)
    gaps = [later - earlier for earlier, later in pairwise(left[at_once + 1 :])]
    assert min(gaps) > 0.99 * 60 / per_minute


def test_a_limit_of_tokens_counts_what_calls_took_in_the_place_of_what_was_expected() -> None:
    limiter = RateLimiter(60_000, 6000)
    assert len(leave(limiter, 60, tokens=50)) == pytest.approx(120, abs=3)
    slower = RateLimiter(60_000, 6000)
    slower.settle(50, 1050)
    assert len(leave(slower, 60, tokens=50)) == pytest.approx(100, abs=3)


def test_a_stall_at_the_start_does_not_spoil_a_stated_limit() -> None:
    """A burst of calls limited in the first seconds is no reason to crawl from then on."""
    driven = Driven(150)
    for _ in range(3 * STREAK):
        driven.learned.limited(driven.send(), 1.0)
    driven.drive(3)
    assert driven.drive(20, Bucket(driven.clock, 150, 40)) > 0.93 * 20 * 150


@pytest.mark.parametrize("rate", [3.0, 40.0, 300.0, 2000.0])
@pytest.mark.parametrize("burst_s", [0.1, 1.0])
def test_a_limit_that_nobody_states_is_found_and_used(rate: float, burst_s: float) -> None:
    driven = Driven()
    bucket = Bucket(driven.clock, rate, max(3.0, rate * burst_s))
    driven.drive(60, bucket)
    assert driven.drive(60, bucket) > 0.93 * 60 * rate
    assert driven.learned.rate < 1.6 * rate


def test_a_stated_limit_that_is_too_high_gives_way() -> None:
    driven = Driven(100)
    driven.drive(10, Bucket(driven.clock, 40, 40))
    assert driven.learned.rate < 60
    assert driven.drive(30, Bucket(driven.clock, 200, 200)) > 0.9 * 30 * 100  # and comes back where it can
    assert driven.learned.rate == 100


def test_one_call_limited_among_others_stops_nobody() -> None:
    driven = Driven(10)
    driven.drive(10)
    for _ in range(STREAK - 1):
        driven.learned.limited(driven.send(), 30.0)
    assert driven.learned.pause() == 0.0


def test_many_in_a_row_pause_everything_as_long_as_told_then_one_goes_first() -> None:
    driven = Driven(100)
    learned = driven.learned
    driven.drive(10)
    driven.clock.now += 0.2
    for _ in range(STREAK):
        learned.limited(driven.send(), 7.0)
    assert learned.pause() == pytest.approx(7.0)
    driven.clock.now += 7.0
    assert learned.pause() == 0.0
    first = driven.send()
    assert learned.gap() > 0.2  # the rest does not follow at once
    learned.limited(first, 3.0)
    assert learned.pause() == pytest.approx(3.0)
    driven.clock.now += 3.0
    learned.passed(driven.send())
    assert learned.gap() <= 0.01


def test_what_left_before_a_pause_does_not_lengthen_it() -> None:
    driven = Driven(100)
    driven.drive(1)
    early = driven.send()
    driven.clock.now += 0.2
    for _ in range(STREAK):
        driven.learned.limited(driven.send(), 2.0)
    driven.clock.now += 2.0
    driven.learned.failed(early, None)
    assert driven.learned.pause() == 0.0


def test_an_endpoint_that_is_down_is_asked_ever_more_rarely() -> None:
    driven = Driven(100)
    tries, end = 0, driven.clock.now + 600
    while driven.clock.now < end:
        driven.clock.now += max(driven.wait(), 0.001)
        driven.learned.failed(driven.send(), None)
        tries += 1
    assert tries < STREAK + 40


def test_backoff_doubles_spreads_and_has_a_bound() -> None:
    pauses = [[backoff(nth) for _ in range(200)] for nth in range(1, 12)]
    assert all(0.25 * 2 ** (nth - 1) <= min(row) for nth, row in enumerate(pauses[:7], start=1))
    assert max(map(max, pauses)) <= judge_rate.MAX_PAUSE_S
    assert len(set(pauses[0])) > 100
    assert math.isfinite(backoff(10_000))


def test_places_grow_while_replies_come_soon_and_all_are_taken() -> None:
    limiter = ConcurrencyLimiter(2000, 120.0)
    for _ in range(10_000):
        limiter.replied(2.0, full=False)
    assert limiter.limit == FIRST_LIMIT  # nothing waits for one
    for _ in range(10_000):
        limiter.replied(2.0, full=True)
    assert limiter.limit == 2000
    for _ in range(10_000):
        limiter.replied(80.0, full=True)  # the endpoint queues what it is sent
    assert limiter.limit == LOWEST_LIMIT
    few = ConcurrencyLimiter(5, 120.0)
    for seconds in (1.0, 80.0):
        few.replied(seconds, full=True)
        assert few.limit == 5


def test_a_call_is_waited_for_many_times_as_long_as_others_take_and_longer_each_time() -> None:
    limiter = ConcurrencyLimiter(64, 120.0)
    assert limiter.timeout(0) == 120.0  # nothing is known yet
    for number in range(200):
        limiter.replied(3.0 if number % 10 == 0 else 0.5, full=False)
    assert [limiter.timeout(failures) for failures in range(5)] == [15.0, 30.0, 60.0, 120.0, 120.0]
    quick = ConcurrencyLimiter(64, 2.0)
    for _ in range(200):
        quick.replied(0.01, full=False)
    assert quick.timeout(0) == 2.0
