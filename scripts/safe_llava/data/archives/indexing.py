"""Index one archive, so that its files are read without unpacking it.

The index says where in the archive each file lies, and lies itself beside where the archive's folder would be. It is
made from the central directory alone, in a temporary file that is renamed when it is whole. Two processes at once make
the same index twice, and whichever is last replaces its equal.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import FETCH_AGAIN, DataError
from safe_llava.core.files import atomic_path
from safe_llava.data.archives.members import NAMED_LEFT_OUT, Contents, archive_identity, check_count, contents, opened
from safe_llava.images import store as imagefiles

logger = logging.getLogger(__name__)
COMPRESSIONS = {imagefiles.STORED: "stored", imagefiles.DEFLATED: "deflated"}
TABLES = (
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE member (name TEXT PRIMARY KEY, offset INTEGER, head INTEGER, packed INTEGER, size INTEGER, "
    "method INTEGER, crc INTEGER) WITHOUT ROWID",
)
# A local header may hold more than the directory says of it (zip64, times); seldom more than this.
SPARE_HEAD = 64


def index_archive(archive_path: Path, row: ResolvedFile, root: Path) -> dict[str, Any]:
    """Make sure that the archive's index lies beside its folder's place, and return the receipt.

    Raises:
        DataError: the archive is damaged, unsafe, packed so that it cannot be read by name, or not what the row says.
    """
    if row.unpack is None:
        raise DataError(f"{row.path} (set {row.set}): the row does not say where to unpack", "give it an `unpack`")
    folder = root / row.unpack.to
    target = imagefiles.index_path(folder)
    facts = _facts(archive_path, row, target)
    found = _standing(target)
    if any(found.get(key) != value for key, value in facts.items()):
        with opened(archive_path) as archive:
            taken = contents(archive, row.unpack.strip)
            check_count(archive_path, row.unpack, taken)
            _refuse_unreadable(archive, taken)
            _refuse_incomplete(archive_path, row, row.unpack, taken)
            found = facts | _counted(taken)
            _write(target, found, taken)
        imagefiles.forget_indexes()
    if folder.is_dir():
        logger.warning(
            "%s is on disk and is what will be read; `rm -r` it to read from the archive and be rid of its %d files",
            folder,
            found["files"],
        )
    kept = ("identity", "files", "bytes", "left_out", "methods")
    return {"to": row.unpack.to, "storage": "archive", **{key: found[key] for key in kept}}


def _facts(archive_path: Path, row: ResolvedFile, target: Path) -> dict[str, Any]:
    """Return what an index must say of itself to be this one; the archive's path is relative, so both may move."""
    return {
        "version": imagefiles.VERSION,
        "archive": os.path.relpath(archive_path.absolute(), target.parent.absolute()),
        "identity": archive_identity(archive_path, row),
        "size": archive_path.stat().st_size,
    }


def _standing(target: Path) -> dict[str, Any]:
    try:
        return imagefiles.read_facts(target) if target.is_file() else {}
    except DataError:
        return {}


def _counted(taken: Contents) -> dict[str, Any]:
    used = [info.compress_type for info in taken.members.values()]
    return {
        "files": len(used),
        "bytes": taken.size,
        "left_out": len(taken.left_out),
        "methods": {name: used.count(method) for method, name in COMPRESSIONS.items()},
    }


def _refuse_unreadable(archive: zipfile.ZipFile, taken: Contents) -> None:
    for name, info in taken.members.items():
        if info.compress_type not in COMPRESSIONS:
            raise DataError(
                f"{archive.filename}: the member {name!r} is packed by method {info.compress_type}; only stored (0) or "
                "deflated (8) ones can be read by name",
                "set `storage: extracted` for this data set",
            )
        end = info.header_offset + imagefiles.LOCAL_HEADER.size + info.compress_size
        if info.header_offset < 0 or end > archive.start_dir:
            raise DataError(f"{archive.filename}: cut off or damaged: {name!r} reaches beyond the files", FETCH_AGAIN)


def _refuse_incomplete(archive_path: Path, row: ResolvedFile, wanted: Unpack, taken: Contents) -> None:
    """Look for what should be there, as after unpacking."""
    name = os.path.relpath(wanted.creates, wanted.to)
    if name == "." or any(member == name or member.startswith(f"{name}/") for member in taken.members):
        return
    tops = ", ".join(sorted({member.split("/", 1)[0] for member in taken.members})[:NAMED_LEFT_OUT])
    raise DataError(
        f"{archive_path}: {wanted.creates} would not be there after unpacking; {wanted.to} would have {tops}",
        f"correct `strip`, `to` or `creates` of the set {row.set}",
    )


def _write(target: Path, facts: dict[str, Any], taken: Contents) -> None:
    try:
        # The connection is closed before the file is put in its place.
        with atomic_path(target) as temporary, closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            for table in TABLES:
                connection.execute(table)
            connection.executemany("INSERT INTO facts VALUES (?, ?)", ((k, json.dumps(v)) for k, v in facts.items()))
            connection.executemany("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(taken))
            connection.commit()
    except (OSError, sqlite3.Error) as error:
        raise DataError(
            f"{target}: cannot be written: {error}", "make room or set `data.root` to a larger disk, then run it again"
        ) from error


def _rows(taken: Contents) -> Iterator[tuple[str, int, int, int, int, int, int]]:
    # In the order of their names, each is written behind the one before it.
    for name, info in sorted(taken.members.items()):
        head = imagefiles.LOCAL_HEADER.size + len(info.orig_filename.encode()) + len(info.extra) + SPARE_HEAD
        yield name, info.header_offset, head, info.compress_size, info.file_size, info.compress_type, info.CRC
