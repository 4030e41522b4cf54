"""What was fetched: a small file beside each one, with its source, size and checksum."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from safe_llava.config.base import Row
from safe_llava.config.data import Pin, ResolvedFile
from safe_llava.core.errors import FETCHED_SUFFIX, DataError
from safe_llava.core.files import CHUNK_BYTES, read_json, write_json
from safe_llava.data.download.hub import Stated, git_id
from safe_llava.data.download.meter import metered
from safe_llava.data.download.sources import SourceError

SUFFIX = FETCHED_SUFFIX
UNPACKED_SUFFIX = ".unpacked.json"  # of the note beside a folder that an archive filled
# What is not the same each time that the same bytes arrive.
CHANCE = {"fetched", "source", "commit", "hub"}


class Receipt(Row):
    """What one file was when it arrived."""

    set: str = Field(description="Data set row that it belongs to.")
    path: str = Field(description="Where it lies, under data.root.")
    url: str = Field(description="Its origin.")
    source: str = Field(description="Where it came from in fact.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Checksum of the bytes.")
    checked: list[str] = Field(description="What was known beforehand and agreed: size, sha256, md5; none: unpinned.")
    commit: str = Field("unknown", description="Revision of a file of the hub, as the hub named it.")
    hub: bool = Field(False, description="Whether the hub gave a checksum of its own, and it agreed.")
    fetched: str = Field(description="Time of arrival, UTC.")

    @property
    def pin(self) -> Pin:
        """The pin that holds later copies to this one."""
        return Pin(size=self.size, sha256=self.sha256)


def receipt_path(target: Path) -> Path:
    """Return the receipt's place: beside the file."""
    return target.with_name(target.name + SUFFIX)


def read(path: Path) -> Receipt | None:
    """Return a receipt, or None where there is none that can be read."""
    if not path.exists():
        return None
    try:
        return Receipt.model_validate(read_json(path))
    except (DataError, ValidationError):
        return None


def stands(target: Path, row: ResolvedFile) -> Receipt | None:
    """Return the receipt of a file that is there, whole, and the one that the row wants; else None."""
    receipt = read(receipt_path(target))
    if receipt is None or receipt.url != row.url or not target.is_file() or target.stat().st_size != receipt.size:
        return None
    wanted = (row.size, row.sha256)
    if any(want not in ("unknown", have) for want, have in zip(wanted, (receipt.size, receipt.sha256), strict=True)):
        return None
    return receipt


def make_receipt(path: Path, row: ResolvedFile, source: str, hub: Stated | None = None) -> Receipt:
    """Compare a file's bytes with what is known of it, and with what the hub said, and return its receipt.

    Raises:
        SourceError: the size or a checksum is another.
    """
    size = path.stat().st_size
    repin = (
        "if the publisher changed the file on purpose, take its pin out of `data.pins` (config/data.lock.yaml), fetch "
        "it again and pin it with `python -m safe_llava.data.pin`"
    )
    if row.size not in ("unknown", size):
        raise SourceError(f"{size:,} bytes where the pin says {row.size:,}", repin)
    seen = digests(path, ["sha256"] if row.md5 == "unknown" else ["sha256", "md5"])
    for name, want in (("sha256", row.sha256), ("md5", row.md5)):
        if want not in ("unknown", seen.get(name)):
            raise SourceError(f"{name} expected {want}, got {seen[name]}", repin)
    hub = hub or Stated()
    for name, hub_says, got in (("sha256", hub.sha256, seen["sha256"]), ("git id", hub.git_id, "")):
        if hub_says and hub_says != (got or git_id(path)):
            raise SourceError(f"the hub's {name} is {hub_says}, not that of what came", "run the same command again")
    known = [name for name in ("size", "sha256", "md5") if getattr(row, name) != "unknown"]
    return Receipt(
        set=row.set,
        path=row.path,
        url=row.url,
        source=source,
        size=size,
        sha256=seen["sha256"],
        checked=known,
        commit=hub.commit or "unknown",
        hub=bool(hub.sha256 or hub.git_id),
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write(target: Path, receipt: Receipt) -> None:
    """Write the receipt beside ``target``."""
    write_json(receipt_path(target), receipt.model_dump())


def digests(path: Path, algorithms: list[str]) -> dict[str, str]:
    """Return several checksums of a file in one reading."""
    made = {name: hashlib.new(name) for name in algorithms}
    label = f"verify {path.name.removesuffix('.part')}"
    with path.open("rb") as stream, metered(path.stat().st_size, label) as count:
        while chunk := stream.read(CHUNK_BYTES):
            for digest in made.values():
                digest.update(chunk)
            count(len(chunk))
    return {name: digest.hexdigest() for name, digest in made.items()}
