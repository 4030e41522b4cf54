"""What a judge's run does when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def told_to_stop(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the signal's name at every SIGTERM and SIGINT; only a main thread hears them."""
    heard = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    loop = asyncio.get_running_loop()
    for number in heard:
        loop.add_signal_handler(number, stop, signal.Signals(number).name)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
