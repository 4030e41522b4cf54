"""One process at a time, on file systems with locks and without, beside holders that live and that do not."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import filelock
import pytest

from safe_llava.core import locks
from safe_llava.core.errors import DataError
from safe_llava.core.locks import only_one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.01)
    monkeypatch.setattr(locks, "LIFE_S", 0.05)
    monkeypatch.setattr(locks, "LIFELESS_S", 2.0)


def test_two_take_turns_and_the_second_names_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    order: list[str] = []

    def second() -> None:
        with only_one(tmp_path / "lock", DataError):
            order.append("second")

    with only_one(tmp_path / "lock", DataError):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(3.0)  # longer than a lifeless holder is waited for
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert f"process {os.getpid()} on " in caplog.text and "holds this lock; waiting" in caplog.text


def test_a_holder_without_life_is_named_and_not_waited_for(tmp_path: Path) -> None:
    stale = filelock.FileLock(tmp_path / "lock")
    with stale:
        (tmp_path / "lock").write_text("process 7 on another-host\n")
        words = "lock: process 7 on another-host holds this lock and has shown no life"
        with pytest.raises(DataError, match=words), only_one(tmp_path / "lock", DataError):
            pytest.fail("both hold it")


def test_a_bound_holds_for_the_living_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    refused = pytest.raises(DataError, match="holds this lock")
    with only_one(lock, DataError), refused, only_one(lock, DataError, longest_s=0.1):
        pytest.fail("both hold it")


@pytest.mark.parametrize("fault", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EROFS])
def test_without_locks_a_warning_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_one(tmp_path / "lock", DataError):
        pass
    assert "lock: no lock here" in caplog.text


def test_an_error_of_the_block_stays_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), only_one(tmp_path / "lock", DataError):
        raise OSError(errno.EROFS, "mine")
    with only_one(tmp_path / "lock", DataError, longest_s=0.0):
        pass
