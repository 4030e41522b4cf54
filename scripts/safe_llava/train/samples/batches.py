"""A process's share of every step as tensors, decoded ahead by worker processes or kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from safe_llava.core.errors import SafeLlavaError
from safe_llava.train.samples.annotated import Features, SampleDataset, collate
from safe_llava.train.samples.conversation import IGNORE_INDEX
from safe_llava.train.samples.packing import pack
from safe_llava.train.samples.schedule import Plan, Slot


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs, but for the weights of its tokens.

    Attributes:
        tensors: arguments of ``LossModel.forward``, or of ``PackedLossModel.forward``, without ``weights``.
        groups: int64 [B], each sample's reference group within the step; -1 for a filler.
        labelled: int64 [B], predicted tokens of each sample.
        tokens: positions that are no padding.
        would_mismatch: samples that the original would have dropped, repetitions left out.
        squares: sum of the samples' squared lengths.
        images: those of the samples.
    """

    tensors: dict[str, torch.Tensor]
    groups: torch.Tensor
    labelled: torch.Tensor
    sample_ids: list[str]
    tokens: int
    would_mismatch: int
    squares: int = 0
    images: int = 0

    def pin_memory(self) -> MicroBatch:
        """Return the same in pinned memory, from where copies to a GPU run beside its work."""
        return replace(self, tensors={name: value.pin_memory() for name, value in self.tensors.items()})


@dataclass(frozen=True)
class Packing:
    """What ``pack`` needs beside the samples."""

    image_token_id: int
    image_tokens: int
    image_size: int
    pixel_dtype: torch.dtype

    def micro_batch(self, features: list[Features], groups: list[int], would_mismatch: int = 0) -> MicroBatch:
        """Put samples into one row; without any, a filler that no process gets a gradient from."""
        filler = not features
        if filler:
            features, groups = [Features([0] * 2, [IGNORE_INDEX] * 2, None, "", 0)], [-1]
        tensors = pack(features, self.image_token_id, self.image_tokens, self.image_size, self.pixel_dtype)
        owners_S = tensors["owners"][tensors["targets"] != IGNORE_INDEX]
        return MicroBatch(
            tensors,
            torch.tensor(groups),
            torch.bincount(owners_S, minlength=len(features)),
            [item.sample_id for item in features],
            0 if filler else int(tensors["bounds"][-1]),
            would_mismatch,
            0 if filler else _squares(features),
            _images(features),
        )


def _squares(features: list[Features]) -> int:
    return sum(len(item.input_ids) ** 2 for item in features)


def _images(features: list[Features]) -> int:
    return sum(item.pixel_values is not None for item in features)


def make_micro_batch(
    features: list[Features], groups: list[int], pad_id: int, image_size: int, would_mismatch: int = 0
) -> MicroBatch:
    """Pad samples into a micro-batch; without any, a filler that no process gets a gradient from."""
    filler = not features
    if filler:
        features, groups = [Features([pad_id] * 2, [IGNORE_INDEX] * 2, None, "", 0)], [-1]
    batch = collate(features, pad_id)
    pixels, rows = batch.pixel_values, batch.image_mask.any(dim=1).nonzero().flatten()
    if pixels is None:
        # Every process runs the tower and the projector, so that collectives match; no position takes this one.
        pixels, rows = torch.zeros(1, 3, image_size, image_size), torch.zeros(1, dtype=torch.long)
    tensors = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": batch.labels,
        "pixel_values": pixels,
        "image_rows": rows,
    }
    return MicroBatch(
        tensors,
        torch.tensor(groups),
        count_labelled(batch.labels),
        batch.sample_ids,
        0 if filler else int(batch.attention_mask.sum()),
        would_mismatch,
        0 if filler else _squares(features),
        _images(features),
    )


def count_labelled(labels: torch.Tensor) -> torch.Tensor:
    """Return how many of each sample's labels ``[B, T]`` are predicted, ``[B]``; the first has no predecessor."""
    return (labels[:, 1:] != IGNORE_INDEX).sum(dim=1)


class StepDataset(Dataset[list[MicroBatch] | SafeLlavaError]):
    """One process's micro-batches by the number of the step.

    A fault comes back as a value: raised in a worker process it would lose its type and its remedy.

    Args:
        cache_bytes: how much of decoded samples to keep in memory; 0 keeps none.
        packing: makes padding-free rows; None pads.
    """

    def __init__(
        self, dataset: SampleDataset, plan: Plan, rank: int, cache_bytes: int, packing: Packing | None = None
    ) -> None:
        self._dataset, self._plan, self._rank, self._packing = dataset, plan, rank, packing
        self._pad_id = int(dataset.tokenizer.pad_token_id)
        self._cache: dict[int, Features] = {}
        self._free = cache_bytes

    def __getitem__(self, step: int) -> list[MicroBatch] | SafeLlavaError:
        try:
            return [self._micro_batch(slots) for slots in self._plan.share(step, self._rank)]
        except SafeLlavaError as error:
            return error

    def sample_ids(self, step: int) -> list[str]:
        """Return the ids of this process's samples of a step."""
        return [self._dataset.samples[slot.index].id for slots in self._plan.share(step, self._rank) for slot in slots]

    def _micro_batch(self, slots: list[Slot]) -> MicroBatch:
        features = [self._features(slot.index) for slot in slots]
        mismatched = sum(item.would_mismatch and not slot.repeated for item, slot in zip(features, slots, strict=True))
        groups = [slot.group for slot in slots]
        if self._packing is not None:
            return self._packing.micro_batch(features, groups, mismatched)
        return make_micro_batch(features, groups, self._pad_id, self._dataset.image.size, mismatched)

    def _features(self, index: int) -> Features:
        if (kept := self._cache.get(index)) is not None:
            return kept
        features = self._dataset[index]
        pixels = features.pixel_values
        size = 64 * len(features.input_ids) + (0 if pixels is None else pixels.nbytes)
        if size <= self._free:
            self._free -= size
            self._cache[index] = features
        return features


def steps_from(
    data: StepDataset, first: int, total: int, workers: int, pinned: bool = False
) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of step ``first``, ``first + 1``, … up to ``total``.

    Args:
        pinned: whether the tensors lie in pinned memory, for copies to a GPU.

    Raises:
        SafeLlavaError: a sample cannot be made; it is named.
    """
    loader = DataLoader(
        data,
        sampler=range(first, total),
        batch_size=None,
        num_workers=workers,
        # Python 3.14 would start workers anew: each would get a copy of the data, tensor by tensor.
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=2 if workers else None,
        pin_memory=pinned,
    )
    for item in loader:
        if isinstance(item, SafeLlavaError):
            raise item
        yield item
