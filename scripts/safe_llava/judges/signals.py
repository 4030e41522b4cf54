"""What a judge's run does when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def told_to_stop(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop`` with the signal's name at every SIGTERM, SIGINT and SIGHUP that is not ignored (``nohup``).

    Only a main thread hears them.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    is_main = threading.current_thread() is threading.main_thread()
    heard = [one for one in numbers if is_main and signal.getsignal(one) is not signal.SIG_IGN]
    loop = asyncio.get_running_loop()
    for number in heard:
        loop.add_signal_handler(number, stop, signal.Signals(number).name)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
