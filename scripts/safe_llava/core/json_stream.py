"""JSON lists that are too large to be in memory at once: one row after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from safe_llava.core.errors import DataError

CHUNK_CHARACTERS = 1 << 22
LONGEST_ROW = 1 << 26
SPACE = re.compile(r"[ \t\r\n]*")


def read_rows(path: Path | str, remedy: str = "make the file again") -> Iterator[Any]:
    """Yield the items of a JSON list or the objects of a JSONL file; nothing where the file holds something else.

    A gigabyte of annotations takes some megabytes of memory this way, and about as long as in one piece.

    Raises:
        DataError: the file is missing, or is not JSON; the row is named. What was yielded before is not taken back.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as stream:
            yield from _Rows(stream, path, remedy)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", remedy) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}", remedy) from error


class _Rows:
    """The state of one reading: a piece of text, and how far it was read."""

    def __init__(self, stream: TextIO, path: Path | str, remedy: str) -> None:
        self._stream, self._path, self._remedy = stream, path, remedy
        self._text, self._at, self._ended = "", 0, False
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        first = self._next_character()
        while first == "{" and self._next_character():
            self._number += 1
            yield self._value()
        if first != "[":
            return
        self._at += 1
        closed = self._next_character() == "]"
        while not closed:
            self._number += 1
            yield self._value()
            after = self._next_character()
            if after not in ("]", ","):
                raise self._fault("a comma or the end of the list should follow")
            closed = after == "]"
            self._at += not closed
        self._at += 1
        if self._next_character():
            raise self._fault("something follows behind the list")

    def _value(self) -> Any:
        decode = json.JSONDecoder().raw_decode
        while True:
            self._next_character()
            try:
                value, end = decode(self._text, self._at)
            except RecursionError as error:
                raise self._fault("it is nested too deeply") from error
            except ValueError as error:
                if self._ended or len(self._text) - self._at > LONGEST_ROW:
                    raise self._fault(str(error)) from error
            else:
                # A number that ends with the text may go on behind it.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._read_on()

    def _next_character(self) -> str:
        while True:
            found = SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _read_on(self) -> None:
        more = self._stream.read(CHUNK_CHARACTERS)
        self._text, self._at, self._ended = self._text[self._at :] + more, 0, not more

    def _fault(self, why: str) -> DataError:
        return DataError(f"{self._path}: not JSON: row {self._number}: {why}", self._remedy)
