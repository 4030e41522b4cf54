"""How often SLURM is asked: soon after something has happened, then ever less."""

from __future__ import annotations

FASTEST, SLOWEST = 2.0, 30.0
SHARE = 8.0


class PollInterval:
    """Seconds between two questions.

    After nothing has happened for a time T the next question comes T/8 later, but not before 2 s and not after 30 s.
    Jobs that end tell so themselves (``Ledger.signals``); only those that cannot wait for the next question.

    Args:
        now: seconds of any steady clock.
    """

    def __init__(self, now: float) -> None:
        self._changed = self._asked = now

    def happened(self, now: float) -> None:
        """Something changed: ask soon."""
        self._changed = now

    def asked(self, now: float) -> None:
        """The question was put."""
        self._asked = now

    def due(self, now: float) -> bool:
        """Whether to ask again."""
        return now - self._asked >= min(max((now - self._changed) / SHARE, FASTEST), SLOWEST)
