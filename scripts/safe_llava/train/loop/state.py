"""The state that a run resumes from: the fp32 weight and AdamW's two moments of every trained parameter.

The bf16 weights that a model computes with follow from the fp32 ones, so 12 bytes a trained parameter are all there is.
Which process holds which elements follows from the ZeRO stage and the number of processes; outside this module a state
is a list of pieces, named for their parameter, so that it can be read by another number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST = 1 << 26  # elements of a piece: 256 MiB


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of one state of one parameter, both flattened.

    Attributes:
        name: of the parameter and its state.
        begin: of the first element in the whole state.
        total: elements of the whole state.
        values: fp32 [n]; a view: whoever writes into it writes the state.
    """

    name: str
    begin: int
    total: int
    values: torch.Tensor

    def part(self, offset: int, length: int) -> Piece:
        """Return ``length`` elements from ``offset`` on."""
        return replace(self, begin=self.begin + offset, values=self.values.narrow(0, offset, length))


def split(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Cut pieces into parts of at most ``LARGEST`` elements, so that several threads have work."""
    for piece in pieces:
        for offset in range(0, len(piece.values), LARGEST):
            yield piece.part(offset, min(LARGEST, len(piece.values) - offset))


@dataclass(frozen=True)
class _Held:
    """Elements of a parameter that this process updates.

    Attributes:
        begin: of the first of them in the parameter.
        total: elements of the parameter.
        flat: the optimizer's fp32 tensor that they lie in, from ``offset`` on.
    """

    name: str
    begin: int
    total: int
    flat: nn.Parameter
    offset: int
    length: int


class TrainingState:
    """The state under an optimizer of DeepSpeed, or under a plain one (ZeRO-0).

    Args:
        model: its trained parameters give the pieces their names.
    """

    def __init__(self, model: nn.Module, optimizer: Any, zero_stage: int, rank: int, world_size: int) -> None:
        self._names = {id(value): name for name, value in model.named_parameters() if value.requires_grad}
        self._trained = [value for value in model.parameters() if value.requires_grad]
        self._zero, self._zero_stage = optimizer, zero_stage
        self._rank, self._world_size = rank, world_size

    @property
    def _adamw(self) -> Any:
        return getattr(self._zero, "optimizer", self._zero)

    def pieces(self, whole: bool = False) -> list[Piece]:
        """Return this process's part; the parts of all processes are the state.

        Args:
            whole: whatever this process has to read, which is more where every process holds all (ZeRO-0).
        """
        found = []
        for held in self._held(whole):
            moments = self._moments(held.flat)
            for state, values in (("weight", held.flat.data), *((name, moments[name]) for name in MOMENTS)):
                elements = values.view(-1).narrow(0, held.offset, held.length)
                found.append(Piece(f"{held.name}/{state}", held.begin, held.total, elements))
        return found

    @property
    def updates(self) -> float:
        """How many updates AdamW has made, which its bias correction depends on."""
        states = [state for state in self._adamw.state.values() if "step" in state]
        return float(states[0]["step"]) if states else 0.0

    @torch.no_grad()
    def restored(self, updates: float) -> None:
        """Finish what writing into the pieces began: AdamW's count, and the weights that the model computes with."""
        for state in self._adamw.state.values():
            state["step"].fill_(updates)
        if self._zero_stage in (1, 2):
            self._zero.update_lp_params()
        elif self._zero_stage == 3:
            self._restore_partitioned()

    def _restore_partitioned(self) -> None:
        zero = self._zero
        for group, masters in enumerate(zero.fp32_partitioned_groups_flat):
            zero.fp16_partitioned_groups_flat[group].data.copy_(masters.data)
            zero._unflatten_partitioned_parameters(group)
        # Small parameters stay gathered: their copies are of before.
        if persistent := zero.persistent_parameters:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)

    def _moments(self, flat: nn.Parameter) -> dict[str, torch.Tensor]:
        """Return AdamW's state of one of its tensors, made as torch makes it where there was no update yet."""
        state: dict[str, torch.Tensor] = self._adamw.state[flat]
        if not state:
            fused = bool(self._adamw.defaults.get("fused"))
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device if fused else "cpu")
            for name in MOMENTS:
                state[name] = torch.zeros_like(flat, memory_format=torch.preserve_format)
        return state

    def _held(self, whole: bool) -> Iterator[_Held]:
        if self._zero_stage == 0:
            return self._held_plainly(whole)
        return self._held_by_shard() if self._zero_stage == 3 else self._held_in_partitions()

    def _held_plainly(self, whole: bool) -> Iterator[_Held]:
        """Every process has all: each writes a part of every parameter."""
        for value in self._trained:
            total = value.numel()
            begin, end = (total * rank // self._world_size for rank in (self._rank, self._rank + 1))
            if whole:
                begin, end = 0, total
            if begin < end:
                yield _Held(self._names[id(value)], begin, total, value, begin, end - begin)

    def _held_in_partitions(self) -> Iterator[_Held]:
        """ZeRO-1 and 2: a group's parameters lie one behind the other, and each process has an equal part of that."""
        zero = self._zero
        groups = zip(
            zero.round_robin_bit16_groups,
            zero.round_robin_bit16_offsets,
            zero.single_partition_of_fp32_groups,
            strict=True,
        )
        for members, offsets, flat in groups:
            first = self._rank * flat.numel()
            for value, at in zip(members, offsets, strict=True):
                begin, end = max(at, first), min(at + value.numel(), first + flat.numel())
                if begin < end:
                    name = self._names[id(value)]
                    yield _Held(name, begin - at, value.numel(), flat, begin - first, end - begin)

    def _held_by_shard(self) -> Iterator[_Held]:
        """ZeRO-3: each process has an equal part of every parameter, the last ones filled up."""
        zero = self._zero
        groups = zip(zero.fp16_groups, zero.fp16_partitioned_groups, zero.fp32_partitioned_groups_flat, strict=True)
        for members, shards, flat in groups:
            offset = 0
            for value, shard in zip(members, shards, strict=True):
                begin = self._rank * shard.ds_numel
                length = min(shard.ds_numel, value.ds_numel - begin)
                if length > 0:
                    yield _Held(self._names[id(value)], begin, value.ds_numel, flat, offset, length)
                offset += shard.ds_numel
