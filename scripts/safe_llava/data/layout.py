"""Check that every image that annotations name is there and decodes, in its folder or in an archive.

`python -m safe_llava.data.layout --kind train --annotations FILE --images DIR --root DIR --out REPORT.csv
--summary OUT.json`. The report has a line an image that is wrong; it is written whether or not the
check passes, the summary only if it does. Both ways to store images give the same summary.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import file_digest, read_json, write_json, write_text
from safe_llava.core.progress import track
from safe_llava.data.pages.layout import layout_page
from safe_llava.data.samples.named import (
    ATTRIBUTE_FOLDERS,
    ImageProblem,
    Named,
    Problem,
    read_prism,
    read_train,
    sample_ids,
)
from safe_llava.formats.tables import write_table
from safe_llava.images import store as imagefiles
from safe_llava.images.reader import fault_of

logger = logging.getLogger(__name__)
SAMPLE_SIZE = 1000
POOL_PART = 10_000
SAMPLE_SEED = 20251120
NAMED_IN_ERROR = 5
LOGGED = 100  # a failed job's report is deleted by the workflow; its log stays
MISSING_FOLDER = "its folder is missing"
Decode = Literal["all", "sample", "none"]


def find_absent(named: Named, sizes: bool) -> list[Problem]:
    """Return the images that are not there, or (with ``sizes``) empty; one listing a folder, not one look a file."""
    wanted: dict[str, list[str]] = {}
    for image in named.counts:
        wanted.setdefault(image.rpartition("/")[0], []).append(image)
    problems = []
    for name, images in track(wanted.items(), f"look for the images of {named.file.name}", len(wanted), "folders"):
        folder = named.images / name
        start = len(name) + 1 if name else 0
        there = imagefiles.folder_listing(folder, {image[start:] for image in images} if sizes else frozenset())
        why = MISSING_FOLDER if there is None else _why_missing(folder)
        for image in images:
            size = None if there is None else there.get(image[start:])
            if size is None:
                problems.append(_problem(named, image, "missing", why))
            elif size == 0:
                problems.append(_problem(named, image, "empty"))
    return problems


def _why_missing(folder: Path) -> str:
    hidden = imagefiles.hidden_index(folder)
    return "" if hidden is None else f"its folder is on disk, so {hidden.name} is not asked: remove the folder"


def find_absent_folders(named: Named) -> list[Problem]:
    """Return those of the five attributes that have no folder, where PRISM's images lie in folders by attribute."""
    if named.kind != "prism" or not any(image.split("/")[0] in ATTRIBUTE_FOLDERS for image in named.counts):
        return []
    absent = [name for name in ATTRIBUTE_FOLDERS if not imagefiles.is_folder(named.images / name)]
    return [
        Problem(name, named.images / name, "missing", 0, named.file.name, "the folder of an attribute of PRISM")
        for name in absent
    ]


def _problem(named: Named, image: str, problem: ImageProblem, detail: str = "") -> Problem:
    return Problem(image, named.images / image, problem, named.counts[image], named.file.name, detail)


def find_undecodable(named: Named, absent: Iterable[Problem], decode: Decode, threads: int) -> list[Problem]:
    """Return the images that cannot be decoded, among all of them or a fixed draw."""
    if decode == "none":
        return []
    gone = {problem.image for problem in absent}
    images = sorted(image for image in named.counts if image not in gone)
    if decode == "sample" and len(images) > SAMPLE_SIZE:
        images = random.Random(SAMPLE_SEED).sample(images, SAMPLE_SIZE)
    with ThreadPoolExecutor(threads) as pool:
        # In parts: a pool holds everything that it was given at once.
        parts = (images[start : start + POOL_PART] for start in range(0, len(images), POOL_PART))
        faults = (fault for part in parts for fault in pool.map(lambda image: fault_of(named.images / image), part))
        seen = track(zip(images, faults, strict=True), f"decode images of {named.file.name}", len(images), "images")
        return [_problem(named, image, "undecodable", fault) for image, fault in seen if fault]


def find_problems(named: Named, decode: Decode, threads: int = 1) -> list[Problem]:
    """Return what is wrong with the images of one file of annotations, and which samples show them."""
    absent = find_absent(named, sizes=decode != "none")
    problems = find_absent_folders(named) + absent + find_undecodable(named, absent, decode, threads)
    ids = sample_ids(named, {problem.image for problem in problems}) if problems else {}
    return [replace(one, sample_ids=tuple(ids.get(one.image, ()))) for one in problems]


def check_counts(named: Sequence[Named], root: Path, table: Mapping[str, Any]) -> None:
    """Compare the numbers of samples with the published ones.

    Args:
        table: ``samples`` has for each path below ``root`` how many are ``published``, and if the file is ``pinned``.

    Raises:
        DataError: they differ, and no pin says that this is the file that is wanted.
    """
    for one in named:
        row = table.get("samples", {}).get(str(one.file.relative_to(root)) if one.file.is_relative_to(root) else "", {})
        if row.get("published", "unknown") in ("unknown", one.samples):
            continue
        said = f"{one.file}: {one.samples:,} samples where {row['published']:,} are published"
        if not row.get("pinned"):
            raise DataError(said, "if this copy is the right one, pin it or correct `samples` of its row")
        logger.info("%s; it is the file that is pinned", said)


def summarise_layout(
    named: Sequence[Named],
    problems: Sequence[Problem],
    decode: Decode,
    archives: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the counts of the check, ready to be written as JSON."""
    # PRISM's three tasks name the same images: each is counted once.
    distinct = {(problem.expected_at, problem.problem) for problem in problems}
    kinds = Counter(problem for _, problem in distinct)
    images: dict[Path, set[str]] = {}
    for one in named:
        images.setdefault(one.images, set()).update(one.counts)
    return {
        "decode": decode,
        "images": sum(len(names) for names in images.values()),
        "missing": kinds["missing"],
        "empty": kinds["empty"],
        "undecodable": kinds["undecodable"],
        "samples_lost": sum(problem.samples for problem in problems),
        "archives": dict(archives or {}),
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


def count_archives(receipts: Sequence[Path], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return for each archive's folder how many files it has, and how many are published; both kinds of receipts do."""
    counted = {}
    for path in receipts:
        receipt = read_json(path, "run the workflow: it unpacks or indexes the archive again")
        published = table.get("files", {}).get(receipt["to"], "unknown")
        counted[receipt["to"]] = {"files": receipt["files"], "published": published}
        if published not in ("unknown", receipt["files"]):
            logger.info("%s: %d files where %d are published", receipt["to"], receipt["files"], published)
    return counted


def require_layout(
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
        f"read {report} or the log; delete these folders and their receipts in results/data/unpacked and run the same "
        "command again (docs/data.md, When something goes wrong), or put the images there, or "
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


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check that every image that annotations name is there and decodes.")
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, help="files that name images")
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[Path()], help="folders under --root that names are relative to"
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--kind", choices=("train", "prism"), required=True, help="what the annotations are")
    parser.add_argument("--table", type=Path, help="JSON: published numbers of samples and files")
    parser.add_argument("--receipts", type=Path, nargs="*", default=[], help="receipts of the images' archives")
    parser.add_argument("--out", type=Path, required=True, help="CSV: every image that is wrong; always written")
    parser.add_argument("--log-page", type=Path, help="the same as a page; always written")
    parser.add_argument("--page", type=Path, help="the same page; written if the check passes")
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
    table = read_json(args.table) if args.table else {}
    named = [reader(file, images) for file, images in _pair(args.annotations, args.images, args.root)]
    check_counts(named, args.root, table)
    problems = [problem for one in named for problem in find_problems(one, args.decode, args.threads)]
    write_table(args.out, Problem, (replace(one, expected_at=_below(one.expected_at, args.root)) for one in problems))
    summary = summarise_layout(named, problems, args.decode, count_archives(args.receipts, table))
    silent = {one.file.name: one.silent for one in named}
    text = layout_page(summary, problems, args.root, table, silent)
    for name, count in silent.items():
        if count:
            logger.warning("%s: %d samples teach nothing: no answer in them has text", name, count)
    if args.log_page:
        write_text(args.log_page, text)
    for problem in problems[:LOGGED]:
        place = f"{problem.expected_at}: {problem.problem} {problem.detail}".rstrip()
        logger.warning("%s (%d samples of %s)", place, problem.samples, problem.annotations)
    require_layout(summary, problems, args.out, args.tolerance_missing, args.tolerance_undecodable)
    if args.page:
        write_text(args.page, text)
    write_json(args.summary, summary)
    return None


if __name__ == "__main__":
    cli.run(main)
