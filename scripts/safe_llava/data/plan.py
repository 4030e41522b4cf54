"""Say what would be fetched: `python -m safe_llava.data.plan --row-file ROW.json … --root DIR`.

One line a data set: how many files, how large, how much of it is not here yet. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from safe_llava.config.data import ResolvedFile, ResolvedSet
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json
from safe_llava.data import receipts, snapshot

HEADINGS = ("set", "kind", "files", "size", "to fetch", "licence")


@dataclass(frozen=True)
class Line:
    """What is known of one data set; sizes in bytes, None where nobody knows."""

    name: str
    kind: str
    files: str
    size: int | None
    to_fetch: int | None
    here: bool
    licence: str


def describe(dataset: ResolvedSet, root: Path) -> Line:
    """Compare a set with what lies under the data root."""
    if dataset.snapshot is not None:
        note = snapshot.standing(root / dataset.snapshot.path, dataset.snapshot)
        pins = dataset.snapshot.pins
        sizes: list[int | None] = [pin.size for pin in pins.values()] or [None]
        if note:
            sizes = [file["size"] for file in note["files"].values()]
        files = str(len(sizes)) if note or pins else "unknown"
        return _line(dataset, files, sizes, [] if note else sizes)
    missing = [file for file in dataset.files if receipts.stands(root / file.path, file) is None]
    sizes = [_size(file, root) for file in dataset.files]
    return _line(dataset, str(len(dataset.files)), sizes, [_size(file, root) for file in missing])


def _size(file: ResolvedFile, root: Path) -> int | None:
    """Return a file's size: as received, as pinned, or as others report it."""
    receipt = receipts.stands(root / file.path, file)
    if receipt is not None:
        return receipt.size
    known = [size for size in (file.size, file.reported_bytes) if isinstance(size, int)]
    return known[0] if known else None


def _line(dataset: ResolvedSet, files: str, sizes: Sequence[int | None], missing: Sequence[int | None]) -> Line:
    return Line(dataset.set, dataset.kind, files, _sum(sizes), _sum(missing), not missing, dataset.licence)


def _sum(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total


def shown(size: int | None) -> str:
    """Return a size in decimal units, as data sets publish theirs."""
    if size is None:
        return "unknown"
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def table(lines: Sequence[Line]) -> str:
    """Return the plan as aligned text, with the sum of what is known."""
    cells = [HEADINGS]
    for line in lines:
        wanted = "nothing" if line.here else shown(line.to_fetch)
        cells.append((line.name, line.kind, line.files, shown(line.size), wanted, line.licence))
    known = sum(line.to_fetch or 0 for line in lines if not line.here)
    unknown = sum(1 for line in lines if not line.here and line.to_fetch is None)
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*text, f"to fetch: {shown(known)}, and {unknown} sets of unknown size"])


def main(argv: Sequence[str] | None = None) -> int | None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description="Say what each data set holds and what of it is not here yet.")
    parser.add_argument("--row-file", type=Path, nargs="+", required=True, help="JSON files, one data set each")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    args = parser.parse_args(argv)
    lines = []
    for path in args.row_file:
        try:
            lines.append(describe(ResolvedSet.model_validate(read_json(path)), args.root))
        except ValidationError as error:
            raise DataError(f"{path}: {error}", "let the workflow write the row again") from error
    sys.stdout.write(table(lines) + "\n")
    return None


if __name__ == "__main__":
    cli.run(main)
