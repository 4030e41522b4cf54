"""Padding-free micro-batches: all samples of a micro-batch in one row, every index ready before it reaches the GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safe_llava.train.samples.annotated import Features
from safe_llava.train.samples.conversation import IGNORE_INDEX


def pack(
    features: Sequence[Features], image_token_id: int, image_tokens: int, image_size: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Concatenate samples into the arguments of ``PackedLossModel.forward``, ``weights`` left out.

    Args:
        image_token_id: what stands at image positions; the ids given back have 0 there.
        image_tokens: features of one image; a sample cut inside its image takes the first of them.
        dtype: of the pixels given back.

    Returns:
        input_ids, position_ids: int64 [1, T], positions from 0 in each sample.
        bounds: int32 [B + 1], first token of each sample and the row's end.
        longest: int64 [], tokens of the longest sample; it stays on the CPU.
        pixel_values: [N, 3, H, W]; zero images where there is none, so that every process runs the tower. Two, as
            torch compiles a layer anew for a batch of one.
        image_positions, feature_rows: int64 [K], positions in the row and which of the N * P features they take.
        loss_positions, targets, owners: int64 [S], positions whose next token is labelled, that token, their sample.
            At least one, whose target is ``IGNORE_INDEX`` if there is none, so that every process runs the head.
    """
    lengths = [len(item.input_ids) for item in features]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    ids_T = torch.tensor([token for item in features for token in item.input_ids])
    labels_T = torch.tensor([label for item in features for label in item.labels])
    labels_T[bounds[:-1]] = IGNORE_INDEX  # a first token has no predecessor in its own sample
    supervised_S = (labels_T != IGNORE_INDEX).nonzero().flatten()
    if supervised_S.numel():
        loss_positions, targets = supervised_S - 1, labels_T[supervised_S]
    else:
        loss_positions, targets = torch.zeros(1, dtype=torch.long), torch.tensor([IGNORE_INDEX])
    positions_K, rows_K = _image_indices(features, bounds.tolist(), image_tokens)
    images = [item.pixel_values for item in features if item.pixel_values is not None]
    pixels = torch.stack(images) if images else torch.zeros(2, 3, image_size, image_size)
    return {
        "input_ids": ids_T.masked_fill(ids_T == image_token_id, 0)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "bounds": bounds.to(torch.int32),
        "longest": torch.tensor(max(lengths)),
        "pixel_values": pixels.to(dtype),
        "image_positions": positions_K,
        "feature_rows": rows_K,
        "loss_positions": loss_positions,
        "targets": targets,
        "owners": torch.searchsorted(bounds, loss_positions, right=True) - 1,
    }


def _image_indices(
    features: Sequence[Features], starts: list[int], image_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    positions: list[torch.Tensor] = []
    rows: list[torch.Tensor] = []
    for item, start in zip(features, starts, strict=False):
        if item.pixel_values is not None and item.image_span is not None:
            begin, end = item.image_span
            positions.append(torch.arange(start + begin, start + end))
            rows.append(torch.arange(end - begin) + len(rows) * image_tokens)
    empty = torch.zeros(0, dtype=torch.long)
    return torch.cat([empty, *positions]), torch.cat([empty, *rows])
