"""Fetch one file: mirrors in order, then the origin; verified, with a receipt beside it, resumed after a kill."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from safe_llava.checkpoints.whole import is_pointer
from safe_llava.config.data import ResolvedFile
from safe_llava.core.errors import DataError
from safe_llava.core.locks import only_one
from safe_llava.data.download import receipts, sources, transfer
from safe_llava.data.download.receipts import Receipt
from safe_llava.data.download.retries import RetryPolicy, retried
from safe_llava.data.download.room import READ_ONLY, explain_disk
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.data.download.web import HTML_PAGE

logger = logging.getLogger(__name__)


def fetch_file(
    row: ResolvedFile, target: Path, mirrors: Sequence[Mirror], policy: RetryPolicy, origin: bool = True
) -> Receipt:
    """Make sure that ``target`` is the file that ``row`` describes, and return its receipt.

    Raises:
        DataError: no source gave it; the error names each one and why.
    """
    with explain_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with explain_disk(target), only_one(lock_path(target), DataError):
        receipt = receipts.stands(target, row) or _adopt(target, row)
        if receipt is not None:
            logger.info("%s: already here", target)
            return receipt
        part = target.with_name(target.name + ".part")
        tried: list[tuple[str, SourceError]] = []
        for source in sources.candidates(row.url, row.mirrors, mirrors, origin):
            try:
                receipt = _obtain(source, row, part, policy)
            except SourceError as error:
                logger.warning("%s: %s", sources.shown(source), error.reason)
                tried.append((sources.shown(source), error))
                continue
            _put_in_place(part, target, receipt)
            return receipt
    raise sources.all_failed(f"{row.path} (set {row.set})", tried)


def lock_path(target: Path) -> Path:
    """Return the lock of a file or folder that is made: beside it."""
    return target.with_name(f".{target.name}.lock")


def _obtain(source: Path | str, row: ResolvedFile, part: Path, policy: RetryPolicy) -> Receipt:
    if isinstance(source, Path):
        transfer.copy_file(source, part)
    else:
        _download(source, row, part, policy)
    try:
        _look_inside(part, row)
        return receipts.make_receipt(part, row, sources.shown(source), transfer.stated_of(part))
    except SourceError:
        # These bytes are wrong: going on with them, from here or elsewhere, would keep them wrong.
        transfer.discard(part)
        raise


def _download(url: str, row: ResolvedFile, part: Path, policy: RetryPolicy) -> None:
    if not sources.is_drive(url):
        known = (row.sha256, row.md5) != ("unknown", "unknown")
        transfer.download(url, part, policy, verified_later=known)
        return
    from safe_llava.data.download import drive  # it takes long to import, and is needed for few files

    if transfer.state_path(part).exists():  # of another source; gdown keeps its own beside
        transfer.discard(part)
    retried(lambda: drive.download_from_drive(url, part, policy), policy, url)


def _look_inside(part: Path, row: ResolvedFile) -> None:
    """Refuse a page of text where an archive or data should be; some servers send those with a 200."""
    with part.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise SourceError(*HTML_PAGE)
    if is_pointer(head):
        raise SourceError("a pointer of git-lfs instead of the file", "name an address that serves the file itself")
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
        receipt = receipts.make_receipt(target, row, "already there")
    except SourceError as error:
        logger.warning("%s is not the file that is wanted (%s): fetching it", target, error.reason)
        return None
    try:
        receipts.write(target, receipt)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        logger.warning("%s: its receipt cannot be written (%s); used as it is", target, error.strerror)
    return receipt


def _put_in_place(part: Path, target: Path, receipt: Receipt) -> None:
    """Rename the part file; the receipt is there first, and never beside another file than its own."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    target.unlink(missing_ok=True)
    receipts.write(target, receipt)
    part.replace(target)
    transfer.discard(part)
