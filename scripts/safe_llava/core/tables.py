"""Tables of rows as CSV: one dataclass a row, its fields as columns."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING

from safe_llava.core.files import atomic_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_rows(path: Path | str, kind: type[DataclassInstance], rows: Iterable[DataclassInstance]) -> int:
    """Write rows to a CSV file, whole or not at all, and return how many there are; None becomes an empty cell.

    Args:
        kind: the dataclass of the rows, which names the columns even where there is no row.
    """
    written = list(rows)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(["" if value is None else value for value in astuple(row)] for row in written)
    return len(written)
