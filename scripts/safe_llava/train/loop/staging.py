"""Memory of the host in which a training state waits to be written, so that the next steps need not."""

from __future__ import annotations

import logging
import threading

import torch
from torch.distributed.checkpoint.staging import AsyncStager

from safe_llava.train.loop.state import LARGEST, Piece
from safe_llava.train.loop.storage import State

LOG = logging.getLogger(__name__)


class Staging(AsyncStager):
    """Copies of the pieces of a process, in blocks of memory that are kept from one checkpoint to the next.

    On a GPU the blocks are pinned: copies run at the speed of the bus. Their size is a power of two, which is what
    torch's allocator of pinned memory gives out without loss.
    """

    def __init__(self, elements: int, device: torch.device) -> None:
        self._device, self._pinned = device, device.type == "cuda"
        self._blocks: list[torch.Tensor] = []
        self._elements = elements
        # Pinning takes seconds for every 10 GB: it runs beside the first steps.
        self._thread = threading.Thread(target=self._reserve, daemon=True)
        self._thread.start()

    def _reserve(self) -> None:
        if self._pinned:
            torch.cuda.set_device(self._device)  # a thread begins with the first one
        for begin in range(0, self._elements, LARGEST):
            size = LARGEST if self._pinned else min(LARGEST, self._elements - begin)
            self._blocks.append(torch.empty(size, dtype=torch.float32, pin_memory=self._pinned))

    def stage(self, state_dict: State) -> State:
        """Return the same pieces, perhaps in more parts, in the host's memory."""
        self._thread.join()
        staged: State = {}
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
        self._blocks.clear()
