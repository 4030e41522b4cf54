"""Fill a folder for a cluster without internet: `python -m safe_llava.data.bundle --out FOLDER [--configfile FILE …]`.

The folder receives everything that the configuration's selection needs from outside, laid out as a mirror
(`<host>/<path of the URL>`), and a manifest. Copied over and checked there with

    python -m safe_llava.data.bundle --check FOLDER

it is named in `mirrors:`, and with `data.mirrors_only: true` nothing else is ever asked. A run that was killed goes on
where it stopped; what already lies under `data.root` is taken from there.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from safe_llava.config.data import ResolvedFile, ResolvedSet, ResolvedSnapshot
from safe_llava.config.load import load
from safe_llava.config.selection import config_files, needed
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json, write_json
from safe_llava.data.download import receipts, repository
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.flags import add_source_flags, configured, sources_of
from safe_llava.data.download.hub import HUB_HOST
from safe_llava.data.download.repository import fetch_repository, standing
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.room import room
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.data.planning import volume

logger = logging.getLogger(__name__)
MANIFEST = "bundle.json"
NAMED = 5


def fill_bundle(
    sets: Sequence[ResolvedSet],
    folder: Path,
    root: Path,
    mirrors: Sequence[Mirror],
    policy: RetryPolicy,
    origin: bool = True,
) -> dict[str, Any]:
    """Bring every file of the sets into the folder and return the manifest.

    Args:
        sets: what is needed, expanded and pinned.
        folder: the mirror to fill.
        root: data root of this machine; what stands there is not fetched again.
        mirrors: where to ask first.
        policy: how long to bear with servers.
        origin: whether the origins may be asked.

    Raises:
        DataError: a file cannot be had, or a set cannot be bundled.
    """
    refuse_covers(sets)
    files: dict[str, dict[str, Any]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in sets:
        for row in dataset.files:
            files |= _file(row, folder, root, mirrors, policy, origin)
        if dataset.snapshot is not None:
            files |= _snapshot(dataset.snapshot, folder, root, mirrors, policy, origin)
        logger.info("%s: in the bundle", dataset.set)
    manifest = {"files": files, "sets": [dataset.set for dataset in sets]}
    write_json(folder / MANIFEST, manifest)
    return manifest


def refuse_covers(sets: Sequence[ResolvedSet]) -> None:
    """Refuse a set that is fetched cover by cover.

    Raises:
        DataError: naming it.
    """
    for row in (file for dataset in sets for file in dataset.files if file.covers):
        raise DataError(
            f"{row.path} (set {row.set}): its covers come one by one from their own addresses, and make no bundle",
            "bundle the archive of the committed row instead: leave config/ocr-vqa-covers.yaml out",
        )


def _file(
    row: ResolvedFile, folder: Path, root: Path, mirrors: Sequence[Mirror], policy: RetryPolicy, origin: bool
) -> dict[str, dict[str, Any]]:
    target = Mirror(str(folder)).locate(row.url)
    assert isinstance(target, Path)
    _take_over(row, root / row.path, target)
    receipt = fetch_file(row, target, mirrors, policy, origin)
    return {str(target.relative_to(folder)): {"size": receipt.size, "sha256": receipt.sha256}}


def _take_over(row: ResolvedFile, mine: Path, target: Path) -> None:
    """Link a file that stands under the data root into the bundle; a copy is made by whoever copies the bundle."""
    receipt = receipts.stands(mine, row)
    if receipt is None or receipts.stands(target, row) is not None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another file system: it is fetched, or copied from a mirror
        os.link(mine, target)
        receipts.write(target, receipt)


def _snapshot(
    row: ResolvedSnapshot, folder: Path, root: Path, mirrors: Sequence[Mirror], policy: RetryPolicy, origin: bool
) -> dict[str, dict[str, Any]]:
    base = folder / HUB_HOST
    target = base / row.prefix / "resolve" / row.revision
    if standing(root / row.path, row) and not standing(target, row):
        _link_snapshot(row, root / row.path, target)
    receipt = fetch_repository(row, target, mirrors, policy, origin)
    names = sorted(receipt["files"])
    api = base / "api" / f"{row.repo_type}s" / row.repo
    # The two answers of the hub that its clients ask for before they fetch anything.
    listing = {"id": row.repo, "sha": receipt["commit"], "siblings": [{"rfilename": name} for name in names]}
    write_json(api / "revision" / row.revision, listing)
    write_json(api / "tree" / row.revision, [_entry(name, receipt["files"][name]) for name in names])
    return {str((target / name).relative_to(folder)): _only(receipt["files"][name]) for name in names}


def _entry(name: str, file: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the hub's listing that holds each file to its sha256."""
    large = {"oid": file["sha256"], "size": file["size"], "pointerSize": 0}
    return {"type": "file", "path": name, "size": file["size"], "oid": "", "lfs": large}


def _only(file: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": file["size"], "sha256": file["sha256"]}


def _link_snapshot(row: ResolvedSnapshot, mine: Path, target: Path) -> None:
    """Link a repository that stands under the data root into the bundle, as a mirror that is asked first."""
    note = read_json(mine.with_name(mine.name + repository.SNAPSHOT_SUFFIX))
    target.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        for name in note["files"]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).unlink(missing_ok=True)
            os.link(mine / name, target / name)
        write_json(target.with_name(target.name + repository.SNAPSHOT_SUFFIX), note)


def check_bundle(folder: Path, jobs: int) -> int:
    """Compare every file of a bundle with its manifest and return how many there are.

    Raises:
        DataError: files are missing or other ones; the first few are named.
    """
    manifest = read_json(folder / MANIFEST, "name the folder that `python -m safe_llava.data.bundle --out` filled")
    try:
        rows = [(name, int(file["size"]), str(file["sha256"])) for name, file in manifest["files"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / MANIFEST}: not a bundle's manifest", "make the bundle again") from error
    with ThreadPoolExecutor(jobs) as pool:
        faults = [fault for fault in pool.map(lambda row: _fault(folder, *row), rows) if fault]
    if faults:
        raise DataError(
            f"{folder}: {len(faults)} of {len(rows)} files are not those of the bundle:\n  - "
            + "\n  - ".join(faults[:NAMED]),
            "copy them again",
        )
    return len(rows)


def _fault(folder: Path, name: str, size: int, sha256: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return f"{name}: outside the bundle"
    path = folder / name
    if not path.is_file():
        return f"{name}: missing"
    if path.stat().st_size != size:
        return f"{name}: {path.stat().st_size:,} bytes instead of {size:,}"
    return "" if receipts.digests(path, ["sha256"])["sha256"] == sha256 else f"{name}: its sha256 is another"


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except SourceError as error:  # an address that no folder can hold
        raise DataError(f"{folder}: {error.reason}", error.remedy or "correct the row's `url`") from error


def main(argv: Sequence[str] | None = None) -> int | None:
    """Fill or check a bundle."""
    parser = argparse.ArgumentParser(description="Fill a folder with all that a cluster without internet needs.")
    parser.add_argument("--out", type=Path, help="folder to fill")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare a folder with its manifest instead")
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="files laid over those of config/")
    parser.add_argument("--jobs", type=int, default=4, help="files that are checked at once")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    if (args.out is None) == (args.check is None):
        parser.error("one of --out and --check")
    if args.check:
        logger.info("%s: %d files, all as in the manifest", args.check, check_bundle(args.check, args.jobs))
        return None
    config = load(config_files(args.configfile))
    parser.set_defaults(**configured(config.data))
    args = parser.parse_args(argv)
    sets, root = needed(config), Path(config.data.root)
    lines = [volume.plan_set(one, args.out, "archive") for one in sets]
    if not config.data.ignore_space:
        volume.require_room(lines, room(args.out), args.out)
    mirrors, policy = sources_of(args, args.out, config.mirrors)
    with _named(args.out):
        manifest = fill_bundle(sets, args.out, root, mirrors, policy, not args.mirrors_only)
    total = sum(file["size"] for file in manifest["files"].values())
    logger.info("%s: %d files, %s", args.out, len(manifest["files"]), volume.decimal_size(total))
    logger.info("copy it, check it with --check, name it in `mirrors:` and set `data.mirrors_only: true`")
    return None


if __name__ == "__main__":
    cli.run(main)
