"""The pace of a judge, on a clock of the test's own: even, never faster than allowed, and taught by the replies."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from safe_llava.judges import limits as judge_limits
from safe_llava.judges.limits import (
    CATCH_UP_S,
    CLOSEST,
    FEWEST_PLACES,
    FIRST_PLACES,
    STREAK,
    TIMER_S,
    Pace,
    Places,
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


def drive(pace: Pace, clock: Clock, seconds: float, bucket: Bucket | None = None, tokens: int = 1) -> list[float]:
    """Send calls as fast as the pace lets them for some time; return when the endpoint let one in."""
    end, let_in = clock.now + seconds, []
    while True:
        clock.now += max(0.0, pace.wait()) + 1e-9
        if clock.now >= end:
            return let_in
        number = pace.sent(tokens)
        if bucket is None or bucket.lets_in():
            let_in.append(clock.now)
            pace.passed(number)
        else:
            pace.turned_down(number, 1.0)


def test_a_stated_limit_is_kept_evenly_and_used_up() -> None:
    clock = Clock()
    sent = drive(Pace(600, None, clock), clock, 60)
    assert len(sent) == pytest.approx(600, abs=2)
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert min(gaps) > 0.099


def test_a_limit_of_tokens_counts_what_calls_took_in_the_place_of_what_was_expected() -> None:
    clock = Clock()
    pace = Pace(None, 6000, clock)
    assert len(drive(pace, clock, 60, tokens=50)) == pytest.approx(120, abs=2)
    before = pace.wait()
    pace.settle(50, 150)
    assert pace.wait() - before == pytest.approx(1.0)


def test_a_process_that_was_held_up_catches_up_a_little_and_in_no_rush() -> None:
    clock = Clock()
    pace = Pace(6000, None, clock)
    drive(pace, clock, 1)
    clock.now += 30
    sent = drive(pace, clock, 1)
    assert len(sent) == pytest.approx(100 * (1 + CATCH_UP_S), abs=2)
    within = [sum(1 for later in sent if moment <= later < moment + 0.1) for moment in sent]
    assert max(within) <= 100 / CLOSEST * (0.1 + TIMER_S) + 1


def test_a_stall_at_the_start_does_not_spoil_a_stated_limit() -> None:
    """A burst of calls turned down in the first seconds is no reason to crawl from then on."""
    clock = Clock()
    pace = Pace(60 * 150, None, clock)
    for _ in range(3 * STREAK):
        pace.turned_down(pace.sent(1), 1.0)
    drive(pace, clock, 3)
    assert len(drive(pace, clock, 20, Bucket(clock, 150, 30))) > 0.93 * 20 * 150


@pytest.mark.parametrize("rate", [3.0, 40.0, 300.0, 2000.0])
@pytest.mark.parametrize("burst_s", [0.1, 1.0])
def test_a_limit_that_nobody_states_is_found_and_used(rate: float, burst_s: float) -> None:
    clock = Clock()
    bucket = Bucket(clock, rate, max(3.0, rate * burst_s))
    pace = Pace(None, None, clock)
    drive(pace, clock, 60, bucket)
    assert len(drive(pace, clock, 60, bucket)) > 0.93 * 60 * rate
    assert pace.rate < 1.6 * rate


def test_a_stated_limit_that_is_too_high_gives_way() -> None:
    clock = Clock()
    pace = Pace(60 * 100, None, clock)
    drive(pace, clock, 10, Bucket(clock, 40, 40))
    assert pace.rate < 60
    assert len(drive(pace, clock, 30, Bucket(clock, 200, 200))) > 0.9 * 30 * 100  # and comes back where it can
    assert pace.rate == 100


def test_one_call_turned_down_among_others_stops_nobody() -> None:
    clock = Clock()
    pace = Pace(600, None, clock)
    drive(pace, clock, 10)
    for _ in range(STREAK - 1):
        pace.turned_down(pace.sent(1), 30.0)
    assert pace.wait() < 1.0


def test_many_in_a_row_pause_everything_as_long_as_told_then_one_goes_first() -> None:
    clock = Clock()
    pace = Pace(6000, None, clock)
    drive(pace, clock, 10)
    clock.now += 0.2
    for _ in range(STREAK):
        pace.turned_down(pace.sent(1), 7.0)
    assert pace.wait() == pytest.approx(7.0)
    clock.now += 7.0
    assert pace.wait() == 0.0
    first = pace.sent(1)
    assert pace.wait() > 0.2  # the rest does not follow at once
    pace.turned_down(first, 3.0)
    assert pace.wait() == pytest.approx(3.0)
    clock.now += 3.0
    pace.passed(pace.sent(1))
    assert pace.wait() <= 0.01
    assert len(drive(pace, clock, 1)) == pytest.approx(100, abs=2)  # at the rate, not in a rush


def test_what_left_before_a_pause_does_not_lengthen_it() -> None:
    clock = Clock()
    pace = Pace(6000, None, clock)
    drive(pace, clock, 1)
    early = pace.sent(1)
    clock.now += 0.2
    for _ in range(STREAK):
        pace.turned_down(pace.sent(1), 2.0)
    clock.now += 2.0
    pace.failed(early, None)
    assert pace.wait() == 0.0


def test_an_endpoint_that_is_down_is_asked_ever_more_rarely() -> None:
    clock = Clock()
    pace = Pace(6000, None, clock)
    tries = 0
    end = clock.now + 600
    while clock.now < end:
        clock.now += max(pace.wait(), 0.001)
        pace.failed(pace.sent(1), None)
        tries += 1
    assert tries < STREAK + 40


def test_backoff_doubles_spreads_and_has_a_bound() -> None:
    pauses = [[backoff(nth) for _ in range(200)] for nth in range(1, 12)]
    assert all(0.25 * 2 ** (nth - 1) <= min(row) for nth, row in enumerate(pauses[:7], start=1))
    assert max(map(max, pauses)) <= judge_limits.MAX_PAUSE_S
    assert len(set(pauses[0])) > 100
    assert math.isfinite(backoff(10_000))


def test_places_grow_while_replies_come_soon_and_all_are_taken() -> None:
    places = Places(2000, 120.0)
    for _ in range(10_000):
        places.replied(2.0, full=False)
    assert places.now == FIRST_PLACES  # nothing waits for one
    for _ in range(10_000):
        places.replied(2.0, full=True)
    assert places.now == 2000
    for _ in range(10_000):
        places.replied(80.0, full=True)  # the endpoint queues what it is sent
    assert places.now == FEWEST_PLACES
    few = Places(5, 120.0)
    for seconds in (1.0, 80.0):
        few.replied(seconds, full=True)
        assert few.now == 5


def test_a_call_is_waited_for_many_times_as_long_as_others_take_and_longer_each_time() -> None:
    places = Places(64, 120.0)
    assert places.timeout(0) == 120.0  # nothing is known yet
    for number in range(200):
        places.replied(3.0 if number % 10 == 0 else 0.5, full=False)
    assert [places.timeout(failures) for failures in range(5)] == [15.0, 30.0, 60.0, 120.0, 120.0]
    quick = Places(64, 2.0)
    for _ in range(200):
        quick.replied(0.01, full=False)
    assert quick.timeout(0) == 2.0
