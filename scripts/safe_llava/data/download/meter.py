"""Progress over bytes, for what takes long enough to be watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from safe_llava.core.progress import Progress

QUIET_BELOW_BYTES = 64_000_000


@contextmanager
def metered(total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts bytes done; a small file, done at once, is not reported."""
    if total is not None and total < QUIET_BELOW_BYTES:
        yield lambda amount: None
        return
    progress = Progress(total, label, "B")
    try:
        yield progress.update
    finally:
        progress.close()
