"""What lies in a store's segments: a table in memory, kept beside them as well so that no job reads them all again.

The segments are the truth: a kept table that is missing or does not fit them is made anew. It is written beside and
renamed, and never changed once it is in place: readers on any file system need no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from pydantic_core import from_json

from safe_llava.core.files import atomic_path

log = logging.getLogger(__name__)
VERDICTS, FAILURES, ASKED = ".jsonl", ".failures.jsonl", ".asked"
INDEX = "index.sqlite"
VERSION = 2
OPEN_SEGMENTS = 32
SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY, name TEXT UNIQUE, read INTEGER);
CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, time TEXT, file INTEGER, start INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (file INTEGER, call INTEGER, judge TEXT, most REAL, PRIMARY KEY (file, call));
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


@dataclass
class Spent:
    """What the calls in a store used: their number, their tokens, and their cost in US dollars."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    longest: int = 0  # tokens of the longest reply
    cost: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Count the call of one more line."""
        prompt, completion = map(int, row.get("usage") or (0, 0))
        cost = float(row.get("cost") or 0.0)
        self.calls += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.longest = max(self.longest, completion)
        self.cost += cost


class StoreIndex:
    """A store's verdicts by their calls, what they cost, and which calls' ends are not known.

    Args:
        folder: the store's.
        holds_verdict: whether a row of a segment holds one.
    """

    def __init__(self, folder: Path, holds_verdict: Callable[[dict[str, Any]], bool]) -> None:
        self._folder, self._holds_verdict = folder, holds_verdict
        self._streams: dict[str, BinaryIO] = {}  # segments that verdicts were looked up in
        self.load()

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM verdicts")[0])

    def load(self) -> None:
        """Begin with the kept table, or with none where there is none that fits the files beside it."""
        self._table = sqlite3.connect(":memory:", check_same_thread=False)
        path = self._folder / INDEX
        if path.is_file():
            try:
                with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)) as kept:
                    if kept.execute("PRAGMA user_version").fetchone() != (VERSION,):
                        raise sqlite3.DatabaseError("of another version")
                    files = dict(kept.execute("SELECT name, read FROM files"))
                    if any(_size(self._folder / name) < read for name, read in files.items()):
                        raise sqlite3.DatabaseError("it does not fit the files beside it")
                    kept.backup(self._table)
            except sqlite3.Error as error:
                log.info("%s cannot be used: %s; it is made anew", path, error)
                self._table = sqlite3.connect(":memory:", check_same_thread=False)
        self._table.executescript(SCHEMA)
        self.read: dict[str, int] = dict(self._table.execute("SELECT name, read FROM files"))
        self._names: dict[int, str] = dict(self._table.execute("SELECT number, name FROM files"))

    def save(self) -> None:
        """Keep the table beside the segments."""
        self._table.commit()
        with atomic_path(self._folder / INDEX) as beside:
            beside.write_bytes(self._table.serialize())

    def read_on(self, name: str) -> None:
        """Take in the whole lines that a file has gained."""
        self._table.execute("INSERT OR IGNORE INTO files (name, read) VALUES (?, 0)", (name,))
        (number,) = self._one("SELECT number FROM files WHERE name = ?", name)
        self._names[number] = name
        self._table.executemany(INSERT, self._verdicts(name, number))
        self._table.execute("UPDATE files SET read = ? WHERE number = ?", (self.read.get(name, 0), number))

    def verdict(self, key: str) -> dict[str, Any] | None:
        """Return the row of a call's verdict, or None where there is none."""
        place = self._one("SELECT file, start FROM verdicts WHERE key = ?", _short(key))
        if place is None:
            return None
        name, start = self._names[place[0]], place[1]
        if name not in self._streams:
            if len(self._streams) >= OPEN_SEGMENTS:
                self._streams.popitem()[1].close()
            self._streams[name] = (self._folder / name).open("rb")
        self._streams[name].seek(start)
        return _row_of(self._streams[name].readline(), is_note=False)

    def open_notes(self, judge: str) -> float:
        """Return the highest cost of a judge's calls whose end is not known, in US dollars."""
        return float(self._one("SELECT total(most) FROM notes WHERE judge = ?", judge)[0])

    def spent(self, judge: str) -> Spent:
        """Return what a judge has used."""
        return Spent(
            *self._one("SELECT calls, prompt, completion, longest, cost FROM spent WHERE judge = ?", judge) or ()
        )

    def close(self) -> None:
        """Let go of the table and the segments."""
        self._table.close()
        while self._streams:
            self._streams.popitem()[1].close()

    def _one(self, query: str, *values: Any) -> Any:
        return self._table.execute(query, values).fetchone()

    def _verdicts(self, name: str, number: int) -> Iterator[tuple[bytes, str, int, int]]:
        """Yield what the table says of each new verdict; count the lines' costs and take in notes on the way."""
        spent: dict[str, Spent] = defaultdict(Spent)
        for start, row in self._new_lines(name):
            if name.endswith(ASKED):
                self._take_note(number, row)
                continue
            if not name.endswith(FAILURES):
                if not self._holds_verdict(row):
                    log.warning("%s: a line without a finding is passed over", self._folder / name)
                    continue
                yield _short(row["key"]), row["time"], number, start
            spent[str(row.get("judge"))].add(row)
        self._table.executemany(
            COUNT,
            [(judge, *astuple(its)) for judge, its in spent.items()],
        )

    def _take_note(self, number: int, row: dict[str, Any]) -> None:
        if "most" in row:
            values = (number, row["call"], row["judge"], row["most"])
            self._table.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", values)
        else:
            self._table.execute("DELETE FROM notes WHERE file = ? AND call = ?", (number, row["call"]))

    def _new_lines(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield where each whole line begins that was not read before, and its row; broken ones are reported."""
        broken, start = 0, self.read.get(name, 0)
        with (self._folder / name).open("rb") as stream:
            stream.seek(start)
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # it is being written, or was torn by a kill
                row = _row_of(line, is_note=name.endswith(ASKED))
                if row is not None:
                    yield start, row
                broken += row is None and bool(line.strip())
                start += len(line)
                self.read[name] = start
        if broken:
            log.warning("%s: %d broken lines are passed over; what they held is asked again", name, broken)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _short(key: str) -> bytes:
    """Return a key as it stands in the table: half as long, where it is a digest."""
    try:
        return bytes.fromhex(key)
    except ValueError:
        return key.encode("utf-8", "surrogatepass")


def _row_of(line: bytes, is_note: bool) -> dict[str, Any] | None:
    try:
        try:
            row = from_json(line)  # over twice as fast
        except ValueError:
            row = json.loads(line)  # half a surrogate pair
        if is_note:
            good = isinstance(row["call"], int) and isinstance(row["judge"], str) and float(row.get("most", 0.0)) >= 0.0
        else:
            good = isinstance(row["key"], str) and isinstance(row["time"], str)
            Spent().add(row)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError):
        return None
    return row if good else None
