"""What a judge's run does when it is told to stop: by SIGTERM, SIGINT, or SIGHUP unless under ``nohup``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from safe_llava.core.cli import EXIT_RUN_AGAIN


def _heard() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []  # only a main thread hears them
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if is_ignored else [signal.SIGHUP])]


@contextlib.contextmanager
def told_to_stop(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the signal's name at every signal, within the running event loop."""
    heard, loop = _heard(), asyncio.get_running_loop()
    for number in heard:
        loop.add_signal_handler(number, stop, number.name)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def told_to_leave(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the signal's name at every signal, and leave the block to be run again."""

    def leave(number: int, frame: FrameType | None) -> None:
        stop(signal.Signals(number).name)
        raise SystemExit(EXIT_RUN_AGAIN)

    before = {number: signal.signal(number, leave) for number in _heard()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
