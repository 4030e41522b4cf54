"""Images that lie unpacked already, without their archive: counted, looked into, and taken over in its place.

Many clusters have COCO. A folder with as many files as are published of its archive needs no download; the layout check
says later whether every image that annotations name is there.
"""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json, write_json
from safe_llava.data.download.receipts import UNPACKED_SUFFIX
from safe_llava.data.download.room import READ_ONLY
from safe_llava.images.reader import fault_of

logger = logging.getLogger(__name__)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp"})
SAMPLE_SIZE = 200
SAMPLE_SEED = 20251120
ADOPTED = "none: the files were there without their archive"


def note_path(folder: Path) -> Path:
    """Return the note that says what filled a folder: beside it."""
    return folder.with_name(folder.name + UNPACKED_SUFFIX)


def read_note(path: Path) -> dict[str, Any]:
    """Return a note of ours, or an empty one where it is missing or broken."""
    try:
        note = read_json(path)
    except DataError:
        return {}
    return note if isinstance(note, dict) else {}


def count_files(folder: Path) -> int:
    """Return how many files lie below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder, followlinks=True))


def is_adoptable(row: ResolvedFile, root: Path) -> bool:
    """Tell whether an archive's files are there and the archive is not; what is counted once is not counted again."""
    wanted = row.unpack
    if wanted is None or (root / row.path).is_file() or not (root / wanted.to).is_dir():
        return False
    return _is_of(read_note(note_path(root / wanted.to)), row, wanted) or _complete(root / wanted.to, wanted)


def adopt(row: ResolvedFile, root: Path) -> dict[str, Any] | None:
    """Take over an archive's files where they are there and the archive is not, and return the folder's receipt.

    Returns:
        None where the archive is there, or the folder is not, or has not the published number of files.

    Raises:
        DataError: files of a fixed draw do not decode.
    """
    wanted = row.unpack
    if wanted is None or (root / row.path).is_file() or not (root / wanted.to).is_dir():
        return None
    folder = root / wanted.to
    note = read_note(note_path(folder))
    if _is_of(note, row, wanted) and count_files(folder) >= note["present"]:
        return note
    if not _complete(folder, wanted):
        return None
    _look_inside(folder)
    count = count_files(folder)
    note = {
        "identity": {"sha256": ADOPTED, **wanted.model_dump(include={"to", "strip", "normalise_images"})},
        "to": wanted.to,
        "files": count,
        "present": count,
        "left_out": 0,
        "converted": 0,
    }
    try:
        write_json(note_path(folder), note)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    logger.info("%s: %d files are there without their archive: taken over, nothing is fetched", folder, count)
    return note


def _is_of(note: dict[str, Any], row: ResolvedFile, wanted: Unpack) -> bool:
    identity = note.get("identity", {})
    known = row.sha256 == "unknown" or identity.get("sha256") in (ADOPTED, row.sha256)
    return known and all(identity.get(key) == getattr(wanted, key) for key in ("to", "strip", "normalise_images"))


def _complete(folder: Path, wanted: Unpack) -> bool:
    if not (folder.parent.is_dir() and isinstance(wanted.files, int)):
        return False
    if not (folder / os.path.relpath(wanted.creates, wanted.to)).exists():
        return False
    count = count_files(folder)
    if 0 < count < wanted.files:
        logger.warning(
            "%s has %d files where %d are published: not taken over, its archive is fetched",
            folder,
            count,
            wanted.files,
        )
    return count >= wanted.files


def _look_inside(folder: Path) -> None:
    images = sorted(
        Path(place) / name
        for place, _, files in os.walk(folder, followlinks=True)
        for name in files
        if Path(name).suffix.lower() in SUFFIXES
    )
    drawn = random.Random(SAMPLE_SEED).sample(images, min(SAMPLE_SIZE, len(images)))
    faults = [(path, fault) for path in drawn if (fault := fault_of(path))]
    if faults:
        path, fault = faults[0]
        raise DataError(
            f"{folder}: {len(faults)} of {len(drawn)} images that were looked at do not decode; {path}: {fault}",
            "mend them, or move the folder away: then its archive is fetched",
        )
