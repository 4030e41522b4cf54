"""The bound on bandwidth that all downloads of a machine share."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from data.conftest import PAYLOAD, Upstream
from safe_llava.data.download import throttle
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.throttle import Limiter


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but for the waits that were asked for."""
    seen: list[float] = []
    monkeypatch.setattr(throttle.time, "monotonic", lambda: 1000.0 + sum(seen))
    monkeypatch.setattr(throttle.time, "sleep", seen.append)
    return seen


def test_bytes_cost_time(tmp_path: Path, waited: list[float]) -> None:
    limiter = Limiter(tmp_path / "clock", 1000.0)
    for _ in range(5):
        limiter.take(500)
    assert sum(waited) == pytest.approx(2.0), "the last half second is waited by whoever comes next"


def test_two_share_one_line(tmp_path: Path, waited: list[float]) -> None:
    first, second = (Limiter(tmp_path / "clock", 1000.0) for _ in range(2))
    for _ in range(2):
        first.take(500)
        second.take(500)
    assert sum(waited) == pytest.approx(1.5)


def test_a_clock_of_before_the_last_start_of_the_machine_counts_for_nothing(
    tmp_path: Path, waited: list[float]
) -> None:
    (tmp_path / "clock").write_bytes(throttle.CLOCK.pack(9e9))
    Limiter(tmp_path / "clock", 1000.0).take(500)
    assert waited == []
    (tmp_path / "clock").write_bytes(b"x")
    Limiter(tmp_path / "clock", 1000.0).take(500)
    assert waited == []


def _take(clock: Path) -> None:
    limiter = Limiter(clock, 1e6)
    for _ in range(50):
        limiter.take(1000)


def test_processes_reserve_one_after_the_other(tmp_path: Path) -> None:
    begin = time.monotonic()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_take, args=(tmp_path / "clock",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    (free,) = throttle.CLOCK.unpack((tmp_path / "clock").read_bytes())
    assert free - begin >= 0.15, "3 x 50 kB at 1 MB/s were all reserved; none was lost to another's writing"


def test_a_download_takes_what_it_receives(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Limiter, "take", lambda self, amount: taken.append(amount))
    for connections in (1, 3):
        taken.clear()
        policy = RetryPolicy(connections=connections, limiter=throttle.limiter(tmp_path, 5))
        fetch_file(upstream.row(), tmp_path / f"{connections}.bin", [], policy)
        assert sum(taken) == len(PAYLOAD)


def test_no_bound_is_no_queue(tmp_path: Path) -> None:
    assert throttle.limiter(tmp_path, None) is None
    bound = throttle.limiter(tmp_path / "new", 2.5)
    assert bound is not None and bound.bytes_per_second == 2_500_000


@pytest.mark.parametrize("fault", [errno.ENOSYS, errno.EROFS])
def test_without_locks_the_bound_holds_for_the_process(
    tmp_path: Path, waited: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("fcntl.flock", refuse)
    limiter = Limiter(tmp_path / "clock", 1000.0)
    for _ in range(5):
        limiter.take(500)
    assert sum(waited) == pytest.approx(2.0)
    assert caplog.text.count("the bound holds for this process alone") == 1
