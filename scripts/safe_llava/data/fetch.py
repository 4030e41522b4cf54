"""Fetch one file: `python -m safe_llava.data.fetch --row ROW.json --root DIR --out FILE`.

Mirrors are asked in order, then the origin. The file is verified against its row, and a receipt is
written beside it; a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from safe_llava.config.data import ResolvedFile
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import write_json
from safe_llava.core.rows import read_row
from safe_llava.data.archives.adopted import adopt
from safe_llava.data.download import receipts
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.flags import add_source_flags, sources_of, with_copies

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Fetch one file."""
    parser = argparse.ArgumentParser(description="Fetch one file, verify it, write a receipt beside it.")
    parser.add_argument("--row", type=Path, required=True, help="JSON file: what to fetch")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--out", type=Path, required=True, help="the file; must be the row's path under --root")
    parser.add_argument("--receipt", type=Path, help="write a copy of the receipt here as well")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    row = read_row(args.row, ResolvedFile, DataError)
    if args.out.absolute() != (args.root / row.path).absolute():
        raise DataError(f"--out {args.out} is not {args.root / row.path}", f"give the path that {args.row} names")
    if note := adopt(row, args.root):
        if args.receipt:
            write_json(args.receipt, {"set": row.set, "path": row.path, "adopted": note["to"], "files": note["files"]})
        return None
    receipt = fetch_file(with_copies(row), args.out, *sources_of(args, args.root), origin=not args.mirrors_only)
    if not receipt.checked and not receipt.hub:
        logger.warning("%s: unpinned; sha256 %s as seen", row.path, receipt.sha256)
    if args.receipt:
        write_json(args.receipt, receipt.model_dump(exclude=receipts.CHANCE))
    return None


if __name__ == "__main__":
    cli.run(main)
