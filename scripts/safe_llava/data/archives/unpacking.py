"""Unpack one archive: members are written into a folder beside the target, each one whole or absent.

The folder is renamed when all are there: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import DataError
from safe_llava.core.files import CHUNK_BYTES, write_json
from safe_llava.core.locks import only_one
from safe_llava.core.progress import Progress
from safe_llava.data.archives.adopted import ADOPTED, count_files, note_path, read_note
from safe_llava.data.archives.members import NAMED_LEFT_OUT, PART, Contents, check_count, contents, opened
from safe_llava.data.archives.members import archive_identity as identity_of
from safe_llava.data.download.files import lock_path
from safe_llava.data.download.room import explain_disk, require_space
from safe_llava.images.jpeg import needs_jpeg, rewrite_as_jpeg

logger = logging.getLogger(__name__)


def unpack_archive(archive_path: Path, row: ResolvedFile, root: Path) -> dict[str, Any]:
    """Make sure that the archive's files lie in their folder, and return the receipt.

    Raises:
        DataError: the archive is damaged, unsafe, or not what the row says; or the folder is somebody else's.
    """
    if row.unpack is None:
        raise DataError(f"{row.path} (set {row.set}): the row does not say where to unpack", "give it an `unpack`")
    target = root / row.unpack.to
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(lock_path(target), DataError):
        receipt = _unpack_locked(archive_path, row, row.unpack, target)
    if not (root / row.unpack.creates).exists():
        tops = sorted({path.name for path in target.iterdir()})[:NAMED_LEFT_OUT]
        raise DataError(
            f"{archive_path}: {root / row.unpack.creates} is not there after unpacking; {target} has {', '.join(tops)}",
            f"correct `strip`, `to` or `creates` of the set {row.set}",
        )
    return receipt


def _unpack_locked(archive_path: Path, row: ResolvedFile, wanted: Unpack, target: Path) -> dict[str, Any]:
    identity = identity_of(archive_path, row)
    note = note_path(target)
    receipt = read_note(note)
    if receipt.get("identity", {}).get("sha256") == ADOPTED:  # the files are the user's, and not ours to replace
        receipt = {}
    # More files than were unpacked are the user's own, and not ours to remove.
    if receipt.get("identity") == identity and count_files(target) >= receipt["present"]:
        logger.info("%s: already unpacked", target)
        return receipt
    with opened(archive_path) as archive:
        taken = contents(archive, wanted.strip)
        check_count(archive_path, wanted, taken)
        if not receipt and count_files(target):
            receipt = _adopt(target, taken, identity, wanted)
            write_json(note, receipt)
            return receipt
        staging = _staging(target, identity)
        converted = _extract(archive, taken, staging, wanted)
    receipt = _receipt(identity, wanted, taken, converted, count_files(staging))
    _put_in_place(staging, target, note, receipt)
    return receipt


def _adopt(target: Path, taken: Contents, identity: dict[str, Any], wanted: Unpack) -> dict[str, Any]:
    """Take over a folder that somebody else filled, if it holds every member of the archive."""
    have = {str(path.relative_to(target)): path.stat().st_size for path in target.rglob("*") if path.is_file()}

    def lacks(name: str, size: int) -> bool:
        if wanted.normalise_images:  # a rewritten image has another size
            return not have.get(name)
        return have.get(name) != size

    absent = [name for name, info in taken.members.items() if lacks(name, info.file_size)]
    if absent:
        raise DataError(
            f"{target} is there, was not unpacked by this workflow, and lacks {len(absent):,} of "
            f"{len(taken.members):,} files of the archive ({absent[0]}, …)",
            "move the folder away and run the same command again",
        )
    logger.info("%s: already holds every file of the archive", target)
    return _receipt(identity, wanted, taken, 0, len(have))


def _staging(target: Path, identity: dict[str, Any]) -> Path:
    """Return the folder that is filled; what another archive left there is removed."""
    staging = target.with_name(f".{target.name}.part")
    note = target.with_name(f".{target.name}.part.json")
    if staging.exists() and read_note(note) != identity:
        shutil.rmtree(staging)
    if not staging.exists():
        write_json(note, identity)
        staging.mkdir()
    return staging


def _extract(archive: zipfile.ZipFile, taken: Contents, staging: Path, wanted: Unpack) -> int:
    """Write every member that is not there yet; return how many images were rewritten as JPEG."""
    require_space(staging, taken.size - sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()))
    converted = 0
    progress = Progress(len(taken.members), f"unpack {Path(str(archive.filename)).name}", "files")
    folders: set[Path] = set()
    for name, info in taken.members.items():
        path = staging / name
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        if not (path.exists() and path.stat().st_size == info.file_size):
            converted += _write_member(archive, info, path, wanted.normalise_images)
        progress.update()
    progress.close()
    return converted


def _write_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, normalise: bool) -> bool:
    """Write one member beside and rename it; reading to its end checks its CRC."""
    temporary = path.with_name(f".{path.name}{PART}")
    head = b""
    with archive.open(info) as reader, explain_disk(path), temporary.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            head = head or chunk[:16]
            writer.write(chunk)
    rewritten = False
    if normalise and needs_jpeg(path.name, head):
        with explain_disk(path):
            rewritten = rewrite_as_jpeg(temporary)
    temporary.replace(path)
    return rewritten


def _receipt(identity: dict[str, Any], wanted: Unpack, taken: Contents, converted: int, present: int) -> dict[str, Any]:
    return {
        "identity": identity,
        "to": wanted.to,
        "files": len(taken.members),
        "bytes": taken.size,
        "present": present,
        "left_out": len(taken.left_out),
        "converted": converted,
    }


def _put_in_place(staging: Path, target: Path, note: Path, receipt: dict[str, Any]) -> None:
    """Swap the folders; the note is never beside another folder than its own."""
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    write_json(note, receipt)
    staging.rename(target)
    target.with_name(f".{target.name}.part.json").unlink(missing_ok=True)
    shutil.rmtree(target.with_name(f".{target.name}.old"), ignore_errors=True)
