"""Fetch what can be had of a set: `python -m safe_llava.data.fetch_set --rows ROWS.json --root DIR --out RECEIPT.json`.

For sets of which a part is of use, such as answers that others released: a file that no source has is named in the
receipt, with the reason, and the next run asks for it again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from safe_llava.config.data import ResolvedFile
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import write_json
from safe_llava.core.retry import outcome
from safe_llava.core.rows import read_row
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.flags import add_source_flags, sources_of, with_copies

logger = logging.getLogger(__name__)
AT_ONCE = 8


def _attempt(row: ResolvedFile, args: argparse.Namespace) -> tuple[str, str | None]:
    """Return a file's digest, or an empty one and why it could not be had."""
    mirrors, policy = sources_of(args, args.root)
    try:
        return fetch_file(with_copies(row), args.root / row.path, mirrors, policy, not args.mirrors_only).sha256, None
    except DataError as error:
        return "", str(error)


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch the files of a set that can be had."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.data.fetch_set", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="JSON file: a list of what to fetch")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--out", type=Path, required=True, help="receipt to write: what is here, and what is missing")
    parser.add_argument("--retry", default="", help="stamp of the run; kept in the receipt")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    rows = read_row(args.rows, list[ResolvedFile], DataError)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(partial(_attempt, args=args), rows))
    here = {row.path: digest for row, (digest, reason) in zip(rows, found, strict=True) if reason is None}
    missing = {row.path: reason for row, (_, reason) in zip(rows, found, strict=True) if reason is not None}
    for path, reason in missing.items():
        logger.warning("%s is skipped: %s", path, reason)
    if not here:
        raise DataError(
            f"none of {len(rows)} files could be fetched; the first: {next(iter(missing.values()), '')}",
            "name a mirror that has them, or run again where the internet is",
        )
    write_json(args.out, {"files": here, "missing": missing, **outcome(len(missing), args.retry)})


if __name__ == "__main__":
    cli.run(main)
