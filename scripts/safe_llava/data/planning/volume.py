"""How much would be fetched and written, data set by data set, and whether there is room; nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_llava.config.data import DataConfig, ResolvedFile, ResolvedSet, Storage
from safe_llava.core.errors import DataError
from safe_llava.data.archives.adopted import is_adoptable
from safe_llava.data.download import receipts, segments, transfer
from safe_llava.data.download.receipts import UNPACKED_SUFFIX
from safe_llava.data.download.repository import standing
from safe_llava.data.download.room import Room, room

HEADINGS = ("set", "kind", "size", "to fetch", "becomes", "licence")
# A folder and a file that say what was fetched, and the locks.
BESIDE = 3
INDEX_FILES = 1


@dataclass(frozen=True)
class PlanLine:
    """What is known of one data set; bytes, None where nobody knows.

    Args:
        missing: how many of its files are not here.
        to_fetch: bytes that have to come.
        to_write: bytes that have to be written, unpacking among them.
        files: files that will be written; None where nobody knows.
        becomes: what it is on disk, in words.
    """

    name: str
    kind: str
    licence: str
    size: int | None
    missing: int
    to_fetch: int | None
    to_write: int | None
    files: int | None
    becomes: str


def plan_set(dataset: ResolvedSet, root: Path, storage: Storage = "extracted") -> PlanLine:
    """Compare a set with what lies under the data root."""
    if dataset.snapshot is not None:
        return _of_snapshot(dataset, root)
    there = {file.path for file in dataset.files if is_adoptable(file, root)}
    missing = [
        file for file in dataset.files if file.path not in there and receipts.stands(root / file.path, file) is None
    ]
    size = add(file_size(file, root) for file in dataset.files)
    to_fetch = add(_rest(file, root) for file in missing)
    packed = (
        [file for file in dataset.files if file.unpack and file.path not in there and not _unpacked(file, root)]
        if storage != "archive"
        else []
    )
    to_unpack = add(file_size(file, root) for file in packed)
    unpacked = add(_count(file) for file in packed)
    files = add([BESIDE * len(missing), unpacked])
    return PlanLine(
        name=dataset.set,
        kind=dataset.kind,
        licence=dataset.licence,
        size=size,
        missing=len(missing),
        to_fetch=to_fetch,
        # Images hardly shrink in an archive: unpacked they take about as much again.
        to_write=add([to_fetch, to_unpack]),
        files=files,
        becomes=_becomes(dataset, storage),
    )


def _of_snapshot(dataset: ResolvedSet, root: Path) -> PlanLine:
    row = dataset.snapshot
    assert row is not None
    note = standing(root / row.path, row)
    sizes: list[int | None] = [pin.size for pin in row.pins.values()] or [None]
    if note:
        sizes = [file["size"] for file in note["files"].values()]
    to_fetch = 0 if note else add(sizes)
    count = len(sizes) if note or row.pins else None
    return PlanLine(
        name=dataset.set,
        kind=dataset.kind,
        licence=dataset.licence,
        size=add(sizes),
        missing=0 if note else 1,
        to_fetch=to_fetch,
        to_write=to_fetch,
        files=0 if note else count,
        becomes=_files(count),
    )


def file_size(file: ResolvedFile, root: Path) -> int | None:
    """Return a file's size: as received, as pinned, or as others report it."""
    receipt = receipts.stands(root / file.path, file)
    if receipt is not None:
        return receipt.size
    known = [size for size in (file.size, file.reported_bytes) if isinstance(size, int)]
    return known[0] if known else None


def _rest(file: ResolvedFile, root: Path) -> int | None:
    """Return what is missing of a file; a part of it may be here."""
    size = file_size(file, root)
    part = (root / file.path).with_name(Path(file.path).name + ".part")
    have = transfer.size_of(part) + segments.ahead_bytes(part)
    return None if size is None else max(0, size - have)


def _unpacked(file: ResolvedFile, root: Path) -> bool:
    assert file.unpack is not None
    target = root / file.unpack.to
    return target.with_name(target.name + UNPACKED_SUFFIX).is_file()


def _count(file: ResolvedFile) -> int | None:
    wanted = file.unpack.files if file.unpack else 0
    return wanted if isinstance(wanted, int) else None


def _becomes(dataset: ResolvedSet, storage: Storage) -> str:
    archives = [file for file in dataset.files if file.unpack]
    rest = len(dataset.files) - len(archives)
    if not archives:
        return _files(rest) + " and the covers it names" * any(file.covers for file in dataset.files)
    if storage == "archive":
        return f"{_files(rest + (1 + INDEX_FILES) * len(archives))}, read from the archive"
    return _files(add([rest, *map(_count, archives)])) + ", unpacked"


def _files(count: int | None) -> str:
    return "unknown files" if count is None else f"{count:,} file{'s' * (count != 1)}"


def add(values: Iterable[int | None]) -> int | None:
    """Return the sum, or None where one of them is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def decimal_size(size: int | None) -> str:
    """Return a size in decimal units, as data sets publish theirs."""
    if size is None:
        return "unknown"
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def plan_table(lines: Sequence[PlanLine]) -> str:
    """Return the plan as aligned text, with the sum of what is known."""
    cells = [HEADINGS]
    for line in lines:
        wanted = decimal_size(line.to_fetch) if line.missing else "nothing"
        cells.append((line.name, line.kind, decimal_size(line.size), wanted, line.becomes, line.licence))
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*text, *_sums(lines)])


def _sums(lines: Sequence[PlanLine]) -> list[str]:
    fetched, unsized = known(lines, "to_fetch")
    written, _ = known(lines, "to_write")
    files, uncounted = known(lines, "files")
    return [
        f"to fetch: {decimal_size(fetched)}, and {unsized} sets of unknown size",
        f"to write: {decimal_size(written)} in {files:,} files with what is unpacked, "
        f"and {uncounted} sets of unknown count",
    ]


def known(lines: Iterable[PlanLine], field: str) -> tuple[int, int]:
    """Return the sum of what is known of a field, and how many sets say nothing of it."""
    values = [getattr(line, field) for line in lines]
    return sum(value or 0 for value in values), sum(value is None for value in values)


def lacking(lines: Sequence[PlanLine], there: Room) -> list[str]:
    """Return what the room lacks for what is known to be written, in words; none where it suffices."""
    wanted, files = known(lines, "to_write")[0], known(lines, "files")[0]
    faults = []
    if there.free_bytes is not None and wanted > there.free_bytes:
        faults.append(f"{decimal_size(wanted)} are to be written and {decimal_size(there.free_bytes)} are free")
    if there.free_files is not None and files > there.free_files:
        faults.append(f"{files:,} files are to be written and {there.free_files:,} inodes are free")
    return faults


def room_verdict(lines: Sequence[PlanLine], there: Room, root: Path) -> str:
    """Return the line that says whether there is room."""
    inodes = "no bound on files" if there.free_files is None else f"{there.free_files:,} inodes"
    free = f"room at {root}: {decimal_size(there.free_bytes)} and {inodes} ({there.said_by})"
    if faults := lacking(lines, there):
        return f"{free}: NOT ENOUGH, {'; '.join(faults)}"
    unsized = known(lines, "to_write")[1]
    return f"{free}: " + ("enough" if not unsized else f"enough for what is known; {unsized} sets are of unknown size")


def require_room(lines: Sequence[PlanLine], there: Room, root: Path) -> None:
    """Refuse to start what cannot end.

    Raises:
        DataError: disk or inodes do not suffice for what is known to be written.
    """
    if faults := lacking(lines, there):
        raise DataError(
            f"{root}: {'; '.join(faults)} ({there.said_by})",
            "make room, set `data.root` to a larger disk, set `data.storage: archive` (nothing is unpacked: half the "
            "bytes, two files an archive), or start nevertheless with `data.ignore_space: true`",
        )


def lines_of(
    data: DataConfig, sets: Iterable[ResolvedSet], storage: Mapping[str, Storage] | None = None
) -> list[PlanLine]:
    """Describe sets as the configuration stores them."""
    root = Path(data.root)
    return [plan_set(one, root, (storage or {}).get(one.set) or data.storage_of(one.set)) for one in sets]


def report(data: DataConfig, sets: Iterable[ResolvedSet]) -> tuple[str, list[PlanLine], Room]:
    """Return the whole plan as text, its lines, and the room."""
    lines, there = lines_of(data, sets), room(Path(data.root))
    return f"{plan_table(lines)}\n{room_verdict(lines, there, Path(data.root))}", lines, there
