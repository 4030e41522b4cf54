"""Greedy answers to all questions about many images, each image read once.

A block of images goes through the model up to each image's last position. The cache is repeated for every question, and
the questions go on from it as one batch, token after token. Rows that have ended leave the batch, so that short answers
do not wait for long ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from safe_llava.engine.base import Request
from safe_llava.engine.transformers.asked import RequestPrompt, SharedImage

# Models whose answers were compared, with and without (tests/engine/transformers/test_prefix.py).
SHARED = frozenset({"llava", "llava_next", "llava_onevision", "internvl", "qwen2_5_vl"})

PASS_TOKENS = 16_384  # of images in one pass through the model
ANSWER_ROOM = 32  # tokens of an answer that memory is planned for: most are shorter, and ended rows give theirs back


class PrefixDecoder:
    """Answers blocks of questions.

    Args:
        model: one that ``can_share``.
        ends: tokens that end an answer.
        stop: tokens that the answer to a request may have.
        padding: any token; what stands there is never read.
    """

    def __init__(self, model: Any, ends: set[int], stop: Callable[[Request], int], padding: int) -> None:
        self._model, self._ends, self._stop, self._padding = model, ends, stop, padding
        text = model.config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        #: bytes that the keys and values of one token take
        self.token_bytes: int = 2 * text.num_hidden_layers * text.num_key_value_heads * width * model.dtype.itemsize
        #: tokens that went through each phase, and passes that decoded one token of every row
        self.tokens: Counter[str] = Counter()

    def cost(self, asked: SharedImage) -> int:
        """Return the bytes that an image and its questions take."""
        rows = sum(len(asked.prefix) + len(suffix) + ANSWER_ROOM for suffix in asked.suffixes)
        return (len(asked.prefix) + rows) * self.token_bytes

    @torch.inference_mode()
    def answers(self, block: Sequence[SharedImage]) -> Iterator[tuple[RequestPrompt, list[int] | None]]:
        """Answer a block; each answer comes as soon as it has ended.

        Yields:
            the request with its prompt, and the tokens of the answer, its end token included; None where the scores
            of a token were not finite numbers: what would be picked from them is noise.
        """
        block = sorted(block, key=lambda asked: str(asked.shape()))
        rows: list[tuple[RequestPrompt, list[int]]] = [(pair, []) for asked in block for pair in asked.pairs]
        cache, ids, seen, positions = self._begin(block)
        while True:
            picked = self._next(ids, seen, positions, cache)
            left = []
            for place, ((pair, answer), token) in enumerate(zip(rows, picked.tolist(), strict=True)):
                answer.append(token)
                if token < 0 or token in self._ends or len(answer) == self._stop(pair[0]):
                    yield pair, answer if token >= 0 else None
                else:
                    left.append(place)
            if not left:
                return
            if len(left) < len(rows):
                rows = [rows[place] for place in left]
                kept = torch.tensor(left, dtype=torch.long, device=picked.device)
                cache.batch_select_indices(kept)
                picked, seen, positions = picked[kept], seen[kept], positions[kept]
            ids, positions = picked[:, None], positions[:, -1:] + 1
            seen = pad(seen, (0, 1), value=1)
            self.tokens["decode"] += len(rows)
            self.tokens["steps"] += 1

    def _begin(self, block: Sequence[SharedImage]) -> tuple[DynamicCache, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read the images of a block.

        Returns:
            the cache with a row for each question; the questions' tokens ``[R, T]``, padded on the left, so that
            padding lies between image and question; which of all tokens are read ``[R, P + T]``; the questions'
            positions ``[R, T]``.
        """
        device = self._model.device
        cache, deltas = self._read(block)
        suffixes = [suffix for asked in block for suffix in asked.suffixes]
        images = torch.tensor([n for n, asked in enumerate(block) for _ in asked.pairs], device=device)
        cache.batch_select_indices(images)
        longest = max(map(len, suffixes))
        lines = [[self._padding] * (longest - len(suffix)) + suffix for suffix in suffixes]
        used = torch.tensor([len(asked.prefix) for asked in block], device=device)[images, None]
        pads = torch.tensor([longest - len(suffix) for suffix in suffixes], device=device)[:, None]
        prefix = torch.arange(cache.get_seq_length(), device=device) < used
        seen = torch.cat([prefix, torch.arange(longest, device=device) >= pads], dim=1).long()
        positions = (seen.cumsum(dim=1) - 1)[:, -longest:] + deltas[images]
        self.tokens["questions"] += sum(map(len, suffixes))
        return cache, torch.tensor(lines, device=device), seen, positions

    def _read(self, block: Sequence[SharedImage]) -> tuple[DynamicCache, torch.Tensor]:
        """Run the images through the model, those of one shape together.

        Returns:
            the cache, an image a row, padded behind the image; how far the position of a text token differs from its
            number, ``[images, 1]``: not zero where an image's positions are counted in two dimensions.
        """
        longest = max(len(asked.prefix) for asked in block)
        passes, deltas = [], []
        for _, group in groupby(block, key=SharedImage.shape):
            same = list(group)
            step = max(1, PASS_TOKENS // len(same[0].prefix))
            for start in range(0, len(same), step):
                some = same[start : start + step]
                passes.append(
                    [
                        [pad(part, (0, 0, 0, longest - part.shape[2])) for part in (layer.keys, layer.values)]
                        for layer in self._read_some(some).layers
                    ]
                )
                delta = getattr(self._model.model, "rope_deltas", None)
                zero = torch.zeros(len(some), 1, dtype=torch.long, device=self._model.device)
                deltas.append(zero if delta is None else delta.to(zero))
        self.tokens["prefix"] += sum(len(asked.prefix) for asked in block)
        layers = [tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in zip(*passes, strict=True)]
        return DynamicCache(layers), torch.cat(deltas)

    def _read_some(self, block: Sequence[SharedImage]) -> DynamicCache:
        """Return the cache of images of one shape, as the model makes it."""
        device = self._model.device
        ids = torch.tensor([asked.prefix for asked in block], device=device)
        images = {name: torch.cat([a.tensors[name] for a in block]).to(device) for name in block[0].tensors}
        found: DynamicCache = self._model(input_ids=ids, use_cache=True, logits_to_keep=1, **images).past_key_values
        return found

    def _next(
        self, ids: torch.Tensor, seen: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the most likely next token of each row; -1 where its score is not a finite number."""
        logits = self._model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        best, picked = logits.max(dim=-1)
        return torch.where(torch.isfinite(best), picked, -1)


def can_share(model: Any) -> bool:
    """Say whether the questions about an image may go on from one reading of it: every layer reads all tokens."""
    text = model.config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    return (
        model.config.model_type in SHARED
        and layers == {"full_attention"}
        and getattr(text, "sliding_window", None) is None
    )
