"""Progress for people: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LOG_EVERY_SECONDS = 10.0


class Progress:
    """Count work done towards ``total`` and show it with an estimate of the time left.

    Args:
        total: how much there is, or None where it is unknown.
        unit: what is counted, as in "images".
        label: what is being done.
        stream: where to show it; standard error by default.
    """

    def __init__(self, total: int | None, label: str, unit: str = "it", stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar = (
            tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B", file=self._stream, **_size())
            if self._stream.isatty()
            else None
        )
        self._total, self._label, self._unit = total, label, unit
        self._done = 0
        self._start = self._last = time.monotonic()

    def update(self, amount: int = 1, note: str = "") -> None:
        """Add ``amount`` done; ``note`` is shown behind the count."""
        self._done += amount
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
            return
        now = time.monotonic()
        if now - self._last >= LOG_EVERY_SECONDS:
            self._last = now
            self._line(note)

    def close(self, note: str = "") -> None:
        """Show the final count."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._line(note)

    def _line(self, note: str) -> None:
        seconds = time.monotonic() - self._start
        rate = self._done / seconds if seconds > 0 else 0.0
        total = "?" if self._total is None else f"{self._total:,}"
        left = ""
        if self._total is not None and rate > 0 and self._done < self._total:
            left = f", {(self._total - self._done) / rate:.0f} s left"
        text = f"{self._label}: {self._done:,}/{total} {self._unit}, {rate:,.1f}/s, {seconds:.0f} s{left}"
        print(f"{text} {note}".rstrip(), file=self._stream, flush=True)


def _size() -> dict[str, int]:
    # A terminal of unknown size reports 0 columns, and the bar would show nothing; this gives 80 x 24 then.
    size = shutil.get_terminal_size()
    return {"ncols": size.columns, "nrows": size.lines}


def track(items: Iterable[Item], label: str, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Yield ``items`` and show the progress through them."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    progress = Progress(total, label, unit)
    try:
        for item in items:
            yield item
            progress.update()
    finally:
        progress.close()
