"""Keep all downloads on one machine together below a rate."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from pathlib import Path

import filelock

logger = logging.getLogger(__name__)

CLOCK = struct.Struct("<d")
# A reservation further ahead than this was made before the machine was started anew.
LONGEST_QUEUE_S = 60.0
BYTES_PER_MB = 1_000_000


class Limiter:
    """A queue that every download of a machine stands in, whichever process it belongs to.

    A small file holds the time at which the line is free again; who has received bytes moves it on by what they
    cost and waits until then. So the sum stays below the rate, and each gets a like share.

    Args:
        clock: the file; where it cannot be locked or written, the bound holds for this process alone.
        bytes_per_second: what all of them may receive together.
    """

    def __init__(self, clock: Path, bytes_per_second: float) -> None:
        self.clock, self.bytes_per_second = clock, bytes_per_second
        self._lock = filelock.FileLock(clock.with_name(clock.name + ".lock"), fallback_to_soft=False)
        self._own, self._own_lock, self._shared = 0.0, threading.Lock(), True

    def take(self, amount: int) -> None:
        """Wait until ``amount`` more bytes are in order."""
        now = time.monotonic()
        begin = self._reserve(now, amount / self.bytes_per_second)
        if begin > now:
            time.sleep(begin - now)

    def _reserve(self, now: float, cost: float) -> float:
        """Move the line on by ``cost`` seconds, and return when it is free."""
        if self._shared:
            try:
                with self._lock, self.clock.open("a+b") as stream:
                    stream.seek(0)
                    held = stream.read(CLOCK.size)
                    begin = _next(now, CLOCK.unpack(held)[0] if len(held) == CLOCK.size else now)
                    stream.truncate(0)
                    stream.write(CLOCK.pack(begin + cost))
                    return begin
            except OSError as error:
                self._shared = False
                logger.warning("%s: cannot be shared (%s): the bound holds for this process alone", self.clock, error)
        with self._own_lock:
            begin = _next(now, self._own)
            self._own = begin + cost
            return begin


def _next(now: float, free: float) -> float:
    return max(now, free) if free < now + LONGEST_QUEUE_S else now


def limiter(root: Path, mb_per_second: float | None) -> Limiter | None:
    """Return the queue of this machine for a data root, or None where nothing limits it.

    The clock counts from the start of a machine, so each has its own, also under a root that several share.
    """
    if mb_per_second is None:
        return None
    return Limiter(root / f".bandwidth.{socket.gethostname()}", mb_per_second * BYTES_PER_MB)
