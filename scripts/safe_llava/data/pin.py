"""Pin what was fetched: `python -m safe_llava.data.pin --root DIR --lock config/data.lock.yaml`.

Every receipt under the data root becomes a line of the lock file. A pin that is there stays: to
change one, name its set with `--update`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from safe_llava.config.data import Pin, pin_key
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json, write_text
from safe_llava.data import receipts, snapshot, unpack

logger = logging.getLogger(__name__)
HEADER = """\
# What every fetched file was when it was first seen, by its address without the scheme: bytes and sha256.
# Written by `python -m safe_llava.data.pin`; a later download that differs is refused.
"""


def collect(root: Path) -> dict[str, tuple[str, Pin]]:
    """Return set and pin of every file with a receipt, by the key of its address."""
    found: dict[str, tuple[str, Pin]] = {}
    for path in _notes(root):
        if path.name.endswith(receipts.SUFFIX):
            receipt = receipts.read(path)
            if receipt is None:
                raise DataError(f"{path}: not a receipt", "delete it and fetch the file again")
            found[pin_key(receipt.url)] = (receipt.set, receipt.pin)
        else:
            note = read_json(path, "delete it and fetch the repository again")
            for name, file in note["files"].items():
                pin = Pin(size=file["size"], sha256=file["sha256"])
                found[pin_key(note["url"]) + name] = (note["set"], pin)
    return found


def _notes(root: Path) -> Iterator[Path]:
    """Yield receipts; folders that an archive or a repository filled have none inside and are passed over."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not {name + unpack.SUFFIX, name + snapshot.SUFFIX} & set(files)
        )
        for name in sorted(files):
            if name.endswith((receipts.SUFFIX, snapshot.SUFFIX)):
                yield Path(folder) / name


def read_lock(path: Path) -> dict[str, Pin]:
    """Return the pins of a lock file; none where there is no file yet.

    Raises:
        DataError: the file is not of the form that this step writes.
    """
    if not path.exists():
        return {}
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {key: Pin.model_validate(pin) for key, pin in tree["data"]["pins"].items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(f"{path}: not a lock file: {error}", "correct it, or restore it from the repository") from error


def merge(old: Mapping[str, Pin], found: Mapping[str, tuple[str, Pin]], update: Sequence[str] = ()) -> dict[str, Pin]:
    """Return the old pins with the found ones added; those of the sets in ``update`` may change.

    Raises:
        DataError: a found file is another than its pin and its set is not in ``update``.
    """
    if unknown := sorted(set(update) - {name for name, _ in found.values()}):
        raise DataError(f"--update {unknown[0]}: no file of this set was fetched", "give the name of a fetched set")
    merged = dict(old)
    for key, (name, pin) in found.items():
        before = old.get(key)
        if before is not None and (before.size, before.sha256) == (pin.size, pin.sha256):
            continue
        if before is not None and name not in update:
            raise DataError(
                f"{key} (set {name}) is pinned as sha256 {before.sha256} and was fetched as {pin.sha256}",
                f"find out why it changed; then run this with --update {name}",
            )
        merged[key] = pin
    return merged


def lock_text(pins: Mapping[str, Pin]) -> str:
    """Return the lock file's text, sorted by address."""
    rows = "".join(f"    {json.dumps(key)}: {_flow(pins[key])}\n" for key in sorted(pins))
    return f"{HEADER}data:\n  pins:\n{rows}" if rows else f"{HEADER}data:\n  pins: {{}}\n"


def _flow(pin: Pin) -> str:
    # One line a file: a difference between two versions of the lock then shows whole pins.
    fields = pin.model_dump(exclude_defaults=True)
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in fields.items()) + "}"


def main(argv: Sequence[str] | None = None) -> int | None:
    """Write the lock file."""
    parser = argparse.ArgumentParser(description="Pin size and sha256 of every file that was fetched.")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--lock", type=Path, required=True, help="lock file to write, a configuration file")
    parser.add_argument("--update", action="append", default=[], metavar="SET", help="set whose pins may change")
    args = parser.parse_args(argv)
    if not args.root.is_dir():
        raise DataError(f"{args.root}: no such folder", "give the data root with --root")
    old, found = read_lock(args.lock), collect(args.root)
    merged = merge(old, found, args.update)
    write_text(args.lock, lock_text(merged))
    changed = sum(old.get(key) != pin for key, pin in merged.items())
    logger.info("%s: %d pins, %d of them new or changed", args.lock, len(merged), changed)
    return None


if __name__ == "__main__":
    cli.run(main)
