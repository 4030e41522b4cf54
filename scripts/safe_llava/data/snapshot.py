"""Fetch one repository of the Hugging Face hub: `python -m safe_llava.data.snapshot --row ROW.json --root DIR
--out RECEIPT.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from safe_llava.config.data import ResolvedSnapshot
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import write_json
from safe_llava.core.rows import read_row
from safe_llava.data.download.flags import add_source_flags, sources_of
from safe_llava.data.download.repository import fetch_repository


def main(argv: Sequence[str] | None = None) -> int | None:
    """Fetch one repository."""
    parser = argparse.ArgumentParser(description="Fetch one repository of the hub as a folder.")
    parser.add_argument("--row", type=Path, required=True, help="JSON file: what to fetch")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--out", type=Path, required=True, help="where to write a copy of the receipt")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    row = read_row(args.row, ResolvedSnapshot, DataError)
    receipt = fetch_repository(row, args.root / row.path, *sources_of(args, args.root), origin=not args.mirrors_only)
    write_json(args.out, {key: value for key, value in receipt.items() if key not in ("fetched", "source")})
    return None


if __name__ == "__main__":
    cli.run(main)
