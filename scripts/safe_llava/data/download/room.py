"""How much room there is for data, of the file system and of the user's quota; and errors where there is none."""

from __future__ import annotations

import errno
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safe_llava.core.errors import DataError

MAKE_ROOM = "make room or set `data.root` to a larger disk, then run the same command: it goes on where it stopped"
QUOTA_TIMEOUT_S = 10.0
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
KIB = 1024
# Columns of both quota commands behind the name: used, soft and hard bound, grace; of space, then of files.
FIELDS = 8


@contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn a disk that takes no more, or nothing at all, into an error that names the file.

    Raises:
        DataError: no space, the quota is used up, or it is read-only. What was written so far is kept.
    """
    try:
        yield
    except OSError as error:
        if error.errno in READ_ONLY | {errno.ENAMETOOLONG}:
            raise DataError(
                f"{path}: cannot be written: {error.strerror}",
                "set `data.root` to a folder that can be written, or have its owner put the file and its receipt there",
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        facts = os.statvfs(path.parent)
        free = f"{facts.f_bavail * facts.f_frsize:,} bytes"
        if facts.f_files:  # some file systems count no inodes
            free += f" and {facts.f_favail:,} inodes"
        raise DataError(
            f"{path}: {error.strerror or 'no space left on the device'} ({free} are free)", MAKE_ROOM
        ) from error


def require_space(path: Path, wanted: int) -> None:
    """Check that ``wanted`` more bytes fit beside ``path``.

    Raises:
        DataError: they do not.
    """
    free = shutil.disk_usage(path.parent).free
    if wanted > free:
        raise DataError(f"{path}: {wanted:,} bytes are needed and {free:,} are free", MAKE_ROOM)


@dataclass(frozen=True)
class Room:
    """What may still be written; None where nobody knows or nothing bounds it."""

    free_bytes: int | None
    free_files: int | None
    said_by: str


def room(folder: Path) -> Room:
    """Return the least room of file system and quota at a folder, which need not exist yet."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    found = [of_file_system(there), *of_quotas(there)]
    return Room(
        _least([one.free_bytes for one in found]),
        _least([one.free_files for one in found]),
        ", ".join(one.said_by for one in found),
    )


def of_file_system(folder: Path) -> Room:
    """Return what the file system has left for users."""
    facts = os.statvfs(folder)
    # Some file systems count no inodes: they say that there are none at all.
    files = facts.f_favail if facts.f_files else None
    return Room(facts.f_bavail * facts.f_frsize, files, "file system")


def of_quotas(folder: Path) -> list[Room]:
    """Ask the commands that know quotas, where they are installed; those that fail say nothing."""
    user = getpass.getuser()
    commands = {
        "lfs quota": ["lfs", "quota", "-q", "-u", user, str(folder)],
        "quota": ["quota", "--no-wrap", "--raw-grace", "--hide-device", "--filesystem", str(folder)],
    }
    found = []
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=QUOTA_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if left := parse_quota(done.stdout):
            found.append(Room(*left, name))
    return found


def parse_quota(text: str) -> tuple[int | None, int | None] | None:
    """Return the bytes and files that a quota leaves, from the last line that holds its columns; None without one."""
    for line in reversed(text.splitlines()):
        words = line.split()[-FIELDS:]
        numbers = [int(word.rstrip("*")) if word.rstrip("*").isdigit() else None for word in words]
        if len(words) == FIELDS and None not in (*numbers[:3], *numbers[4:7]):
            used, soft, hard, _, files, soft_files, hard_files, _ = (number or 0 for number in numbers)
            left, left_files = _left(used, soft, hard), _left(files, soft_files, hard_files)
            return (None if left is None else left * KIB), left_files
    return None


def _left(used: int, soft: int, hard: int) -> int | None:
    bounds = [bound for bound in (soft, hard) if bound]  # 0: no bound
    return max(0, min(bounds) - used) if bounds else None


def _least(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None
