"""Zip archives from outside: which members are taken, where they go, and that they stay in their folder."""

from __future__ import annotations

import errno
import logging
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import FETCH_AGAIN, DataError
from safe_llava.core.files import file_digest
from safe_llava.data.download import receipts

logger = logging.getLogger(__name__)

DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, UnicodeDecodeError),
)
JUNK = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})
NAMED_LEFT_OUT = 5
PART = ".part"  # of `.NAME.part`, while NAME is written
LONGEST_NAME = 255 - len(".") - len(PART)
LONGEST_PATH = 3000
DEEPEST_PATH = 100  # folders in folders; Python's own functions stop at some hundreds
# How files begin that are taken for zip archives by mistake.
OTHERS = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf\x27": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"<": "a web page",
}


@dataclass(frozen=True)
class Contents:
    """What is taken from an archive.

    Args:
        members: the archive's entries by their path below the target folder.
        left_out: names of files that lie outside the folder that is taken.
    """

    members: dict[str, zipfile.ZipInfo]
    left_out: list[str]

    @property
    def size(self) -> int:
        """Bytes of all members, unpacked."""
        return sum(info.file_size for info in self.members.values())


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive.

    Raises:
        DataError: it is missing, cut off, damaged, or not a zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        if error.filename != str(path):
            raise
        raise DataError(f"{path}: no such file", "fetch it first") from error
    except DAMAGES as error:
        if other := _other_kind(path):
            remedy = (
                "name a mirror that has the zip archive, or unpack this one yourself into the folder `to` of its row"
            )
            raise DataError(f"{path}: {other}, not a zip archive", remedy) from error
        raise DataError(f"{path}: cut off or damaged: {error}", FETCH_AGAIN) from error
    except OSError as error:
        # Where a piece is missing, members seem to lie before the file's beginning.
        if error.errno != errno.EINVAL:
            raise
        raise DataError(f"{path}: cut off or damaged: a member lies outside the file", FETCH_AGAIN) from error


def _other_kind(path: Path) -> str:
    """Return what a file is that is no zip archive, or an empty string."""
    with path.open("rb") as stream:
        head = stream.read(512).lstrip(b"\xef\xbb\xbf \r\n\t")
    if head[257:262] == b"ustar":
        return "a tar archive"
    return next((kind for magic, kind in OTHERS.items() if head.startswith(magic)), "")


def contents(archive: zipfile.ZipFile, strip: str) -> Contents:
    """List what is taken: everything below ``strip``, or all where the archive has no such folder.

    Both storages take their names from here, so that both accept and refuse the same.

    Raises:
        DataError: a member would land outside its folder, is a link, is encrypted, comes twice, has a name that no file
            can have, or the name of a folder.
    """
    listed = (info for info in archive.infolist() if not info.filename.endswith("/"))  # is_dir fails on an empty name
    entries = [info for info in listed if not JUNK & set(info.filename.split("/"))]
    files = []
    for info in entries:
        _refuse(archive, info, _entry_fault(info))
        files.append((PurePosixPath(info.filename), info))
    prefix = PurePosixPath(strip.strip("/"))
    if not any(path.is_relative_to(prefix) for path, _ in files):
        prefix = PurePosixPath()
    members: dict[str, zipfile.ZipInfo] = {}
    left_out = []
    for path, info in files:
        if not path.is_relative_to(prefix):
            left_out.append(info.filename)
            continue
        # What is checked is what will be written, after everything that changes it.
        name = str(path.relative_to(prefix))
        _refuse(archive, info, _name_fault(name))
        if name in members:
            raise DataError(f"{archive.filename}: the member {info.filename!r} comes twice", FETCH_AGAIN)
        members[name] = info
    for name, info in members.items():
        if any(str(parent) in members for parent in PurePosixPath(name).parents):
            _refuse(archive, info, "lies in a folder that is a file as well")
    if not members:
        raise DataError(f"{archive.filename}: holds no files", FETCH_AGAIN)
    return Contents(members, left_out)


def archive_identity(archive_path: Path, row: ResolvedFile) -> dict[str, Any]:
    """Return what makes one placing equal another: the archive's bytes and the row's wishes.

    Raises:
        DataError: the archive is missing.
    """
    if not archive_path.is_file():
        raise DataError(f"{archive_path}: no such file", "fetch it first")
    receipt = receipts.read(receipts.receipt_path(archive_path))
    known = receipt is not None and receipt.size == archive_path.stat().st_size
    sha256 = receipt.sha256 if receipt is not None and known else file_digest(archive_path)
    wishes = row.unpack.model_dump(include={"to", "strip", "normalise_images"}) if row.unpack else {}
    return {"sha256": sha256, **wishes}


def check_count(archive_path: Path, wanted: Unpack, taken: Contents) -> None:
    """Compare the number of files with the published one, where the row has it; say what is left out.

    Raises:
        DataError: it is another.
    """
    if wanted.files not in ("unknown", len(taken.members)):
        raise DataError(
            f"{archive_path}: {len(taken.members):,} files where {wanted.files:,} are published",
            "if this copy is the right one, pin it or correct `files` of its row; else name another mirror",
        )
    if taken.left_out:
        names = ", ".join(taken.left_out[:NAMED_LEFT_OUT])
        logger.warning("%s: %d files outside `%s` left out: %s", archive_path, len(taken.left_out), wanted.strip, names)


def _entry_fault(info: zipfile.ZipInfo) -> str:
    """Return what is wrong with an entry, whatever its name will be."""
    # zipfile cuts names at a NUL and turns backslashes of Windows into slashes: look at what was written.
    kind = stat.S_IFMT(info.external_attr >> 16)
    if fault := _name_fault(info.orig_filename.replace("\\", "/")):
        return fault
    if "\0" in info.orig_filename or "\\" in info.orig_filename:
        return "has a name that means different things on different systems"
    if kind not in (0, stat.S_IFREG):
        return "is not a plain file"
    return "is encrypted" if info.flag_bits & 1 else ""


def _name_fault(name: str) -> str:
    """Return what is wrong with a name below the target folder, or an empty string."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in parts or name in ("", "."):
        return "would land outside its folder"
    if any(len(part.encode()) > LONGEST_NAME for part in parts) or len(name.encode()) > LONGEST_PATH:
        return f"has a name that is too long for file systems (of {LONGEST_NAME} bytes at most, {LONGEST_PATH} in all)"
    if len(parts) > DEEPEST_PATH:
        return f"lies in more than {DEEPEST_PATH} folders in folders"
    if parts[-1].startswith(".") and parts[-1].endswith(PART):
        return "has the name of a file that is being written"
    return ""


def _refuse(archive: zipfile.ZipFile, info: zipfile.ZipInfo, fault: str) -> None:
    if fault:
        raise DataError(
            f"{archive.filename}: the member {info.orig_filename!r} {fault}; nothing was unpacked",
            "do not use this archive: ask its publisher, or name another mirror",
        )
