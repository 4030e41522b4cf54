"""Where each verdict lies in a store: a table beside the segments, made of them, so that no job reads them all again.

The segments are the truth: a table that is missing or does not fit them is made anew. It is written beside and renamed,
and never changed once it is in place: readers on any file system need no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pydantic_core import from_json

from safe_llava.core.files import atomic_path

log = logging.getLogger(__name__)
INDEX = "index.sqlite"
VERSION = 1
SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY, name TEXT UNIQUE, read INTEGER);
CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, time TEXT, file INTEGER, start INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT, call INTEGER, judge TEXT, most REAL, PRIMARY KEY (name, call));
CREATE TABLE IF NOT EXISTS spent (judge TEXT PRIMARY KEY, calls INTEGER, prompt INTEGER, completion INTEGER,
                                  longest INTEGER, cost REAL);
"""
# Of several verdicts for one call the earliest counts; where two were written at once, that of the first segment.
INSERT = """
INSERT INTO verdicts VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
SET time = excluded.time, file = excluded.file, start = excluded.start
WHERE excluded.time < verdicts.time OR (excluded.time = verdicts.time AND
      (SELECT name FROM files WHERE number = excluded.file) < (SELECT name FROM files WHERE number = verdicts.file))
"""
COUNT = """
INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (judge) DO UPDATE
SET calls = calls + excluded.calls, prompt = prompt + excluded.prompt, completion = completion + excluded.completion,
    longest = max(longest, excluded.longest), cost = cost + excluded.cost
"""
MANY = 50_000  # rows that are written together


@dataclass(frozen=True)
class LinePosition:
    """Where a verdict lies: the file's name, where its line begins, and when it was written."""

    name: str
    start: int
    order: tuple[str, str]

    def row(self, folder: Path) -> dict[str, Any]:
        """Return the row that lies there."""
        with (folder / self.name).open("rb") as stream:
            stream.seek(self.start)
            row: dict[str, Any] = json.loads(stream.readline())
        return row


class StoreIndex:
    """A store's index, opened for reading.

    Args:
        path: the table.

    Raises:
        sqlite3.DatabaseError: it is no such table.
    """

    def __init__(self, path: Path) -> None:
        self._table = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True, check_same_thread=False)
        self._table.execute("PRAGMA mmap_size = 4294967296")  # a look-up reads memory, not the file
        if self._one("PRAGMA user_version")[0] != VERSION:
            raise sqlite3.DatabaseError("of another version")
        self.read: dict[str, int] = dict(self._table.execute("SELECT name, read FROM files"))

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM verdicts")[0])

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Return a folder's index, or None where there is none that fits its files."""
        path = folder / INDEX
        if not path.is_file():
            return None
        try:
            index = cls(path)
            sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
            if all(sizes.get(name, -1) >= read for name, read in index.read.items()):
                return index
            log.info("%s does not fit the files beside it: it is made anew", path)
        except sqlite3.Error as error:
            log.info("%s cannot be read: %s; it is made anew", path, error)
        return None

    @classmethod
    def made(cls, folder: Path, before: StoreIndex | None) -> Self:
        """Return the index of all that lies in a folder now, after putting it there.

        Args:
            folder: the store's.
            before: the last index, which is carried on.
        """
        # In memory, where a million rows come in any order at no cost: about 100 bytes a row.
        with contextlib.closing(sqlite3.connect(":memory:")) as table:
            if before is not None:
                before._table.backup(table)
            table.executescript(SCHEMA)
            for path in sorted(folder.iterdir()):
                if path.is_file() and path.name.endswith((".jsonl", ".asked")):
                    _index_file(table, path)
            table.commit()
            with atomic_path(folder / INDEX) as beside:
                beside.write_bytes(table.serialize())
        return cls(folder / INDEX)

    def place(self, key: str) -> LinePosition | None:
        """Return where the verdict of a call lies, or None where there is none."""
        found = self._one(
            "SELECT name, start, time FROM verdicts JOIN files ON number = file WHERE key = ?", _short(key)
        )
        return None if found is None else LinePosition(found[0], found[1], (found[2], found[0].removesuffix(".jsonl")))

    def open_notes(self) -> list[tuple[str, int, str, float]]:
        """Return the calls whose end is not known: segment, number, judge, highest cost."""
        return list(self._table.execute("SELECT name, call, judge, most FROM notes"))

    def spent(self, judge: str) -> tuple[int, int, int, int, float]:
        """Return a judge's calls, its tokens (of prompts, of replies, of the longest reply) and its cost."""
        query = "SELECT calls, prompt, completion, longest, cost FROM spent WHERE judge = ?"
        return self._one(query, judge) or (0, 0, 0, 0, 0.0)

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()

    def _one(self, query: str, *values: Any) -> Any:
        return self._table.execute(query, values).fetchone()


def _short(key: str) -> bytes:
    """Return a key as it stands in the table: half as long, where it is a digest."""
    try:
        return bytes.fromhex(key)
    except ValueError:
        return key.encode("utf-8", "surrogatepass")


def _index_file(table: sqlite3.Connection, path: Path) -> None:
    name = path.name
    notes, failures = name.endswith(".asked"), name.endswith(".failures.jsonl")
    table.execute("INSERT OR IGNORE INTO files (name, read) VALUES (?, 0)", (name,))
    number, read = table.execute("SELECT number, read FROM files WHERE name = ?", (name,)).fetchone()
    end, verdicts = read, list[tuple[bytes, str, int, int]]()
    spent: dict[str, list[Any]] = defaultdict(lambda: [0, 0, 0, 0, 0.0])
    for start, end, row in new_lines(path, read):  # noqa: B007 — the last end is kept
        if row is None:
            continue
        if notes:
            _index_note(table, name.removesuffix(".asked"), row)
            continue
        if not failures:
            verdicts.append((_short(row["key"]), row["time"], number, start))
        usage, cost = took(row)
        counts = spent[str(row.get("judge"))]
        counts[0] += 1
        counts[1] += usage[0]
        counts[2] += usage[1]
        counts[3] = max(counts[3], usage[1])
        counts[4] += cost
        if len(verdicts) >= MANY:
            table.executemany(INSERT, verdicts)
            verdicts = []
    table.executemany(INSERT, verdicts)
    table.executemany(COUNT, [(judge, *counts) for judge, counts in spent.items()])
    table.execute("UPDATE files SET read = ? WHERE number = ?", (end, number))


def _index_note(table: sqlite3.Connection, name: str, row: dict[str, Any]) -> None:
    if "most" in row:
        table.execute(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (name, row["call"], row["judge"], row["most"])
        )
    else:
        table.execute("DELETE FROM notes WHERE name = ? AND call = ?", (name, row["call"]))


def took(row: dict[str, Any]) -> tuple[tuple[int, int], float]:
    """Return the tokens of a line's prompt and reply, and its cost in US dollars."""
    prompt, completion = row.get("usage") or (0, 0)
    return (int(prompt), int(completion)), float(row.get("cost") or 0.0)


def new_lines(path: Path, read: int) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """Yield where each whole line begins and ends and its row, None for a broken one, from a place in the file on."""
    broken, start, notes = 0, read, path.name.endswith(".asked")
    with path.open("rb") as stream:
        stream.seek(read)
        for line in stream:
            if not line.endswith(b"\n"):
                break  # it is being written, or was torn by a kill
            end = start + len(line)
            row = _row_of(line, notes)
            broken += row is None and bool(line.strip())
            yield start, end, row
            start = end
    if broken:
        log.warning("%s: %d broken lines are passed over; what they held is asked again", path, broken)


def _row_of(line: bytes, note: bool) -> dict[str, Any] | None:
    try:
        try:
            row = from_json(line)  # three times as fast
        except ValueError:
            row = json.loads(line)  # half a surrogate pair
        if note:
            good = isinstance(row["call"], int) and isinstance(row["judge"], str) and float(row.get("most", 0.0)) >= 0.0
        else:
            good = isinstance(row["key"], str) and isinstance(row["time"], str)
            took(row)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError):
        return None
    return row if good else None
