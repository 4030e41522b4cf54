"""What files of annotations name: which images, and how many samples each of them is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safe_llava.core.errors import DataError, damaged
from safe_llava.formats.annotations import read_samples
from safe_llava.formats.prism import Attribute, read_questions

ATTRIBUTE_FOLDERS = tuple(str(attribute) for attribute in Attribute)
AnnotationKind = Literal["train", "prism"]
ImageProblem = Literal["missing", "empty", "undecodable"]


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
        silent: how many samples teach nothing: no answer to a question has text.
    """

    file: Path
    images: Path
    counts: Mapping[str, int]
    samples: int
    parts: Mapping[str, int]
    kind: AnnotationKind = "train"
    silent: int = 0


@dataclass(frozen=True)
class Problem:
    """One image that is wrong, how many samples it costs, and which."""

    image: str
    expected_at: Path
    problem: ImageProblem
    samples: int
    annotations: str
    detail: str = ""
    sample_ids: tuple[str, ...] = ()


def read_train(file: Path, images: Path) -> Named:
    """Read training samples.

    Raises:
        DataError: as ``read_samples``.
    """
    counts: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    silent = 0
    for sample in read_samples(file):
        parts["text only" if sample.image is None else "with image"] += 1
        if sample.image is not None:
            counts[sample.image] += 1
        silent += not sample.teaches
    return Named(file, images, counts, sum(parts.values()), parts, silent=silent)


def read_prism(file: Path, images: Path) -> Named:
    """Read a JSONL file of PRISM questions.

    Raises:
        PrismError: as ``read_questions``.
        DataError: an image name that leaves its folder.
    """
    counts: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for question in read_questions(file):
        if question.image.startswith("/") or ".." in question.image.split("/"):
            raise DataError(
                f"{file}: question {question.question_id}: `image` is {question.image!r}, not a path below its folder",
                damaged(file, "mend the row"),
            )
        counts[question.image] += 1
        parts[question.question_id.split("/", 1)[0]] += 1
    return Named(file, images, counts, sum(parts.values()), parts, "prism")


def sample_ids(named: Named, images: Container[str]) -> dict[str, list[str]]:
    """Return the ids of the samples that show certain images; the file is read once more for it."""
    found: dict[str, list[str]] = {}
    if named.kind == "train":
        pairs = ((sample.image, sample.id) for sample in read_samples(named.file))
    else:
        pairs = ((question.image, question.question_id) for question in read_questions(named.file))
    for image, name in pairs:
        if image is not None and image in images:
            found.setdefault(image, []).append(name)
    return found
