"""What files of annotations name: which images, and how many samples each of them is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safe_llava.core.errors import FETCH_AGAIN, DataError
from safe_llava.core.files import read_jsonl
from safe_llava.core.json_stream import read_rows
from safe_llava.formats.annotations import check_row
from safe_llava.formats.prism import ALL, HAIR, Attribute

ATTRIBUTES = tuple(str(attribute) for attribute in Attribute)
Kind = Literal["train", "prism"]


@dataclass(frozen=True)
class Named:
    """What one file of annotations names.

    Args:
        file: the annotation file.
        images: folder that the names are relative to.
        counts: how many samples name each image.
        samples: how many there are in all.
        parts: how many of them belong to each attribute (PRISM) or have an image or none (train).
        kind: what the annotations are.
    """

    file: Path
    images: Path
    counts: Mapping[str, int]
    samples: int
    parts: Mapping[str, int]
    kind: Kind = "train"


def read_train(file: Path, images: Path) -> Named:
    """Read a JSON list of training samples.

    Raises:
        DataError: not a list of samples (``annotations.find_fault``), or an image name that leaves its folder.
    """
    counts: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    number = 0
    for number, row in enumerate(read_rows(file, FETCH_AGAIN), start=1):
        if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
            raise DataError(f"{file}: row {number} has no `conversations`", FETCH_AGAIN)
        if row.get("image") is None:
            parts["text only"] += 1
        else:
            counts[_image_name(row, file, number)] += 1
            parts["with image"] += 1
        check_row(file, number, row)
    if not number:
        raise DataError(f"{file}: not a list of samples", FETCH_AGAIN)
    return Named(file, images, counts, number, parts)


def read_prism(file: Path, images: Path) -> Named:
    """Read a JSONL file of PRISM questions.

    Raises:
        DataError: a row without question_id, image or text, or of an unknown attribute.
    """
    rows = read_jsonl(file, FETCH_AGAIN)
    if not rows:
        raise DataError(f"{file}: no questions", FETCH_AGAIN)
    counts: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        for key in ("question_id", "image", "text"):
            if not isinstance(row.get(key), str) or not row[key]:
                raise DataError(f"{file}: row {number} has no `{key}`", FETCH_AGAIN)
        attribute = row["question_id"].split("/")[0]
        if attribute == HAIR:
            continue
        if attribute not in (*ATTRIBUTES, ALL):
            known = ", ".join((*ATTRIBUTES, ALL))
            raise DataError(f"{file}: row {number}: `{attribute}` is no attribute ({known})", FETCH_AGAIN)
        counts[_image_name(row, file, number)] += 1
        parts[attribute] += 1
    return Named(file, images, counts, sum(parts.values()), parts, "prism")


def _image_name(row: Mapping[str, Any], file: Path, number: int) -> str:
    name = row["image"]
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{file}: row {number}: `image` is {name!r}, not a path below its folder", FETCH_AGAIN)
    return name


def sample_ids(named: Named, images: Container[str]) -> dict[str, list[str]]:
    """Return the ids of the samples that show certain images; the file is read once more for it."""
    found: dict[str, list[str]] = {}
    rows: Iterator[Any] = read_rows(named.file) if named.kind == "train" else iter(read_jsonl(named.file))
    key = "id" if named.kind == "train" else "question_id"
    for row in rows:
        if row.get("image") in images:
            found.setdefault(row["image"], []).append(str(row.get(key)))
    return found
