"""Tables as CSV files: one dataclass is the row of a table for its writer and its readers, its fields are the columns.

A row's fields are annotated for the reader: ``Count`` and ``Number`` may be empty, which is None.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, FiniteFloat

from safe_llava.core.errors import PaperError, SafeLlavaError
from safe_llava.core.files import atomic_path
from safe_llava.core.rows import check_row

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    TableRow = TypeVar("TableRow", bound=DataclassInstance)
else:
    TableRow = TypeVar("TableRow")

REMEDY = "make the file again with the step that writes it"


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_none_if_empty)]
Number = Annotated[FiniteFloat | None, BeforeValidator(_none_if_empty)]


def write_table(path: Path | str, kind: type[TableRow], rows: Iterable[TableRow]) -> int:
    """Write a table, whole or not at all, and return how many rows it has.

    None becomes an empty cell, a tuple its words.

    Args:
        path: the CSV file.
        kind: the dataclass of the rows, which names the columns even where there is no row; a field's metadata
            ``digits`` says with how many decimals its values are written.
        rows: in their order.
    """
    columns, written = fields(kind), list(rows)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(column.name for column in columns)
        for row in written:
            writer.writerow(_written(getattr(row, column.name), column.metadata.get("digits")) for column in columns)
    return len(written)


def _written(value: Any, digits: int | None) -> Any:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    return value if digits is None else f"{value:.{digits}f}"


def read_table(
    path: Path | str,
    kind: type[TableRow],
    error: type[SafeLlavaError] = PaperError,
    remedy: str = REMEDY,
    every_column: bool = False,
    may_be_empty: bool = False,
) -> list[TableRow]:
    """Read a table; further columns are ignored.

    Args:
        path: the CSV file.
        kind: the dataclass of the rows.
        error: what is raised; each stage has its own.
        remedy: what the user can do about it.
        every_column: whether columns with a default have to be there too, and no others.
        may_be_empty: whether a table without rows is one.

    Raises:
        SafeLlavaError: of type ``error``: the file is missing, a column is missing, there are no rows, or a value
            (named by row and column) is not what the column holds.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError as fault:
        raise error(f"{path}: no such file", remedy) from fault
    except (UnicodeDecodeError, csv.Error) as fault:
        raise error(f"{path}: not a CSV file: {fault}", remedy) from fault
    needed = [one.name for one in fields(kind) if every_column or one.default is MISSING]
    if every_column and columns != needed:
        raise error(f"{path}: the columns are not {', '.join(needed)}", remedy)
    if missing := [name for name in needed if name not in columns]:
        raise error(f"{path}: no column {', '.join(missing)} (it has: {', '.join(columns) or 'none'})", remedy)
    if not rows and not may_be_empty:
        raise error(f"{path}: no rows", remedy)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise error(f"{path}: row {number}: not as many values as columns", remedy)
    return [check_row(kind, row, f"{path}: row {i}", error, remedy, show_value=True) for i, row in enumerate(rows, 1)]


def unique(values: Iterable[str]) -> list[str]:
    """Return the values without repeats, in the order in which they first come."""
    return list(dict.fromkeys(values))


def in_order(present: Iterable[str], order: Iterable[str]) -> list[str]:
    """Return those names of ``order`` that are present."""
    found = set(present)
    return [name for name in order if name in found]


def keyed(
    rows: Iterable[TableRow], key: Callable[[TableRow], tuple[str, ...]], path: Path | str
) -> dict[Any, TableRow]:
    """Return the rows by ``key``.

    Raises:
        PaperError: two rows share a key, so that one cell would have two values.
    """
    by_key: dict[Any, TableRow] = {}
    for row in rows:
        if key(row) in by_key:
            raise PaperError(f"{path}: two rows for {' / '.join(key(row))}", "name each scores file once")
        by_key[key(row)] = row
    return by_key
