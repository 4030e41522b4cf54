"""Image files, wherever they lie: in their folder, or by name in an archive that nothing was unpacked from.

Everybody who reads an image asks here, with the path that it has in the tree of extracted files. Where its
folder is on disk, the file is read. Where it is not, the nearest parent with an index beside it
(``coco/train2017.index`` for ``coco/train2017``) says where in which archive the bytes lie; ``data.index`` makes
these indexes. Both ways give the same bytes: what unpacking would have rewritten as JPEG is rewritten on reading.

Each process and each thread has handles of its own, so forked and spawned workers may read at will. An index is a
SQLite file that is opened as immutable: no locks, and nothing is written beside it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import struct
import threading
import weakref
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from safe_llava.core.errors import DataError, again
from safe_llava.core.files import CHUNK_BYTES
from safe_llava.images.jpeg import as_jpeg, needs_jpeg

INDEX_SUFFIX = ".index"
VERSION = 1
STORED, DEFLATED = 0, 8
LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
LOCAL_MAGIC = b"PK\x03\x04"
MEMBER = "SELECT offset, head, packed, size, method, crc FROM member WHERE name = ?"
CHILDREN = (
    "SELECT substr(name, :skip), size FROM member WHERE name >= :first AND name < :last "
    "AND instr(substr(name, :skip), '/') = 0"
)
BELOW = "SELECT 1 FROM member WHERE name >= :first AND name < :last LIMIT 1"


class BrokenMemberError(OSError):
    """The bytes of one member are not what the archive's directory says: one image that cannot be read."""


def index_path(folder: Path) -> Path:
    """Return the index's place: beside the folder that the archive would be unpacked into."""
    return folder.with_name(folder.name + INDEX_SUFFIX)


class Archive:
    """An archive and its index, opened for reading by one thread.

    Args:
        index: a file that ``data.index`` made.

    Raises:
        DataError: the index cannot be read, or its archive is gone or is another than the one that was indexed.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        self._connection, facts = _open_index(index)
        self.path = index.parent / facts["archive"]
        self._normalise = bool(facts["identity"]["normalise_images"])
        remedy = (
            f"{again('indexed', str(index))}; if the archive is gone, delete its receipt in results/data/fetched too"
        )
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}; {index} says that images lie in it", remedy) from error
        weakref.finalize(self, self._file.close)
        size = os.fstat(self._file.fileno()).st_size
        if size != facts["size"]:
            raise DataError(
                f"{self.path}: {size:,} bytes where {facts['size']:,} were indexed: it was changed afterwards", remedy
            )

    def read(self, name: str) -> bytes | None:
        """Return the bytes that unpacking would give a member, or None where there is none of that name.

        Raises:
            BrokenMemberError: they are cut off, do not unpack, or their CRC is another.
        """
        found = self._connection.execute(MEMBER, (name,)).fetchone()
        if found is None:
            return None
        content = self._content(name, *found)
        if self._normalise and needs_jpeg(name, content):
            return as_jpeg(content) or content
        return content

    def holds(self, name: str) -> bool:
        """Tell whether there is a member of that name."""
        return self._connection.execute(MEMBER, (name,)).fetchone() is not None

    def children(self, folder: str) -> dict[str, int]:
        """Return the files right in a folder ("" for the uppermost) with the sizes that they have in the archive."""
        return dict(self._connection.execute(CHILDREN, _range(folder)))

    def has_folder(self, folder: str) -> bool:
        """Tell whether any member lies below a folder."""
        return self._connection.execute(BELOW, _range(folder)).fetchone() is not None

    def _content(self, name: str, offset: int, head: int, packed: int, size: int, method: int, crc: int) -> bytes:
        data = os.pread(self._file.fileno(), head + packed, offset)
        if len(data) < LOCAL_HEADER.size or not data.startswith(LOCAL_MAGIC):
            raise self._broken(name, "no header where it should begin")
        fields = LOCAL_HEADER.unpack_from(data)
        # The header before the bytes may be longer than the directory tells.
        begin = LOCAL_HEADER.size + fields[-2] + fields[-1]
        if (short := begin + packed - len(data)) > 0:
            data += os.pread(self._file.fileno(), short, offset + len(data))
        content = data[begin : begin + packed]
        if method == DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            except zlib.error as error:
                raise self._broken(name, str(error)) from error
        if len(content) != size:
            raise self._broken(name, f"{len(content):,} bytes where the directory says {size:,}")
        if zlib.crc32(content) != crc:
            raise self._broken(name, "its CRC is another")
        return content

    def _broken(self, name: str, fault: str) -> BrokenMemberError:
        return BrokenMemberError(f"{name} in {self.path}: {fault}: damaged, or changed since it was indexed")


def _range(folder: str) -> dict[str, str | int]:
    # "0" comes right behind "/": everything that begins with "folder/" lies between the two.
    if folder:
        return {"first": f"{folder}/", "last": f"{folder}0", "skip": len(folder) + 2}
    return {"first": "", "last": "\U0010ffff", "skip": 1}


def _open_index(index: Path) -> tuple[sqlite3.Connection, dict[str, Any]]:
    address = f"file:{quote(str(index.absolute()))}?mode=ro&immutable=1"
    remedy = again("indexed", str(index))
    try:
        connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        facts = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM facts")}
    except (sqlite3.Error, ValueError) as error:
        raise DataError(f"{index}: not an index of an archive: {error}", remedy) from error
    if facts.get("version") != VERSION:
        raise DataError(f"{index}: an index of version {facts.get('version')}, not {VERSION}", remedy)
    return connection, facts


def read_facts(index: Path) -> dict[str, Any]:
    """Return what an index says of itself: its archive, that archive's size, and what was asked of it.

    Raises:
        DataError: it is no index, or one of another version.
    """
    connection, facts = _open_index(index)
    connection.close()
    return facts


class _Handles(threading.local):
    """The open archives of this thread, and which folders lie in which of them."""

    def __init__(self) -> None:
        self.stamp = (0, 0)
        self.archives: dict[Path, Archive] = {}
        self.homes: dict[Path, tuple[Archive, str]] = {}


_handles = _Handles()
_generation = 0
# SQLite wants no connection closed by a process that did not open it.
_inherited: list[Archive] = []


def forget_indexes() -> None:
    """Have every thread look at the disk anew: an index was made or replaced."""
    global _generation
    _generation += 1


def _current() -> _Handles:
    stamp = (os.getpid(), _generation)
    if _handles.stamp != stamp:
        if _handles.stamp[0] not in (0, stamp[0]):
            _inherited.extend(_handles.archives.values())
        _handles.archives, _handles.homes, _handles.stamp = {}, {}, stamp
    return _handles


def _home(folder: Path) -> tuple[Archive, str] | None:
    """Return the archive that a folder lies in, and its name there; None where it is on disk or nowhere."""
    handles = _current()
    if folder in handles.homes:
        return handles.homes[folder]
    names: list[str] = []
    for place in (folder, *folder.parents):
        if not place.name or place.is_dir():
            return None
        index = index_path(place)
        if index.is_file():
            if index not in handles.archives:
                handles.archives[index] = Archive(index)
            handles.homes[folder] = handles.archives[index], "/".join(reversed(names))
            return handles.homes[folder]
        names.append(place.name)
    return None


def hidden_index(folder: Path) -> Path | None:
    """Return the index that would be asked for a folder if that were not on disk."""
    for place in (folder, *folder.parents):
        if place.name and place.is_dir() and index_path(place).is_file():
            return index_path(place)
    return None


def _member(path: Path) -> tuple[Archive, str] | None:
    home = _home(path.parent)
    return home and (home[0], f"{home[1]}/{path.name}".lstrip("/"))


def _known(path: Path) -> bool:
    return path.parent in _current().homes


def read_bytes(path: Path) -> bytes:
    """Return an image file's bytes.

    Raises:
        FileNotFoundError: it is neither in its folder nor in an archive.
        BrokenMemberError: its archive is damaged there.
        DataError: its archive or index as a whole is not what it was.
    """
    if not _known(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if _home(path.parent) is None:
                raise
    content = _from_archive(path)
    if content is None:
        raise FileNotFoundError(2, "No such file or archive member", str(path))
    return content


def _from_archive(path: Path) -> bytes | None:
    found = _member(path)
    return found and found[0].read(found[1])


class _Content(io.BytesIO):
    """Bytes that errors call by the file's path."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(content)
        self._path = path

    def __repr__(self) -> str:
        return repr(str(self._path))


def open_stored_image(path: Path) -> Image.Image:
    """Open an image, to be used in a ``with``; its pixels are decoded when they are asked for.

    Raises:
        OSError: as ``PIL.Image.open`` and ``read_bytes``.
        DataError: as ``read_bytes``.
    """
    if not _known(path):
        try:
            return Image.open(path)
        except (FileNotFoundError, NotADirectoryError):
            if _home(path.parent) is None:
                raise
    return Image.open(_Content(read_bytes(path), path))


def exists(path: Path) -> bool:
    """Tell whether there is a file of that path, on disk or in an archive."""
    if path.is_file():
        return True
    found = _member(path)
    return found is not None and found[0].holds(found[1])


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder of that path, on disk or in an archive."""
    if path.is_dir():
        return True
    home = _home(path)
    return home is not None and home[0].has_folder(home[1])


def image_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; raises as ``read_bytes``."""
    if _home(path.parent) is not None:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    made = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            made.update(chunk)
    return made.hexdigest()


def folder_listing(folder: Path, measured: Container[str] = frozenset()) -> dict[str, int] | None:
    """Return the names of a folder's entries with the sizes of those to be measured, and -1 for those not.

    In an archive all sizes are known. One listing answers for a folder of any size, where a look at each file would
    take a cluster's file system minutes.

    Returns:
        None where there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size if entry.name in measured else -1 for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        pass
    home = _home(folder)
    if home is None or not home[0].has_folder(home[1]):
        return None
    return home[0].children(home[1])
