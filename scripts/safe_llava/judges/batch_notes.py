"""Notes of the batches that were submitted, one file each: what a later run needs to pick a batch up."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safe_llava.core.errors import DataError, PrismError
from safe_llava.core.files import read_json, write_json
from safe_llava.judges.calls import Call

FOLDER = "batches"  # beside the store's segments
SUBMITTED, GONE = "submitted", "gone"


@dataclass(frozen=True)
class Note:
    """One batch as it was submitted: its calls' keys, its highest cost in US dollars, and its id once that is known."""

    path: Path
    label: str
    keys: tuple[str, ...]
    judge: str = ""
    most: float = 0.0
    batch: str | None = None

    def write(self, **more: Any) -> None:
        """Write the note, whole or not at all."""
        row: dict[str, Any] = {"label": self.label, "batch": self.batch, "keys": self.keys, "state": SUBMITTED}
        row |= {"judge": self.judge, "most": self.most}
        write_json(self.path, row | {"time": datetime.now(UTC).isoformat(timespec="seconds")} | more)

    def submitted_as(self, batch: str) -> Note:
        """Return the note with the batch's id, written."""
        noted = replace(self, batch=batch)
        noted.write()
        return noted


class Notes:
    """The notes of a store's batches."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self._known: dict[Path, tuple[int, Note, str]] = {}  # with the time of their file, and their state

    def open(self) -> list[Note]:
        """Return the notes of batches whose results are not in the store yet.

        Raises:
            PrismError: a note cannot be read; the batch that it names may have been paid for.
        """
        return [note for note, state in self._read() if state == SUBMITTED]

    def claimed(self, judge: str) -> float:
        """Return the US dollars that a judge's batches may come to: those not taken in yet, and those that are gone."""
        most = [note.most for note, state in self._read() if note.judge == judge and state in (SUBMITTED, GONE)]
        return float(sum(most))

    def new(self, calls: Sequence[Call], judge: str, most: float) -> Note:
        """Write the note of a batch that is about to be submitted."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        label = f"{stamp}-{secrets.token_hex(6)}"
        note = Note(self.folder / f"{label}.json", label, tuple(call.key for call in calls), judge, most)
        note.write()
        return note

    def _read(self) -> list[tuple[Note, str]]:
        found = []
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            try:
                written = path.stat().st_mtime_ns
                known = self._known.get(path)
                if known is None or known[0] != written:
                    row = read_json(path)
                    label, keys, batch = row["label"], tuple(row["keys"]), row["batch"]
                    note = Note(path, label, keys, row.get("judge", ""), row.get("most", 0.0), batch)
                    known = self._known[path] = written, note, row["state"]
                found.append(known[1:])
            except (DataError, OSError, KeyError, TypeError) as error:
                raise PrismError(
                    f"{path}: not a batch's note: {error}", "delete it; its calls are submitted again"
                ) from error
        return found
