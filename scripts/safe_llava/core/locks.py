"""One process at a time: locks that the system drops with their process, and that say who holds them."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from safe_llava.core.errors import SafeLlavaError

logger = logging.getLogger(__name__)
# File systems without locks (some Lustre, NFS without its lock service), and those where nothing can be written.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EROFS, errno.EACCES})
LIFE_S = 60.0  # how often a holder shows life
LIFELESS_S = 900.0  # after how long without it nobody waits for a holder
POLL_S = 0.5


@contextmanager
def only_one(path: Path, error: type[SafeLlavaError], longest_s: float | None = None) -> Iterator[None]:
    """Hold the lock ``path`` while a block runs; wait for another holder as long as that shows life.

    The system drops the lock with its process, but a file server may not hear of the end of another machine. A holder
    renews the time of the lock's file, so that those who wait see it. Where a file system has no locks, a warning says
    so and the block runs without.

    Args:
        path: the lock's file; its folder is there.
        error: what is raised where the lock cannot be had; it names the lock and its holder.
        longest_s: how long to wait for a holder that shows life; None: as long as it does.
    """
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        _acquire(lock, path, error, longest_s)
    except OSError as fault:
        if fault.errno not in NO_LOCKS:
            raise
        logger.warning("%s: no lock here (%s): let no other process do the same", path, fault.strerror)
        yield
        return
    ended = threading.Event()
    life = threading.Thread(target=_show_life, args=(path, ended), daemon=True)
    try:
        with suppress(OSError):  # a full disk; only who waits wants to know
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        life.start()
        yield
    finally:
        ended.set()
        lock.release()


def _show_life(path: Path, ended: threading.Event) -> None:
    while not ended.wait(LIFE_S):
        try:
            os.utime(path)
        except OSError:
            return


def _acquire(lock: filelock.BaseFileLock, path: Path, error: type[SafeLlavaError], longest_s: float | None) -> None:
    begun = moved = time.monotonic()
    seen, reported = _changed(path), False
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except filelock.Timeout as fault:
            now, changed = time.monotonic(), _changed(path)
            seen, moved = changed, now if changed != seen else moved
            holder = _holder(path)
            if longest_s is not None and now - begun >= longest_s:
                raise error(f"{path}: {holder} holds this lock", "wait for it or stop it, then start again") from fault
            if now - moved >= LIFELESS_S:
                raise error(
                    f"{path}: {holder} holds this lock and has shown no life for {now - moved:.0f} s",
                    "if that process is gone, delete the lock; then run the same command again",
                ) from fault
        if not reported:
            logger.info("%s: %s holds this lock; waiting", path, holder)
            reported = True
        time.sleep(POLL_S)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
