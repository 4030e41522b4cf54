"""Zip archives from outside: which members are taken, where they go, and that they stay in their folder."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safe_llava.core.errors import DataError

JUNK = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})
FETCH_AGAIN = "delete the archive and its receipt and fetch it again; if it stays so, name another mirror"


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
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: cut off or damaged: {error}", FETCH_AGAIN) from error


def contents(archive: zipfile.ZipFile, strip: str) -> Contents:
    """List what is taken: everything below ``strip``, or all where the archive has no such folder.

    Raises:
        DataError: a member would land outside its folder, is a link, is encrypted, or comes twice.
    """
    prefix = f"{strip.strip('/')}/" if strip.strip("/") else ""
    files = [info for info in archive.infolist() if not info.is_dir() and not JUNK & set(info.filename.split("/"))]
    for info in files:
        _refuse_unsafe(archive, info)
    if not any(info.filename.startswith(prefix) for info in files):
        prefix = ""
    members: dict[str, zipfile.ZipInfo] = {}
    left_out = []
    for info in files:
        if not info.filename.startswith(prefix):
            left_out.append(info.filename)
            continue
        name = str(PurePosixPath(info.filename.removeprefix(prefix)))
        if name in members:
            raise DataError(f"{archive.filename}: the member {info.filename!r} comes twice", FETCH_AGAIN)
        members[name] = info
    if not members:
        raise DataError(f"{archive.filename}: holds no files", FETCH_AGAIN)
    return Contents(members, left_out)


def _refuse_unsafe(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    # zipfile cuts names at a NUL and turns backslashes of Windows into slashes: look at what was written.
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    fault = ""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        fault = "has an absolute path"
    elif ".." in re.split(r"[/\\]", name):
        fault = "would land outside its folder"
    elif "\0" in name or "\\" in name:
        fault = "has a name that means different things on different systems"
    elif kind not in (0, stat.S_IFREG):
        fault = "is not a plain file"
    elif info.flag_bits & 1:
        fault = "is encrypted"
    if fault:
        raise DataError(
            f"{archive.filename}: the member {name!r} {fault}; nothing was unpacked",
            "do not use this archive: ask its publisher, or name another mirror",
        )
