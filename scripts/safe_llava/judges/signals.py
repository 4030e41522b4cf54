"""Being told to stop, by SIGTERM, SIGINT, or SIGHUP unless under ``nohup``."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def told_to_stop(stop: Callable[[str], object]) -> Iterator[None]:
    """Call ``stop`` with the signal's name at every signal, within the main thread, which alone hears them."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {
        number: signal.signal(number, lambda number, frame: stop(signal.Signals(number).name)) for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
