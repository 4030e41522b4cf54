"""Attention of many questions over one picture's keys and values, which lie in memory once.

``generate`` keeps the keys and values of a whole prompt for every row of a batch, and reads all of them for every
token. Here a row keeps those of its own tokens only; those of its picture stand apart, and all questions about the
picture are multiplied with them together. The two parts are joined as in online softmax, so the outcome is that of one
softmax over both, up to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "picture_prefix"  # of the implementation, as transformers knows it
LOWEST = torch.finfo(torch.float32).min


@dataclass
class SharedPrefix:
    """Keys and values of pictures' prefixes, and which picture each row asks about.

    Attributes:
        keys: for each layer ``[I, H, P, D]`` (pictures, key heads, positions, width of a head).
        values: likewise.
        lengths: positions that are used, ``[I]``.
        padded: the lengths differ.
        place: of each row ``[R]`` in a grid of I × width rows, those of one picture side by side.
        width: rows of the picture that has the most.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    lengths: torch.Tensor
    padded: bool
    place: torch.Tensor
    width: int

    def of(self, first: int, pictures: Sequence[int]) -> SharedPrefix:
        """Return the prefixes from picture ``first`` on for rows that ask about ``pictures``, which are in order."""
        last = pictures[-1] + 1
        place, width = grid([picture - first for picture in pictures])
        return SharedPrefix(
            [keys[first:last] for keys in self.keys],
            [values[first:last] for values in self.values],
            self.lengths[first:last],
            self.padded,
            torch.tensor(place, device=self.lengths.device),
            width,
        )

    def keep(self, pictures: Sequence[int]) -> None:
        """Drop all other pictures, layer by layer, so that memory never holds two copies."""
        kept = torch.tensor(pictures, device=self.lengths.device)
        self.lengths = self.lengths[kept]
        for layer in range(len(self.keys)):
            self.keys[layer] = self.keys[layer][kept]
            self.values[layer] = self.values[layer][kept]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Return what rows read from their own tokens and from their picture.

        Args:
            layer: of the language model.
            query: ``[R, H·G, N, D]``; G query heads share a key head.
            key: of the rows' own tokens, ``[R, H, T, D]``.
            value: likewise.
            mask: own tokens that a query may read, ``[R, 1, N, T]``.
            scaling: of the scores.

        Returns:
            ``[R, N, H·G, D]``.
        """
        rows, heads, count, width = query.shape
        shared = key.shape[1]
        group = heads // shared
        asked = query.reshape(rows, shared, group * count, width)
        own_mask = mask[:, :, None].expand(rows, 1, group, count, key.shape[2]).flatten(2, 3)
        own, own_mass = _part(asked, key, value, own_mask, scaling)
        picture, mass = self._picture_part(layer, asked, scaling)
        joined = torch.lerp(own, picture, torch.sigmoid(mass - own_mass)).to(query.dtype)
        return joined.view(rows, heads, count, width).transpose(1, 2)

    def _picture_part(self, layer: int, asked: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        pictures, heads, length, width = keys.shape
        rows, _, count, _ = asked.shape
        cells = pictures * self.width
        if rows != cells:
            asked = asked.new_zeros(cells, heads, count, width).index_copy_(0, self.place, asked)
        together = asked.view(pictures, self.width, heads, count, width).transpose(1, 2)
        together = together.reshape(pictures, heads, self.width * count, width)
        if self.padded:
            mask = (torch.arange(length, device=keys.device) < self.lengths[:, None])[:, None, None]
            read, mass = _part(together, keys, values, mask, scaling)
        elif _fuses(keys):
            read, mass = _fused_part(together, keys, values, scaling)
        else:
            read, mass = _part(together, keys, values, None, scaling)
        read, mass = (
            found.view(pictures, heads, self.width, count, -1).transpose(1, 2).reshape(cells, heads, count, -1)
            for found in (read, mass)
        )
        return (read, mass) if rows == cells else (read[self.place], mass[self.place])


class RowLayer(CacheLayerMixin):
    """One layer's keys and values of the rows' own tokens, in a buffer that is written in place.

    Args:
        cursor: which rows and which position are written next; all layers share one.
    """

    is_sliding = False

    def __init__(self, cursor: Cursor) -> None:
        super().__init__()
        self._cursor = cursor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the buffers as soon as the shape of a token's keys is known."""
        shape = (self._cursor.rows, key_states.shape[1], self._cursor.room)
        self.keys = key_states.new_empty(*shape, key_states.shape[3])
        self.values = value_states.new_empty(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens ``[R, H, N, D]``; return all of these rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows = slice(self._cursor.first, self._cursor.first + key_states.shape[0])
        end = self._cursor.length + key_states.shape[2]
        self.keys[rows, :, self._cursor.length : end] = key_states
        self.values[rows, :, self._cursor.length : end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def repack(self, kept: torch.Tensor, room: int) -> None:
        """Keep some rows only, with room for ``room`` tokens."""
        assert self.keys is not None and self.values is not None
        used = self._cursor.length
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(kept), old.shape[1], room, old.shape[3])
            new[:, :, :used] = old[kept, :, :used]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the keys."""
        return self._cursor.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens that every row has."""
        return self._cursor.length

    def get_max_length(self) -> int:
        """Return -1: the buffer grows."""
        return -1


@dataclass
class Cursor:
    """Where a cache is written next.

    Attributes:
        rows: of the cache.
        room: tokens that a row has room for.
        first: row that the next keys begin at.
        length: tokens that are there.
    """

    rows: int
    room: int
    first: int = 0
    length: int = 0


class RowCache(Cache):
    """The keys and values of the rows' own tokens, for a model of ``layers`` layers."""

    def __init__(self, layers: int, rows: int, room: int) -> None:
        self.cursor = Cursor(rows, room)
        super().__init__(layers=[RowLayer(self.cursor) for _ in range(layers)])

    def repack(self, rows: Sequence[int], room: int) -> None:
        """Keep these rows only, with room for ``room`` tokens; one layer after the other."""
        for layer in self.layers:
            layer.repack(torch.tensor(rows, device=layer.keys.device), room)
        self.cursor.rows, self.cursor.room = len(rows), room


def grid(pictures: Sequence[int]) -> tuple[list[int], int]:
    """Return each row's cell in a grid with one line a picture, and the length of a line.

    Args:
        pictures: the picture of each row.
    """
    width = max(Counter(pictures).values())
    seen: Counter[int] = Counter()
    places = []
    for picture in pictures:
        places.append(picture * width + seen[picture])
        seen[picture] += 1
    return places, width


def register() -> None:
    """Make the implementation known to transformers; without a shared prefix it is its ``sdpa``."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    shared_prefix: SharedPrefix | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if shared_prefix is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return found
    assert attention_mask is not None
    layer: Any = module.layer_idx
    return shared_prefix.attend(layer, query, key, value, attention_mask, scaling), None


def _part(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what queries ``[B, H, N, D]`` read from one set of keys, and the logarithm of its weight, in fp32.

    A masked key gets the lowest number and not minus infinity: a query that may read nothing here (a place of padding)
    then weighs nothing against the other part, where infinities would make it no number at all.
    """
    lines, heads, count, width = query.shape
    scores = _product(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    scores = scores.mul_(scaling).view(lines, heads, count, -1)
    if mask is not None:
        scores.masked_fill_(~mask, LOWEST)
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    read = _product(weights.to(value.dtype).flatten(0, 1), value.flatten(0, 1)).view(lines, heads, count, width)
    return read / total, highest + total.log()


def _fuses(keys: torch.Tensor) -> bool:
    """Say whether PyTorch's flash attention takes these keys."""
    return (
        keys.device.type == "cuda"
        and keys.dtype in (torch.float16, torch.bfloat16)
        and keys.shape[3] % 8 == 0
        and keys.shape[3] <= 256
        and torch.cuda.get_device_capability(keys.device) >= (8, 0)
    )


def _fused_part(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what ``_part`` does without a mask, by one kernel that reads every key once."""
    read, mass, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scaling)
    return read.float(), mass[:, :, :, None]


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the product of matrices in fp32: scores rounded to 8 bits would move a softmax."""
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.device.type == "cuda":
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
