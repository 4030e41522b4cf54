"""How the pieces of a training state reach files and come back, under ``torch.distributed.checkpoint``.

The library plans who writes and reads what, over any numbers of processes, and writes beside the training; here is its
storage: plain fp32 values in one file for each thread of a process (a file system lets one thread at a time write to a
file), with a CRC-32 for every piece. The library's own storage has no checksums and keeps its index as a pickle.
"""

from __future__ import annotations

import heapq
import os
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    LoadPlan,
    LoadPlanner,
    Metadata,
    ReadItem,
    SavePlan,
    SavePlanner,
    StorageReader,
    StorageWriter,
    WriteItem,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from safe_llava.train.loop.deepspeed import cpu_threads
from safe_llava.train.loop.state import Piece, split

ELEMENT = 4  # bytes
READ_AT_ONCE = 1 << 26  # bytes that a thread reads for a GPU at a time
HASH_AT_ONCE = 1 << 24  # bytes that a thread writes or reads, and hashes while a cache has them
SMALLEST_FILE = 1 << 26  # bytes below which another file is worth no thread
MOST_THREADS = 16
PiecesByName = dict[str, list[Piece]]


def threads() -> int:
    """Return how many threads of this process read and write."""
    return min(MOST_THREADS, cpu_threads())


def by_name(pieces: Sequence[Piece]) -> PiecesByName:
    """Return pieces as the library takes them, each small enough for one thread."""
    state: PiecesByName = {}
    for piece in split(pieces):
        state.setdefault(piece.name, []).append(piece)
    return state


@dataclass(frozen=True)
class StoredPiece:
    """Where a piece lies: ``length`` elements from ``begin`` on of its state, at a byte ``offset`` of a file."""

    begin: int
    length: int
    file: str
    offset: int
    crc32: int


@dataclass(frozen=True)
class Index:
    """What a checkpoint holds, by the name of a state: its elements in all, and its pieces."""

    totals: Mapping[str, int]
    pieces: Mapping[str, Sequence[StoredPiece]]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Index:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: a state is not there from its first element to its last.
        """
        totals = {name: int(value["elements"]) for name, value in values.items()}
        pieces = {name: [StoredPiece(*piece) for piece in value["pieces"]] for name, value in values.items()}
        for name, stored in pieces.items():
            if sum(piece.length for piece in stored) != totals[name]:
                raise ValueError(f"{name} is not whole")
        return cls(totals, pieces)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        listed = {name: [[*vars(piece).values()] for piece in stored] for name, stored in self.pieces.items()}
        return {name: {"elements": self.totals[name], "pieces": stored} for name, stored in listed.items()}

    @property
    def elements(self) -> int:
        """Elements in all."""
        return sum(self.totals.values())


def verify(folder: Path, index: Index, rank: int, world_size: int) -> bool:
    """Say whether every ``world_size``-th piece, from ``rank`` on, is as it was written."""
    mine = [piece for stored in index.pieces.values() for piece in stored][rank::world_size]
    own = threading.local()

    def sound(piece: StoredPiece) -> bool:
        if not hasattr(own, "buffer"):  # one a thread: memory that is taken anew for each piece costs more than reading
            own.buffer = memoryview(bytearray(HASH_AT_ONCE))
        crc, left = 0, ELEMENT * piece.length
        with (folder / piece.file).open("rb", buffering=0) as stream:
            stream.seek(piece.offset)
            while left:
                count = stream.readinto(own.buffer[: min(left, HASH_AT_ONCE)])
                if not count:
                    return False
                crc = zlib.crc32(own.buffer[:count], crc)
                left -= count
        return crc == piece.crc32

    with ThreadPoolExecutor(threads()) as pool:
        return all(pool.map(sound, mine))


def _bytes(values: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, without a copy."""
    array: Any = values.detach().numpy()
    return memoryview(array).cast("B")


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` to a file from ``offset`` on."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _write_hashed(descriptor: int, data: memoryview, offset: int) -> int:
    """Write ``data`` to a file from ``offset`` on; return its CRC-32."""
    crc = 0
    for at in range(0, len(data), HASH_AT_ONCE):
        part = data[at : at + HASH_AT_ONCE]
        crc = zlib.crc32(part, crc)
        write_at(descriptor, part, offset + at)
    return crc


def _size(item: WriteItem) -> int:
    """Return the bytes of a piece; the item's own size is that of the whole state."""
    assert item.tensor_data is not None
    return ELEMENT * item.tensor_data.chunk.sizes[0]


def share_out(items: Sequence[WriteItem], files: int) -> list[list[WriteItem]]:
    """Distribute pieces over files of about equal size: the largest first, each to the smallest file so far."""
    shares: list[list[WriteItem]] = [[] for _ in range(files)]
    sizes = [(0, number) for number in range(files)]
    for item in sorted(items, key=_size, reverse=True):
        size, number = sizes[0]
        shares[number].append(item)
        heapq.heapreplace(sizes, (size + _size(item), number))
    return shares


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class ShardSavePlanner(DefaultSavePlanner):
    """Plans to write the pieces that a process has."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._values: dict[MetadataIndex, torch.Tensor] = {}

    def create_local_plan(self) -> SavePlan:
        """Return one item a piece."""
        items = []
        for piece in (piece for pieces in self.state_dict.values() for piece in pieces):
            index = MetadataIndex(piece.name, torch.Size([piece.begin]))
            chunk = ChunkStorageMetadata(torch.Size([piece.begin]), torch.Size(piece.values.shape))
            properties = TensorProperties(dtype=piece.values.dtype)
            data = TensorWriteData(chunk, properties, torch.Size([piece.total]))
            items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
            self._values[index] = piece.values
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """Return the values of a piece."""
        return self._values[write_item.index]


class ShardLoadPlanner(DefaultLoadPlanner):
    """Plans to fill the pieces that a process has, from those that were written."""

    def set_up_planner(
        self, state_dict: PiecesByName, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the pieces to fill."""
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator
        self._values = {(p.name, p.begin): p.values for pieces in state_dict.values() for p in pieces}

    def create_local_plan(self) -> LoadPlan:
        """Return what has to be read."""
        assert self.metadata is not None
        items: list[ReadItem] = []
        for name, pieces in self.state_dict.items():
            stored = self.metadata.state_dict_metadata.get(name)
            if not isinstance(stored, TensorStorageMetadata) or stored.size != torch.Size([pieces[0].total]):
                raise ValueError(f"the checkpoint has no {name} of {pieces[0].total} elements")
            chunks = [ChunkStorageMetadata(torch.Size([p.begin]), torch.Size(p.values.shape)) for p in pieces]
            items += create_read_items_for_chunk_list(name, stored, chunks)
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Return where the values go."""
        assert read_item.dest_index.offset is not None
        values = self._values[read_item.dest_index.fqn, read_item.dest_index.offset[0]]
        return values.narrow(0, read_item.dest_offsets[0], read_item.lengths[0])


class ShardWriter(StorageWriter):
    """Writes the pieces of a process into files of its own, one a thread.

    Args:
        folder: made anew by the first process.
        commit: called by the first process when every process has written, with what the files hold.
    """

    def __init__(self, folder: Path, rank: int, commit: Callable[[Index], None]) -> None:
        self._folder, self._name, self._commit = folder, f"rank-{rank:05d}", commit

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a writer serves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make the folder; every process writes behind the plan, when it is there."""
        if is_coordinator:
            self._folder.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans as they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the pieces, each thread its own file, and put them on disk."""
        files = max(1, min(threads(), sum(map(_size, plan.items)) // SMALLEST_FILE))
        names = [f"{self._name}-{number}.bin" if number else f"{self._name}.bin" for number in range(files)]

        def write(name: str, items: Sequence[WriteItem]) -> list[WriteResult]:
            results, end = [], 0
            descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                for item in items:
                    held: Any = planner.resolve_data(item)
                    values = _bytes(held.to("cpu"))
                    crc = _write_hashed(descriptor, values, end)
                    results.append(WriteResult(item.index, len(values), (name, end, crc)))
                    end += len(values)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return results

        with ThreadPoolExecutor(files) as pool:
            written = pool.map(write, names, share_out(plan.items, files))
            return _done([result for results in written for result in results])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Hand on what was written."""
        pieces: dict[str, list[StoredPiece]] = {}
        for result in (result for written in results for result in written):
            assert result.index.offset is not None
            name, (file, offset, crc) = result.index.fqn, result.storage_data
            length = result.size_in_bytes // ELEMENT
            pieces.setdefault(name, []).append(StoredPiece(result.index.offset[0], length, file, offset, crc))
        totals = {}
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata)
            totals[name] = stored.size[0]
        self._commit(Index(totals, pieces))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Say that a path is none of this writer's business."""
        return False


class ShardReader(StorageReader):
    """Reads pieces of a verified checkpoint into their places, on a GPU through pinned memory."""

    def __init__(self, folder: Path, index: Index) -> None:
        self._folder, self._index = folder, index
        self._stored = {
            MetadataIndex(name, torch.Size([piece.begin])): piece
            for name, stored in index.pieces.items()
            for piece in stored
        }
        self._bounce = threading.local()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a reader serves one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index in the library's form."""
        found: dict[str, Any] = {}
        for name, stored in self._index.pieces.items():
            chunks = [ChunkStorageMetadata(torch.Size([p.begin]), torch.Size([p.length])) for p in stored]
            size = torch.Size([self._index.totals[name]])
            found[name] = TensorStorageMetadata(TensorProperties(dtype=torch.float32), size, chunks)
        return Metadata(found)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the index is known."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read all, several pieces at a time."""

        def read(item: ReadItem) -> None:
            stored, target = self._stored[item.storage_index], planner.resolve_tensor(item).detach()
            offset = stored.offset + ELEMENT * item.storage_offsets[0]
            with (self._folder / stored.file).open("rb", buffering=0) as stream:
                stream.seek(offset)
                for part in target.split(READ_AT_ONCE // ELEMENT):
                    self._read_into(stream, part)

        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(read, plan.items))
        return _done(None)

    def _read_into(self, stream: Any, target: torch.Tensor) -> None:
        place = target if target.device.type == "cpu" else self._buffer(target.device)[: len(target)]
        data = _bytes(place)
        while data:
            count = stream.readinto(data)
            if not count:
                raise EOFError(f"{stream.name} ended while it was read")
            data = data[count:]
        if place is not target:
            target.copy_(place)  # waits: the buffer is used again

    def _buffer(self, device: torch.device) -> torch.Tensor:
        if not hasattr(self._bounce, "values"):
            torch.cuda.set_device(device)  # a thread begins with the first one
            self._bounce.values = torch.empty(READ_AT_ONCE // ELEMENT, dtype=torch.float32, pin_memory=True)
        values: torch.Tensor = self._bounce.values
        return values

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Say that a path is none of this reader's business."""
        return False
