"""In what order samples are trained on: the original's grouping by modality and length, or a plain shuffle."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safe_llava.core.errors import TrainError


def shuffled_order(n: int, generator: torch.Generator) -> list[int]:
    """Return a random order of ``n`` samples, as torch's RandomSampler draws one epoch after the other."""
    order = torch.randperm(n, generator=generator).tolist()
    torch.randperm(n, generator=generator)  # for the part of a further round that it never has: it draws all the same
    return order


def modality_length_order(
    lengths: Sequence[int],
    batch_size_per_device: int,
    world_size: int,
    generator: torch.Generator,
    shuffle_generator: torch.Generator | None = None,
) -> list[int]:
    """Return the order of samples in which no batch mixes modalities, except the last one.

    Mega-batches (``batch_size_per_device * world_size`` samples) are of one modality and in random order; inside one,
    the longest samples come first across the devices, whose shares follow each other. What is left over of both
    modalities makes the last mega-batch, in the order of the data. The order depends on the two sizes: give the
    original's (16 and 8) for its order, whatever the run itself uses.

    Args:
        lengths: signed lengths (``signed_length``), negative for text only.
        batch_size_per_device: samples of one device in one step.
        world_size: devices (times accumulation steps, in the original).
        generator: draws the order of the mega-batches (and all there is, with one modality only).
        shuffle_generator: shuffles within each modality; None is torch's global generator, as in the original.

    Raises:
        TrainError: a length is zero, so its modality is unknown.
    """
    if 0 in lengths:
        raise TrainError(
            f"sample {lengths.index(0)} (counted from 0) has no words in its conversation",
            "remove the sample from the annotations",
        )
    image = [index for index, length in enumerate(lengths) if length > 0]
    text = [index for index, length in enumerate(lengths) if length < 0]
    if not image or not text:
        return _flat(_length_groups(lengths, batch_size_per_device, world_size, generator))
    whole: list[list[int]] = []
    rest: list[int] = []
    for members in (image, text):
        own_lengths = [abs(lengths[index]) for index in members]
        groups = _length_groups(own_lengths, batch_size_per_device, world_size, shuffle_generator)
        *full, last = [[members[index] for index in group] for group in groups]
        whole.extend(full)
        rest.extend(last)
    order = torch.randperm(len(whole), generator=generator).tolist()
    return [*_flat([whole[index] for index in order]), *sorted(rest)]


def _flat(groups: Sequence[Sequence[int]]) -> list[int]:
    return [index for group in groups for index in group]


def _length_groups(
    lengths: Sequence[int], batch_size: int, world_size: int, generator: torch.Generator | None
) -> list[list[int]]:
    """Shuffle, cut into mega-batches, sort each by length and deal it to the devices; one list a mega-batch."""
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    step = batch_size * world_size
    groups = []
    for begin in range(0, len(shuffled), step):
        longest_first = sorted(shuffled[begin : begin + step], key=lambda index: lengths[index], reverse=True)
        groups.append(_flat(_deal(longest_first, lengths, world_size)))
    return groups


def _deal(indices: list[int], lengths: Sequence[int], devices: int) -> list[list[int]]:
    """Deal samples, longest first, each to the device with the fewest words that has room; in turn if uneven."""
    if len(indices) % devices:
        return [indices[device::devices] for device in range(devices)]
    room = len(indices) // devices
    shares: list[list[int]] = [[] for _ in range(devices)]
    words = [0.0] * devices
    for index in indices:
        device = words.index(min(words))
        shares[device].append(index)
        words[device] = words[device] + lengths[index] if len(shares[device]) < room else float("inf")
    return shares
