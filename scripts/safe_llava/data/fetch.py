"""Fetch one file: `python -m safe_llava.data.fetch --row ROW.json --root DIR --out FILE`.

Mirrors are asked in order, then the origin. The file is verified against its row, and a receipt is
written beside it; a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import filelock
import httpx
from pydantic import ValidationError

from safe_llava.config.data import DataConfig, ResolvedFile
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json, write_json
from safe_llava.data.download import drive, receipts, sources, throttle, transfer
from safe_llava.data.download.receipts import Receipt
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.data.download.transfer import Patience

logger = logging.getLogger(__name__)


def fetch(
    row: ResolvedFile, target: Path, mirrors: Sequence[Mirror], patience: Patience, origin: bool = True
) -> Receipt:
    """Make sure that ``target`` is the file that ``row`` describes, and return its receipt.

    Raises:
        DataError: no source gave it; the error names each one and why.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(target), transfer.explain_disk(target):
        receipt = receipts.stands(target, row) or _adopt(target, row)
        if receipt is not None:
            logger.info("%s: already here", target)
            return receipt
        part = target.with_name(target.name + ".part")
        tried: list[tuple[str, SourceError]] = []
        for source in sources.candidates(row.url, row.mirrors, mirrors, origin):
            try:
                receipt = _obtain(source, row, part, patience)
            except SourceError as error:
                logger.warning("%s: %s", sources.shown(source), error.reason)
                tried.append((sources.shown(source), error))
                continue
            _put_in_place(part, target, receipt)
            return receipt
    raise sources.report(f"{row.path} (set {row.set})", tried)


@contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Let one process at a time make ``target``; the others wait and then find it there.

    Raises:
        DataError: no inode is left for the lock.
    """
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    with transfer.explain_disk(target):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("%s: another process is at it; waiting", target)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _obtain(source: Path | str, row: ResolvedFile, part: Path, patience: Patience) -> Receipt:
    if isinstance(source, Path):
        transfer.copy_file(source, part)
    else:
        known = (row.sha256, row.md5) != ("unknown", "unknown")
        address = _drive_address(source, patience) if drive.is_drive(source) else source
        transfer.download(address, part, patience, verified_later=known, identity=source)
    try:
        _look_inside(part, row)
        return receipts.check(part, row, sources.shown(source), transfer.promised(part))
    except SourceError:
        # These bytes are wrong: going on with them, from here or elsewhere, would keep them wrong.
        transfer.discard(part)
        raise


def _drive_address(url: str, patience: Patience) -> str:
    timeout = httpx.Timeout(patience.read_timeout_s, connect=patience.connect_timeout_s)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        return transfer.persist(lambda: drive.locate(url, client), lambda: 0, patience, url)


def _look_inside(part: Path, row: ResolvedFile) -> None:
    """Refuse a page of text where an archive or data should be; some servers send those with a 200."""
    with part.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise SourceError(
            "an HTML page instead of the file (a quota, login or error page)",
            "open the address in a browser to see what it asks for",
        )
    if row.path.endswith(".zip") and not head.startswith(b"PK"):
        raise SourceError("not a zip archive", "correct the row's `url`")
    if not _ends_well(part, PurePosixPath(row.path).suffix):
        raise SourceError(f"cut off: its end is not that of a {PurePosixPath(row.path).suffix} file", "run it again")


def _ends_well(part: Path, suffix: str) -> bool:
    """Tell whether a file's end is one; a server that gives too small a length is believed by every client."""
    if suffix == ".zip":
        return zipfile.is_zipfile(part)
    if suffix not in (".json", ".jsonl"):
        return True
    with part.open("rb") as stream:
        stream.seek(max(0, part.stat().st_size - 512))
        return stream.read().rstrip().endswith((b"}", b"]"))


def _adopt(target: Path, row: ResolvedFile) -> Receipt | None:
    """Take over a file without a receipt where its pin proves it; nothing else does."""
    if not target.is_file() or (row.sha256, row.md5) == ("unknown", "unknown"):
        return None
    try:
        receipt = receipts.check(target, row, "already there")
    except SourceError as error:
        logger.warning("%s is not the file that is wanted (%s): fetching it", target, error.reason)
        return None
    receipts.write(target, receipt)
    return receipt


def _put_in_place(part: Path, target: Path, receipt: Receipt) -> None:
    """Rename the part file; the receipt is there first, and never beside another file than its own."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    target.unlink(missing_ok=True)
    receipts.write(target, receipt)
    part.replace(target)
    transfer.discard(part)


def read_row(path: Path) -> ResolvedFile:
    """Read the description of one file.

    Raises:
        DataError: it is missing or is not of the form that the workflow writes.
    """
    try:
        return ResolvedFile.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path}: {error}", "let the workflow write the row again") from error


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where to ask and how long to bear with it."""
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        help=f"folder or address laid out as <host>/<path>, asked before the origin; may be given several "
        f"times; {sources.MIRRORS_VARIABLE} adds to them, separated by commas or blanks",
    )
    parser.add_argument("--mirrors-only", action="store_true", help="never ask the origin")
    parser.add_argument("--connect-timeout", type=float, default=10.0, help="seconds to wait for a connection")
    parser.add_argument("--retries", type=int, default=4, help="further tries that bring no new bytes")
    parser.add_argument("--connections", type=int, default=1, help="how many fetch one large file together")
    parser.add_argument("--bandwidth-mb-s", type=float, help="megabytes a second of all downloads of this machine")


def configured(data: DataConfig) -> dict[str, object]:
    """Return what a configuration says in place of the flags that are not given (``parser.set_defaults``)."""
    return {
        "connect_timeout": data.connect_timeout_s,
        "retries": data.retries,
        "connections": data.connections,
        "bandwidth_mb_s": data.bandwidth_mb_s,
    }


def patience_of(args: argparse.Namespace, root: Path) -> Patience:
    """Return the patience that the flags of ``add_source_flags`` ask for; the limit is shared below ``root``."""
    return Patience(
        connect_timeout_s=args.connect_timeout,
        retries=args.retries,
        connections=args.connections,
        limiter=throttle.limiter(root, args.bandwidth_mb_s),
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Fetch one file."""
    parser = argparse.ArgumentParser(description="Fetch one file, verify it, write a receipt beside it.")
    parser.add_argument("--row", type=Path, required=True, help="JSON file: what to fetch")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--out", type=Path, required=True, help="the file; must be the row's path under --root")
    parser.add_argument("--receipt", type=Path, help="write a copy of the receipt here as well")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    row = read_row(args.row)
    if args.out.absolute() != (args.root / row.path).absolute():
        raise DataError(f"--out {args.out} is not {args.root / row.path}", f"give the path that {args.row} names")
    patience = patience_of(args, args.root)
    receipt = fetch(row, args.out, sources.mirrors(args.mirror), patience, origin=not args.mirrors_only)
    if not receipt.checked and not receipt.hub:
        logger.warning("%s: unpinned; sha256 %s as seen", row.path, receipt.sha256)
    if args.receipt:
        write_json(args.receipt, receipt.model_dump(exclude=receipts.CHANCE))
    return None


if __name__ == "__main__":
    cli.run(main)
