"""Memory of the host in which a training state waits to be written, so that the next steps need not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.distributed.checkpoint.staging import AsyncStager

from safe_llava.core.errors import TrainError
from safe_llava.train.loop.state import LARGEST, Piece
from safe_llava.train.loop.storage import ELEMENT, PiecesByName, threads


class Staging(AsyncStager):
    """Copies of the pieces of a process, in blocks of memory that are kept from one checkpoint to the next.

    For a GPU the blocks are pinned: copies run at the speed of the bus. They are made beside the first steps, by
    threads that leave Python to the training: torch's own allocator of pinned memory keeps it for seconds.
    """

    def __init__(self, elements: int, device: torch.device) -> None:
        self._device, self._pinned = device, device.type == "cuda"
        self._blocks: list[torch.Tensor] = []
        self._sizes = [min(LARGEST, elements - begin) for begin in range(0, elements, LARGEST)]
        self._thread = threading.Thread(target=self._reserve, daemon=True)
        self._thread.start()

    def _reserve(self) -> None:
        if not self._pinned:
            self._blocks = [torch.empty(size) for size in self._sizes]
            return
        with ThreadPoolExecutor(max(1, threads() // 2)) as pool:
            self._blocks = list(pool.map(self._pin, self._sizes))

    def _pin(self, size: int) -> torch.Tensor:
        torch.cuda.set_device(self._device)  # a thread begins with the first one
        block = torch.empty(size).zero_()
        torch.cuda.cudart().cudaHostRegister(block.data_ptr(), ELEMENT * size, 0)
        return block

    def stage(self, state_dict: PiecesByName) -> PiecesByName:
        """Return the same pieces, perhaps in more parts, in the host's memory.

        Raises:
            TrainError: the memory could not be had.
        """
        self._thread.join()
        if len(self._blocks) < len(self._sizes):
            raise TrainError("no memory for a checkpoint could be pinned", "give the job more memory (mem_mb)")
        staged: PiecesByName = {}
        blocks = iter(self._blocks)
        block, at = next(blocks), 0
        for piece in (piece for pieces in state_dict.values() for piece in pieces):
            offset = 0
            while offset < len(piece.values):
                if at == len(block):
                    block, at = next(blocks), 0
                part = piece.part(offset, min(len(piece.values) - offset, len(block) - at))
                place = block.narrow(0, at, len(part.values))
                place.copy_(part.values, non_blocking=True)
                staged.setdefault(piece.name, []).append(Piece(part.name, part.begin, part.total, place))
                offset, at = offset + len(place), at + len(place)
        if self._pinned:
            torch.cuda.synchronize(self._device)
        return staged

    def synchronize_staging(self) -> None:
        """Do nothing: ``stage`` has waited."""

    def close(self) -> None:
        """Give the memory back."""
        self._thread.join()
        if self._pinned:
            for block in self._blocks:
                torch.cuda.cudart().cudaHostUnregister(block.data_ptr())
        self._blocks.clear()
