"""Files that are whole or absent: written under another name, flushed, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_llava.core.errors import DataError, SafeLlavaError

CHUNK_BYTES = 1 << 20
HALF_PAIR = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # or a whole one


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it into place if the block succeeds.

    A reader sees the old file or the whole new one, never a part, whenever the writer is killed.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from error
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files that only their owner can read; results are shared on a cluster.
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        # A full disk does not say which file it was; and of the temporary one nobody knows.
        if error.filename == str(temporary) or (error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename):
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def require_replaceable(folder: Path, made_here: str, error: type[SafeLlavaError]) -> None:
    """Make sure that a folder may be made anew: there is none, it is empty, or an earlier run of this step made it.

    Args:
        folder: the place.
        made_here: a file that such a run leaves in it.
        error: what is raised.

    Raises:
        SafeLlavaError: of type ``error``: it is somebody else's.
    """
    ours = folder.is_dir() and ((folder / made_here).is_file() or not any(folder.iterdir()))
    if folder.exists() and not ours:
        said = f"{folder} exists and was not made by this step: no {made_here} in it"
        raise error(said, "name another folder, or remove this one")


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line and return how many there were."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these keys; JSON leaves open which value a repeated one has.

    Raises:
        ValueError: a key comes twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key!r} comes {count} times in an object")
    return made


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is not JSON, is nested too deeply, has a key twice, or half a surrogate pair.
    """
    try:
        value = json.loads(text, object_pairs_hook=each_key_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if HALF_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a surrogate pair, which is no character") from None
    return value


def read_json(path: Path | str, remedy: str = "make the file again") -> Any:
    """Read one JSON file, with or without a byte order mark.

    Raises:
        DataError: the file is missing or is not JSON; ``remedy`` says what to do.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", remedy) from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", remedy) from error


def read_jsonl(path: Path | str, remedy: str = "make the file again") -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; blank lines are skipped.

    Raises:
        DataError: the file is missing, or a row (named by its number) is not a JSON object.
    """
    rows: list[dict[str, Any]] = []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", remedy) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error}", f"save it as UTF-8; or {remedy}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}: row {number} is not JSON: {error}", remedy) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is not a JSON object", remedy)
        rows.append(row)
    return rows


def file_digest(path: Path | str, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes."""
    digest = hashlib.new(algorithm)
    with Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
