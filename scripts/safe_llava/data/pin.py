"""Pin what was fetched: `python -m safe_llava.data.pin --lock config/data.lock.yaml [--root DIR]`.

Every receipt under the data root becomes a line of the lock file: bytes and sha256 of a file, the commit of a
repository of the hub. With `--ask`, nothing is fetched: the hub is asked for its own checksums and commits, other
servers for sizes; the sha256 of those stays `unknown` until the file was fetched once. With `--check`, nothing is
written: what differs from the lock is an error. A pin that is there stays: to change one, name its set with `--update`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from safe_llava.checkpoints.whole import check_folder, file_fault
from safe_llava.config.data import Pin
from safe_llava.config.load import load
from safe_llava.config.selection import config_files, needed
from safe_llava.core import cli
from safe_llava.core.errors import CheckpointError, DataError
from safe_llava.core.files import read_json, write_text
from safe_llava.data.download import receipts, remote
from safe_llava.data.download.flags import add_source_flags, configured, sources_of
from safe_llava.data.download.receipts import UNPACKED_SUFFIX
from safe_llava.data.download.remote import Seen
from safe_llava.data.download.repository import SNAPSHOT_SUFFIX as SNAPSHOT_SUFFIX

logger = logging.getLogger(__name__)
HEADER = """\
# What every fetched file was when it was first seen, by its address without the scheme: bytes and sha256.
# Written by `python -m safe_llava.data.pin`; a later download that differs is refused.
"""
NOTES = (receipts.SUFFIX, SNAPSHOT_SUFFIX, UNPACKED_SUFFIX)


@dataclass
class Lock:
    """What the lock file holds."""

    pins: dict[str, Pin] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)


def collect(root: Path) -> Seen:
    """Return what the receipts below a data root say: a pin for every file, with its set, and the hub's commits."""
    seen = Seen()
    counts: dict[str, int] = {}
    for path in _notes(root):
        if path.name.endswith(UNPACKED_SUFFIX):
            note = read_json(path, "delete it and unpack the archive again")
            counts[note["identity"]["sha256"]] = note["files"]
        elif path.name.endswith(receipts.SUFFIX):
            receipt = receipts.read(path)
            if receipt is None:
                raise DataError(f"{path}: not a receipt", "delete it and fetch the file again")
            _check_whole(
                [path.with_name(path.name.removesuffix(receipts.SUFFIX))], f"delete {path}, then fetch it again"
            )
            seen.add(receipt.set, receipt.url, receipt.pin, receipt.commit)
        else:
            note = read_json(path, "delete it and fetch the repository again")
            folder = path.with_name(path.name.removesuffix(SNAPSHOT_SUFFIX))
            remedy = f"delete {path} and the folder, then fetch the repository again"
            _check_whole([folder / name for name in note["files"]], remedy)
            if note.get("repo_type") == "model" and (folder / "config.json").is_file():
                try:
                    check_folder(folder)
                except CheckpointError as error:
                    raise DataError(error.message, remedy) from error
            for name, file in note["files"].items():
                pin = Pin(size=file["size"], sha256=file["sha256"])
                seen.add(note["set"], note["url"] + name, pin, note["commit"])
    for key, (name, pin) in seen.pins.items():
        if pin.sha256 in counts:
            seen.pins[key] = name, pin.model_copy(update={"files": counts[pin.sha256]})
    return seen


def _check_whole(files: Sequence[Path], remedy: str) -> None:
    for file in files:
        if file.is_file() and (fault := file_fault(file)):
            raise DataError(f"{file}: {fault}", remedy)


def _notes(root: Path) -> Iterator[Path]:
    """Yield receipts; folders that an archive or a repository filled have none inside and are passed over."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not {name + UNPACKED_SUFFIX, name + SNAPSHOT_SUFFIX} & set(files)
        )
        for name in sorted(files):
            if name.endswith(NOTES):
                yield Path(folder) / name


def read_lock(path: Path) -> Lock:
    """Return what a lock file holds; nothing where there is no file yet.

    Raises:
        DataError: the file is not of the form that this step writes.
    """
    if not path.exists():
        return Lock()
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        pins = {key: Pin.model_validate(pin) for key, pin in tree["data"]["pins"].items()}
        return Lock(pins, {str(key): str(value) for key, value in tree["data"].get("revisions", {}).items()})
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(f"{path}: not a lock file: {error}", "correct it, or restore it from the repository") from error


def merge_pins(old: Lock, seen: Seen, update: Sequence[str] = ()) -> Lock:
    """Return the lock with what was seen added; the pins of the sets in ``update`` may change.

    Raises:
        DataError: a file is another than its pin and its set is not in ``update``.
    """
    if unknown := sorted(set(update) - {name for name, _ in seen.pins.values()}):
        raise DataError(f"--update {unknown[0]}: no file of this set was fetched", "give the name of a fetched set")
    merged = Lock(dict(old.pins), dict(old.revisions))
    for key, (name, pin) in seen.pins.items():
        before = old.pins.get(key)
        if before is not None and not agree(before, pin) and name not in update:
            raise DataError(
                f"{key} (set {name}) is pinned as sha256 {before.sha256}, {before.size:,} bytes, "
                f"and is sha256 {pin.sha256}, {pin.size:,} bytes",
                f"find out why it changed; then run this with --update {name}",
            )
        merged.pins[key] = both(before, pin) if before is not None and agree(before, pin) else pin
    for repository, (name, commit) in seen.revisions.items():
        if repository not in old.revisions or name in update:
            merged.revisions[repository] = commit
    return merged


def agree(one: Pin, other: Pin) -> bool:
    """Tell whether two pins may be of the same bytes."""
    return one.size == other.size and (one.sha256 == other.sha256 or "unknown" in (one.sha256, other.sha256))


def both(old: Pin, new: Pin) -> Pin:
    """Return what two pins of the same bytes say together."""
    known = {key: value for key, value in new.model_dump().items() if value != "unknown"}
    return old.model_copy(update=known)


def lock_differences(lock: Lock, seen: Seen) -> list[str]:
    """Return in words what was seen and is not as the lock says."""
    faults = list(seen.unanswered)
    for key, (name, pin) in seen.pins.items():
        before = lock.pins.get(key)
        if before is None:
            faults.append(f"{key} (set {name}): not pinned")
        elif not agree(before, pin):
            faults.append(f"{key} (set {name}): sha256 {pin.sha256}, {pin.size:,} bytes; pinned as {before.sha256}")
    for repository, (_, commit) in seen.revisions.items():
        if lock.revisions.get(repository, commit) != commit:
            faults.append(f"{repository}: is at {commit}, pinned at {lock.revisions[repository]}")
    return faults


def lock_text(lock: Lock) -> str:
    """Return the lock file's text, sorted by address."""
    pins = "".join(f"    {json.dumps(key)}: {_flow(lock.pins[key])}\n" for key in sorted(lock.pins))
    text = f"{HEADER}data:\n  pins:\n{pins}" if pins else f"{HEADER}data:\n  pins: {{}}\n"
    if lock.revisions:
        rows = sorted(lock.revisions.items())
        text += "  revisions:\n" + "".join(f"    {json.dumps(key)}: {json.dumps(value)}\n" for key, value in rows)
    return text


def _flow(pin: Pin) -> str:
    # One line a file: a difference between two versions of the lock then shows whole pins.
    fields = pin.model_dump(exclude_defaults=True)
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in fields.items()) + "}"


def _asked(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> Seen:
    config = load(config_files(parser.parse_args(argv).configfile))
    parser.set_defaults(**configured(config.data))
    args = parser.parse_args(argv)
    mirrors, policy = sources_of(args, Path(config.data.root), config.mirrors)
    return remote.ask(needed(config), mirrors, policy, origin=not args.mirrors_only)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Write or check the lock file."""
    parser = argparse.ArgumentParser(description="Pin size and sha256 of every file, and the hub's commits.")
    parser.add_argument("--root", type=Path, help="folder of all data, whose receipts are pinned")
    parser.add_argument("--ask", action="store_true", help="ask the servers instead; nothing is fetched")
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="with --ask: files laid over config/")
    parser.add_argument("--lock", type=Path, required=True, help="lock file to write, a configuration file")
    parser.add_argument("--update", action="append", default=[], metavar="SET", help="set whose pins may change")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is not as pinned")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    if (args.root is None) == (not args.ask):
        parser.error("one of --root and --ask")
    if args.root and not args.root.is_dir():
        raise DataError(f"{args.root}: no such folder", "give the data root with --root")
    old, seen = read_lock(args.lock), _asked(parser, argv) if args.ask else collect(args.root)
    if args.check:
        if faults := lock_differences(old, seen):
            raise DataError(f"{args.lock}: " + "\n  ".join(faults), "run this without --check, or find out why")
        logger.info("%s: %d files, all as pinned", args.lock, len(seen.pins))
        return None
    merged = merge_pins(old, seen, args.update)
    write_text(args.lock, lock_text(merged))
    changed = sum(old.pins.get(key) != pin for key, pin in merged.pins.items())
    logger.info("%s: %d pins, %d of them new or changed", args.lock, len(merged.pins), changed)
    return None


if __name__ == "__main__":
    cli.run(main)
