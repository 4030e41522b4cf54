"""Keep all downloads on one machine together below a rate."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from pathlib import Path

CLOCK = struct.Struct("<d")
# A reservation further ahead than this was made before the machine was started anew.
LONGEST_QUEUE_S = 60.0
BYTES_PER_MB = 1_000_000


class Limiter:
    """A queue that every download of a machine stands in, whichever process it belongs to.

    A small file holds the time at which the line is free again; who has received bytes moves it on by what they
    cost and waits until then. So the sum stays below the rate, and each gets a like share.

    Args:
        clock: the file; it must lie on a file system that takes locks.
        bytes_per_second: what all of them may receive together.
    """

    def __init__(self, clock: Path, bytes_per_second: float) -> None:
        self.clock, self.bytes_per_second = clock, bytes_per_second

    def take(self, amount: int) -> None:
        """Wait until ``amount`` more bytes are in order."""
        with self.clock.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            held = stream.read(CLOCK.size)
            now = time.monotonic()
            free = CLOCK.unpack(held)[0] if len(held) == CLOCK.size else now
            begin = max(now, free) if free < now + LONGEST_QUEUE_S else now
            stream.truncate(0)
            stream.write(CLOCK.pack(begin + amount / self.bytes_per_second))
        if begin > now:
            time.sleep(begin - now)


def limiter(root: Path, mb_per_second: float | None) -> Limiter | None:
    """Return the queue of this machine for a data root, or None where nothing limits it.

    The clock counts from the start of a machine, so each has its own, also under a root that several share.
    """
    if mb_per_second is None:
        return None
    root.mkdir(parents=True, exist_ok=True)
    return Limiter(root / f".bandwidth.{socket.gethostname()}", mb_per_second * BYTES_PER_MB)
