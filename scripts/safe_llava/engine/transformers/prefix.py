"""Greedy answers to all questions about many pictures, each picture read once.

A block of pictures goes through the model up to each picture's last position; then the rest of every question, over the
pictures' keys and values; then token after token, until every answer has ended. Rows that have ended are dropped on
the way, so that short answers do not wait for long ones.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

from safe_llava.engine.base import Request
from safe_llava.engine.transformers import prefix_attention
from safe_llava.engine.transformers.asked import Asked, Pair
from safe_llava.engine.transformers.prefix_attention import RowCache, SharedPrefix

# Models whose answers were compared, with and without: nothing but the text decides how a token is read, all positions
# count from the beginning, and every layer reads all of them.
PROVEN = frozenset({"llava", "llava_next", "llava_onevision", "internvl"})
PROVEN_TEXT = frozenset({"llama", "qwen2", "mistral"})

PASS_TOKENS = 16_384  # of one pass through the model; more makes a GPU no faster
MORE_ROOM = 32  # tokens by which the rows' buffers grow
DROP_AT = 0.75  # share of rows, or pictures, that is left when the others are dropped


@dataclass
class Row:
    """An answer on its way.

    Attributes:
        pair: the request and its prompt.
        picture: the picture it asks about, by its number among those in memory.
        suffix: tokens of the question behind the picture.
        stop: tokens that the answer may have.
        tokens: the answer so far, with its end token once it is there.
    """

    pair: Pair
    picture: int
    suffix: list[int]
    stop: int
    tokens: list[int] = field(default_factory=list)
    done: bool = False


class PrefixDecoder:
    """Answers blocks of questions.

    Args:
        model: one of ``PROVEN``.
        ends: tokens that end an answer.
        stop: tokens that the answer to a request may have.
        pad: any token; what stands there is never read.
    """

    def __init__(self, model: Any, ends: set[int], stop: Callable[[Request], int], pad: int) -> None:
        prefix_attention.register()
        model.set_attn_implementation({"text_config": prefix_attention.NAME})
        self._model, self._ends, self._stop, self._pad = model, ends, stop, pad
        text = model.config.get_text_config()
        self._layers: int = text.num_hidden_layers
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        #: bytes that the keys and values of one token take
        self.token_bytes: int = 2 * self._layers * text.num_key_value_heads * width * model.dtype.itemsize
        #: seconds spent in each phase, and tokens that went through it
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.tokens: Counter[str] = Counter()

    def cost(self, asked: Asked) -> int:
        """Return the bytes that a picture and its questions take at first."""
        rows = sum(len(suffix) + MORE_ROOM for suffix in asked.suffixes)
        return (len(asked.prefix) + rows) * self.token_bytes

    @torch.inference_mode()
    def answers(self, block: Sequence[Asked]) -> Iterator[tuple[Pair, list[int] | None]]:
        """Answer a block; each answer comes as soon as it has ended.

        Yields:
            the request with its prompt, and the tokens of the answer, its end token included; None where the scores
            of a token were not finite numbers: what would be picked from them is noise.
        """
        rows = [
            Row(pair, picture, suffix, self._stop(pair[0]))
            for picture, asked in enumerate(block)
            for pair, suffix in zip(asked.pairs, asked.suffixes, strict=True)
        ]
        prefix = self._read(block)
        longest = max(len(row.suffix) for row in rows)
        cache = RowCache(self._layers, len(rows), longest + MORE_ROOM)
        picked = self._ask(rows, prefix, cache, longest)
        state = _State(rows, prefix, cache, longest, picked)
        del prefix, cache, picked  # what is dropped has no other owner
        while True:
            for row in self._take(state):
                yield row.pair, row.tokens if row.tokens and row.tokens[-1] >= 0 else None
            if not state.trim():
                return
            state.picked = self._next(state)

    def _take(self, state: _State) -> list[Row]:
        """Give every row its token; return those that ended with it."""
        started, ended = time.perf_counter(), []
        for row, token in zip(state.rows, state.picked.tolist(), strict=True):
            if row.done:
                continue
            row.tokens.append(token)
            if token < 0 or token in self._ends or len(row.tokens) == row.stop:
                row.done = True
                ended.append(row)
        self.seconds["decode"] += time.perf_counter() - started
        return ended

    def _read(self, block: Sequence[Asked]) -> SharedPrefix:
        """Run the pictures through the model, those of one shape together."""
        started = time.perf_counter()
        device = self._model.device
        lengths = [len(asked.prefix) for asked in block]
        longest = max(lengths)
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        order = sorted(range(len(block)), key=lambda place: str(block[place].shape()))
        for _, same in groupby(order, key=lambda place: block[place].shape()):
            places = list(same)
            step = max(1, PASS_TOKENS // lengths[places[0]])
            for start in range(0, len(places), step):
                some = places[start : start + step]
                cache = self._read_some([block[place] for place in some])
                if not keys:
                    shape = (len(block), cache.layers[0].keys.shape[1], longest)
                    make = torch.zeros if len(set(lengths)) > 1 else torch.empty
                    for layer in cache.layers:
                        keys.append(make(*shape, layer.keys.shape[3], dtype=layer.keys.dtype, device=device))
                        values.append(make(*shape, layer.values.shape[3], dtype=layer.keys.dtype, device=device))
                for layer, key, value in zip(cache.layers, keys, values, strict=True):
                    key[some, :, : layer.keys.shape[2]] = layer.keys
                    value[some, :, : layer.values.shape[2]] = layer.values
        self._spent("prefix", started, sum(lengths))
        used = torch.tensor(lengths, device=device)
        return SharedPrefix(keys, values, used, len(set(lengths)) > 1, torch.empty(0, dtype=torch.long), 0)

    def _read_some(self, block: Sequence[Asked]) -> DynamicCache:
        device = self._model.device
        pictures = {
            name: torch.cat([asked.tensors[name] for asked in block]).to(device, non_blocking=True)
            for name in block[0].tensors
        }
        ids = torch.tensor([asked.prefix for asked in block], device=device)
        cache = DynamicCache()
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **pictures)
        return cache

    def _ask(self, rows: list[Row], prefix: SharedPrefix, cache: RowCache, longest: int) -> torch.Tensor:
        """Run the questions through the model; return each answer's first token, ``[R]``."""
        started = time.perf_counter()
        picked, device, chunk = [], self._model.device, max(1, PASS_TOKENS // longest)
        for first, last in _pieces([row.picture for row in rows], chunk):
            some = rows[first:last]
            ids = torch.tensor([[self._pad] * (longest - len(row.suffix)) + row.suffix for row in some], device=device)
            pads = torch.tensor([longest - len(row.suffix) for row in some], device=device)
            pictures = [row.picture for row in some]
            shared = prefix.of(pictures[0], pictures)
            used = prefix.lengths[torch.tensor(pictures, device=device)]
            place = torch.arange(longest, device=device)
            positions = (used[:, None] + place - pads[:, None]).clamp_(min=0)
            seen = (place >= pads[:, None])[:, None, None] & (place <= place[:, None])
            cache.cursor.first = first
            picked.append(self._forward(ids, positions, seen, cache, shared))
        cache.cursor.first, cache.cursor.length = 0, longest
        self._spent("questions", started, sum(len(row.suffix) for row in rows))
        return torch.cat(picked)

    def _next(self, state: _State) -> torch.Tensor:
        """Return the next token of every row, ``[R]``."""
        started, cache = time.perf_counter(), state.cache
        place = torch.arange(cache.cursor.length + 1, device=self._model.device)
        seen = (place >= state.pads[:, None])[:, None, None]
        ids = state.picked.clamp(min=0)[:, None]
        picked = self._forward(ids, state.positions[:, None], seen, cache, state.shared)
        cache.cursor.length += 1
        state.positions += 1
        self.seconds["decode"] += time.perf_counter() - started
        self.tokens["decode"] += sum(not row.done for row in state.rows)
        self.tokens["steps"] += 1
        return picked

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, cache: RowCache, shared: SharedPrefix
    ) -> torch.Tensor:
        """Return the most likely next token of each row; -1 where its score is not a finite number."""
        logits = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=seen,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            shared_prefix=shared,
        ).logits[:, -1]
        best, picked = logits.max(dim=-1)
        return torch.where(torch.isfinite(best), picked, -1)

    def _spent(self, phase: str, started: float, tokens: int) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        self.seconds[phase] += time.perf_counter() - started
        self.tokens[phase] += tokens


class _State:
    """What decoding a block goes through: the rows and, in step with them, their tensors."""

    def __init__(
        self, rows: list[Row], prefix: SharedPrefix, cache: RowCache, longest: int, picked: torch.Tensor
    ) -> None:
        self.rows, self.prefix, self.cache, self.picked = rows, prefix, cache, picked
        device = picked.device
        self.pads = torch.tensor([longest - len(row.suffix) for row in rows], device=device)
        pictures = torch.tensor([row.picture for row in rows], device=device)
        self.positions = prefix.lengths[pictures] + longest - self.pads
        self.shared = prefix.of(0, [row.picture for row in rows])

    def trim(self) -> bool:
        """Drop what is done where that pays, and make room where there is none; say whether anything is left."""
        left = [place for place, row in enumerate(self.rows) if not row.done]
        if not left:
            return False
        cursor = self.cache.cursor
        if cursor.length < cursor.room and len(left) > DROP_AT * len(self.rows):
            return True
        self.cache.repack(left, cursor.length + MORE_ROOM)
        kept = torch.tensor(left, device=self.picked.device)
        self.pads, self.positions, self.picked = self.pads[kept], self.positions[kept], self.picked[kept]
        self.rows = [self.rows[place] for place in left]
        self._drop_pictures()
        return True

    def _drop_pictures(self) -> None:
        asked = sorted({row.picture for row in self.rows})
        if len(asked) <= DROP_AT * len(self.prefix.lengths):
            del self.shared  # its views would keep what is dropped
            self.prefix.keep(asked)
            number = {picture: place for place, picture in enumerate(asked)}
            for row in self.rows:
                row.picture = number[row.picture]
        self.shared = self.prefix.of(0, [row.picture for row in self.rows])


def can_share(model: Any) -> bool:
    """Say whether a model was proven to answer alike when its questions share what they begin with."""
    text = model.config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    return (
        model.config.model_type in PROVEN
        and text.model_type in PROVEN_TEXT
        and layers == {"full_attention"}
        and (text.model_type != "mistral" or text.sliding_window is None)
    )


def _pieces(pictures: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Return ranges of about ``most`` rows; a picture's rows stay together."""
    first = 0
    for place in range(1, len(pictures) + 1):
        end = place == len(pictures)
        if end or (pictures[place] != pictures[place - 1] and place - first >= most):
            yield first, place
            first = place
