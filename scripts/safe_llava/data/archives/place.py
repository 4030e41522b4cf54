"""What the two steps that place an archive's files have in common: their command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safe_llava.config.data import ResolvedFile
from safe_llava.core.errors import DataError
from safe_llava.core.files import write_json
from safe_llava.core.rows import read_row
from safe_llava.data.archives.adopted import adopt


def place(
    description: str, action: Callable[[Path, ResolvedFile, Path], dict[str, Any]], argv: Sequence[str] | None
) -> None:
    """Read the flags, place the archive's files with ``action(archive, row, root)``, and write the receipt."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--archive", type=Path, required=True, help="the archive")
    parser.add_argument("--row", type=Path, required=True, help="JSON file: the row that `data.fetch` was given")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--out", type=Path, required=True, help="where to write the receipt")
    args = parser.parse_args(argv)
    row = read_row(args.row, ResolvedFile, DataError)
    write_json(args.out, adopt(row, args.root) or action(args.archive, row, args.root))
