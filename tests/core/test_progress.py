"""Progress in a log is whole lines, few of them, and on a terminal a bar."""

from __future__ import annotations

import io
import os
import pty

import pytest

from safe_llava.core import progress
from safe_llava.core.progress import LOG_EVERY_SECONDS, Progress, track


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then(clock: Clock) -> None:
    log = io.StringIO()
    shown = Progress(2000, "answers", "images", log)
    for _ in range(1000):
        clock.now += LOG_EVERY_SECONDS / 400
        shown.update(note="fine")
    shown.update(1000)
    shown.close()
    lines = log.getvalue().splitlines()
    assert lines == [
        "answers: 400/2,000 images, 40.0/s, 10 s, 40 s left fine",
        "answers: 800/2,000 images, 40.0/s, 20 s, 30 s left fine",
        "answers: 2,000/2,000 images, 80.0/s, 25 s",
    ]
    assert "\r" not in log.getvalue()
    assert "\x1b" not in log.getvalue()


def test_nobody_knows_the_total(clock: Clock) -> None:
    log = io.StringIO()
    shown = Progress(None, "rows", stream=log)
    clock.now += 2
    shown.update(4)
    shown.close("done")
    assert log.getvalue() == "rows: 4/? it, 2.0/s, 2 s done\n"


def test_nothing_done_in_no_time(clock: Clock) -> None:
    log = io.StringIO()
    Progress(3, "rows", stream=log).close()
    assert log.getvalue() == "rows: 0/3 it, 0.0/s, 0 s\n"


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    shown = Progress(3, "rows", stream=terminal)
    shown.update(3)
    shown.close()
    assert "\rrows: 100%" in terminal.getvalue()


def test_a_terminal_that_does_not_know_its_size_gets_a_bar_too() -> None:
    controller, worker = pty.openpty()  # nobody gave it a size: 0 columns and 0 lines
    with os.fdopen(worker, "w") as terminal, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        patch.setattr("sys.__stdout__", terminal)
        shown = Progress(3, "rows")
        shown.update(3)
        shown.close()
        assert b"rows:   0%" in os.read(controller, 4096)
    os.close(controller)


def test_tracking_passes_items_on_and_ends_with_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert "letters: 3/3" in capsys.readouterr().err


def test_tracking_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="b"):
        for letter in track(iter("abc"), "letters"):
            if letter == "b":
                raise ValueError(letter)
    assert "letters: 1/?" in capsys.readouterr().err
