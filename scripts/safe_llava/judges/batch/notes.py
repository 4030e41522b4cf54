"""Notes of the batches that were handed in, one file each: what a later run needs to pick a batch up."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safe_llava.core.errors import DataError, PrismError
from safe_llava.core.files import read_json, write_json
from safe_llava.judges.client import Call

FOLDER = "batches"  # beside the store's segments


@dataclass(frozen=True)
class Note:
    """One batch as it was handed in: its calls' keys, and its id once that is known."""

    path: Path
    label: str
    keys: tuple[str, ...]
    batch: str | None = None

    def write(self, **more: Any) -> None:
        """Write the note, whole or not at all."""
        row: dict[str, Any] = {"label": self.label, "batch": self.batch, "keys": self.keys, "state": "submitted"}
        write_json(self.path, row | {"time": datetime.now(UTC).isoformat(timespec="seconds")} | more)


class Notes:
    """The notes of a store's batches that are not done; each note is one file."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER

    def open(self) -> list[Note]:
        """Return the notes of batches whose results are not in the store yet.

        Raises:
            PrismError: a note cannot be read; the batch that it names may have been paid for.
        """
        found = []
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            try:
                row = read_json(path)
                if row["state"] == "submitted":
                    found.append(Note(path, row["label"], tuple(row["keys"]), row["batch"]))
            except (DataError, KeyError, TypeError) as error:
                raise PrismError(
                    f"{path}: not a batch's note: {error}", "delete it; its calls are handed in again"
                ) from error
        return found

    def new(self, calls: Sequence[Call]) -> Note:
        """Write the note of a batch that is about to be handed in."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        label = f"{stamp}-{secrets.token_hex(6)}"
        note = Note(self.folder / f"{label}.json", label, tuple(call.key for call in calls))
        note.write()
        return note
