"""Check that every image that annotations name is there and decodes.

`python -m safe_llava.data.layout --kind train --annotations FILE --images DIR --root DIR --out REPORT.csv
--summary OUT.json`. The report has a line an image that is wrong; it is written whether or not the
check passes, the summary only if it does.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import atomic_path, file_digest, read_json, read_jsonl, write_json
from safe_llava.core.progress import track
from safe_llava.data.images import fault_of
from safe_llava.prism.protocol import HAIR, Attribute

logger = logging.getLogger(__name__)
ATTRIBUTES = tuple(str(attribute) for attribute in Attribute)
SAMPLE_SIZE = 1000
POOL_PART = 10_000
SAMPLE_SEED = 20251120
NAMED_IN_ERROR = 5
LOGGED = 100  # a failed job's report is deleted by the workflow; its log stays
FETCH_AGAIN = "fetch it again: delete the file and its receipt, or name another mirror"
COLUMNS = ("image", "expected_at", "problem", "samples", "annotations", "detail")
Decode = Literal["all", "sample", "none"]


@dataclass(frozen=True)
class Problem:
    """One image that is wrong, and how many samples it costs."""

    image: str
    expected_at: Path
    problem: Literal["missing", "empty", "undecodable"]
    samples: int
    annotations: str
    detail: str = ""


@dataclass(frozen=True)
class Named:
    """What one file of annotations names.

    Args:
        file: the annotation file.
        images: folder that the names are relative to.
        counts: how many samples name each image.
        samples: how many there are in all.
        parts: how many of them belong to each attribute (PRISM) or have an image or none (train).
    """

    file: Path
    images: Path
    counts: Mapping[str, int]
    samples: int
    parts: Mapping[str, int]


def read_train(file: Path, images: Path) -> Named:
    """Read a JSON list of training samples.

    Raises:
        DataError: not a list of objects with conversations, or an image name that leaves its folder.
    """
    rows = read_json(file, FETCH_AGAIN)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file}: not a list of samples", FETCH_AGAIN)
    counts: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
            raise DataError(f"{file}: row {number} has no `conversations`", FETCH_AGAIN)
        if row.get("image") is None:
            parts["text only"] += 1
            continue
        counts[_image_name(row, file, number)] += 1
        parts["with image"] += 1
    return Named(file, images, counts, len(rows), parts)


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
        if attribute not in ATTRIBUTES:
            known = ", ".join(ATTRIBUTES)
            raise DataError(f"{file}: row {number}: `{attribute}` is no attribute ({known})", FETCH_AGAIN)
        counts[_image_name(row, file, number)] += 1
        parts[attribute] += 1
    return Named(file, images, counts, sum(parts.values()), parts)


def _image_name(row: Mapping[str, Any], file: Path, number: int) -> str:
    name = row["image"]
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise DataError(f"{file}: row {number}: `image` is {name!r}, not a path below its folder", FETCH_AGAIN)
    return name


def find_absent(named: Named, sizes: bool) -> list[Problem]:
    """Return the images that are not there, or (with ``sizes``) empty; one listing a folder, not one look a file."""
    wanted: dict[Path, list[str]] = {}
    for image in named.counts:
        wanted.setdefault((named.images / image).parent, []).append(image)
    problems = []
    for folder, images in track(wanted.items(), f"look for the images of {named.file.name}", len(wanted), "folders"):
        there = _listing(folder, {Path(image).name for image in images} if sizes else set())
        for image in images:
            size = there.get(Path(image).name)
            if size is None:
                problems.append(_problem(named, image, "missing", "" if folder.is_dir() else "its folder is missing"))
            elif size == 0:
                problems.append(_problem(named, image, "empty"))
    return problems


def _listing(folder: Path, measured: set[str]) -> dict[str, int]:
    """Return the names in a folder with the sizes of those to be measured; -1 where nobody asked."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size if entry.name in measured else -1 for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _problem(
    named: Named, image: str, problem: Literal["missing", "empty", "undecodable"], detail: str = ""
) -> Problem:
    return Problem(image, named.images / image, problem, named.counts[image], named.file.name, detail)


def find_undecodable(named: Named, absent: Iterable[Problem], decode: Decode, threads: int) -> list[Problem]:
    """Return the images that cannot be decoded, among all of them or a fixed draw."""
    gone = {problem.image for problem in absent}
    images = sorted(image for image in named.counts if image not in gone)
    if decode == "none":
        return []
    if decode == "sample" and len(images) > SAMPLE_SIZE:
        images = random.Random(SAMPLE_SEED).sample(images, SAMPLE_SIZE)
    with ThreadPoolExecutor(threads) as pool:
        # In parts: a pool holds everything that it was given at once.
        parts = (images[start : start + POOL_PART] for start in range(0, len(images), POOL_PART))
        faults = (fault for part in parts for fault in pool.map(lambda image: fault_of(named.images / image), part))
        seen = track(zip(images, faults, strict=True), f"decode images of {named.file.name}", len(images), "images")
        return [_problem(named, image, "undecodable", fault) for image, fault in seen if fault]


def check(named: Named, decode: Decode, threads: int = 1) -> list[Problem]:
    """Return what is wrong with the images of one file of annotations."""
    absent = find_absent(named, sizes=decode != "none")
    return absent + find_undecodable(named, absent, decode, threads)


def summarise(named: Sequence[Named], problems: Sequence[Problem], decode: Decode) -> dict[str, Any]:
    """Return the counts of the check, ready to be written as JSON."""
    # PRISM's three tasks name the same images: each is counted once.
    distinct = {(problem.expected_at, problem.problem) for problem in problems}
    kinds = Counter(problem for _, problem in distinct)
    return {
        "decode": decode,
        "images": len({one.images / image for one in named for image in one.counts}),
        "missing": kinds["missing"],
        "empty": kinds["empty"],
        "undecodable": kinds["undecodable"],
        "samples_lost": sum(problem.samples for problem in problems),
        "files": {
            one.file.name: {
                "samples": one.samples,
                "parts": dict(sorted(one.parts.items())),
                "images": len(one.counts),
                "sha256": file_digest(one.file),
            }
            for one in named
        },
    }


def write_report(path: Path, problems: Iterable[Problem], root: Path) -> None:
    """Write a line an image that is wrong; paths below ``root`` are given relative to it."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in problems:
            place = one.expected_at.relative_to(root) if one.expected_at.is_relative_to(root) else one.expected_at
            writer.writerow((one.image, place, one.problem, one.samples, one.annotations, one.detail))


def judge(
    summary: Mapping[str, Any], problems: Sequence[Problem], report: Path, missing: int, undecodable: int
) -> None:
    """Refuse a layout that is worse than what is tolerated.

    Raises:
        DataError: naming how many images are wrong, the first of them, and where the others are listed.
    """
    bad = summary["undecodable"] + summary["empty"]
    if summary["missing"] <= missing and bad <= undecodable:
        return
    folders = Counter(str(problem.expected_at.parent) for problem in problems)
    worst = "".join(f"\n  - {folder}: {count:,}" for folder, count in folders.most_common(NAMED_IN_ERROR))
    first = ", ".join(str(problem.expected_at) for problem in problems[:NAMED_IN_ERROR])
    raise DataError(
        f"{summary['missing']:,} images are missing and {bad:,} empty or undecodable of {summary['images']:,}; "
        f"they cost {summary['samples_lost']:,} samples (tolerated: {missing:,} missing, {undecodable:,} undecodable)"
        f"{worst}\n  first: {first}",
        f"read {report} or the log; fetch and unpack the sets of these folders again, or put the images there, or "
        "raise `data.tolerance` if training without these samples is meant",
    )


def _pair(files: Sequence[Path], images: Sequence[Path], root: Path) -> list[tuple[Path, Path]]:
    if len(images) not in (1, len(files)):
        raise DataError(
            f"--images names {len(images)} folders for {len(files)} files of annotations",
            "give one folder for all of them, or one for each, in the same order",
        )
    folders = list(images) * (len(files) if len(images) == 1 else 1)
    return [(file, root / folder) for file, folder in zip(files, folders, strict=True)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check that every image that annotations name is there and decodes.")
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, help="files that name images")
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[Path()], help="folders under --root that names are relative to"
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--kind", choices=("train", "prism"), required=True, help="what the annotations are")
    parser.add_argument("--out", type=Path, required=True, help="CSV: every image that is wrong; always written")
    parser.add_argument("--summary", type=Path, required=True, help="JSON: counts; written if the check passes")
    parser.add_argument("--decode", choices=("all", "sample", "none"), default="sample", help="which are decoded")
    parser.add_argument("--tolerance-missing", type=int, default=0, help="missing images that are let pass")
    parser.add_argument("--tolerance-undecodable", type=int, default=0, help="broken images that are let pass")
    parser.add_argument("--threads", type=int, default=1, help="images decoded at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Check one data set's images."""
    args = _parser().parse_args(argv)
    reader = read_train if args.kind == "train" else read_prism
    named = [reader(file, images) for file, images in _pair(args.annotations, args.images, args.root)]
    problems = [problem for one in named for problem in check(one, args.decode, args.threads)]
    write_report(args.out, problems, args.root)
    summary = summarise(named, problems, args.decode)
    for problem in problems[:LOGGED]:
        place = f"{problem.expected_at}: {problem.problem} {problem.detail}".rstrip()
        logger.warning("%s (%d samples of %s)", place, problem.samples, problem.annotations)
    judge(summary, problems, args.out, args.tolerance_missing, args.tolerance_undecodable)
    write_json(args.summary, summary)
    return None


if __name__ == "__main__":
    cli.run(main)
