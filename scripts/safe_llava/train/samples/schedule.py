"""What happens at which step: the samples, their reference groups, who computes them, the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from safe_llava.config.train import Stage
from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import Sample
from safe_llava.train.samples import order as sampler
from safe_llava.train.samples.annotated import signed_length


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Return the part of the peak learning rate that optimizer step ``step`` (from 0) uses.

    Linear warm-up over ``ceil(warmup_ratio * total)`` steps, then a half cosine to zero: the schedule of
    transformers' ``get_cosine_schedule_with_warmup``, as a function of the step so that nothing of it
    has to be saved.
    """
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def epoch_order(stage: Stage, lengths: list[int], generator: torch.Generator) -> list[int]:
    """Return the samples' indices in the order of one epoch, drawing from ``generator``.

    Args:
        lengths: words of each sample, negative without an image.
    """
    if stage.order == "shuffled":
        return sampler.shuffled_order(len(lengths), generator)
    devices = stage.global_batch // stage.reference_group
    # One generator for both draws, as in the original, where both come from the global one.
    return sampler.modality_length_order(lengths, stage.reference_group, devices, generator, generator)


def fill_last_step(order: list[int], global_batch: int) -> list[int]:
    """Make ``order`` a whole number of steps by going round to its beginning.

    The original's loader does so (accelerate's ``BatchSamplerShard`` with even batches): its last step
    repeats the first samples of the epoch instead of running short.
    """
    missing = -len(order) % global_batch
    head = order[:global_batch]
    return order + [head[i % len(head)] for i in range(missing)]


@dataclass(frozen=True)
class MicroBatchBudget:
    """How many tokens a micro-batch may hold, and what a sample is estimated at before it is tokenised.

    Attributes:
        tokens: of a micro-batch, at most (a single sample may exceed it).
        image_tokens: of an image.
        max_length: where samples are cut.
        tokens_per_word, constant: the estimate; system sentence, roles and separators are the constant.
    """

    tokens: int
    image_tokens: int
    max_length: int
    tokens_per_word: float = 1.5
    constant: int = 48

    def cost(self, signed_words: int) -> int:
        """Return the tokens that a sample of so many words may have; negative without an image."""
        image = self.image_tokens if signed_words > 0 else 0
        return min(self.max_length, image + self.constant + math.ceil(self.tokens_per_word * abs(signed_words)))


def _spread(costs: list[int], count: int) -> list[list[int]]:
    """Spread items over ``count`` parts of alike cost: the dearest first, each to the cheapest part so far."""
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        part = sums.index(min(sums))
        parts[part].append(item)
        sums[part] += costs[item]
    return parts


@dataclass(frozen=True)
class Slot:
    """A sample's place in a step.

    Attributes:
        index: in the annotations.
        group: reference group within the step.
        repeated: whether it only fills up the last step of an epoch.
    """

    index: int
    group: int
    repeated: bool = False


class Plan:
    """Which process computes which samples in which micro-batch of which step.

    Everything follows from the arguments, so a run that starts in the middle sees the same samples.

    Args:
        world_size: number of training processes.
        micro_batch: samples a process computes at once, at most.
        budget: cut shares by tokens instead; then ``micro_batch`` and ``micro_batches`` are the largest there can be.

    Raises:
        TrainError: no samples, or a global batch that is not a whole number of reference groups.
    """

    def __init__(
        self,
        stage: Stage,
        samples: list[Sample],
        seed: int,
        world_size: int,
        micro_batch: int | None,
        budget: MicroBatchBudget | None = None,
    ) -> None:
        if not samples:
            raise TrainError("the annotation file has no samples", "check the data stage's output")
        if stage.global_batch % stage.reference_group:
            raise TrainError(
                f"global_batch {stage.global_batch} is not a multiple of reference_group {stage.reference_group}",
                "change one of the two in the train.models row",
            )
        self._stage, self._world_size = stage, world_size
        self.steps_per_epoch = math.ceil(len(samples) / stage.global_batch)
        total = math.ceil(stage.epochs * self.steps_per_epoch)
        self.total_steps = min(total, stage.max_steps or total)
        self.groups_per_step = stage.global_batch // stage.reference_group
        largest_share = math.ceil(stage.global_batch / world_size)
        self.budget = budget
        self.micro_batch = largest_share if budget else min(micro_batch or stage.reference_group, largest_share)
        self.micro_batches = largest_share if budget else math.ceil(largest_share / self.micro_batch)
        self._lengths = [signed_length(sample) for sample in samples]
        self._orders: list[list[int]] = []
        # torch.Generator takes seeds of 64 bits; the order of an epoch follows from all before it.
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def groups_are_cut(self) -> bool:
        """Whether some reference group is spread over more than one process."""
        return any(self._first(rank) % self._stage.reference_group for rank in range(1, self._world_size))

    def step(self, step: int) -> list[int]:
        """Return the indices of the samples of a step, in order."""
        epoch, within = divmod(step, self.steps_per_epoch)
        while len(self._orders) <= epoch:
            order = epoch_order(self._stage, self._lengths, self._generator)
            self._orders.append(fill_last_step(order, self._stage.global_batch))
        start = within * self._stage.global_batch
        return self._orders[epoch][start : start + self._stage.global_batch]

    def share(self, step: int, rank: int) -> list[list[Slot]]:
        """Return a process's micro-batches of a step: equally many for every process, some maybe empty."""
        indices = self.step(step)
        whole = len(self._lengths) - step % self.steps_per_epoch * self._stage.global_batch
        mine = [
            Slot(indices[position], position // self._stage.reference_group, repeated=position >= whole)
            for position in range(self._first(rank), self._first(rank + 1))
        ]
        if self.budget is not None:
            return self._by_tokens(step, mine)
        # Weights belong to samples, so their order within a share is free: alike lengths waste less padding.
        mine.sort(key=lambda slot: abs(self._lengths[slot.index]))
        size = self.micro_batch
        return [mine[i * size : (i + 1) * size] for i in range(self.micro_batches)]

    def _by_tokens(self, step: int, mine: list[Slot]) -> list[list[Slot]]:
        """Cut a share into as few parts of alike size as keep every process within the budget."""
        assert self.budget is not None
        indices = self.step(step)
        costs = [self.budget.cost(self._lengths[index]) for index in indices]
        shares = [costs[self._first(rank) : self._first(rank + 1)] for rank in range(self._world_size)]
        count = max(1, math.ceil(max(sum(share) for share in shares) / self.budget.tokens))
        while count < max(len(share) for share in shares) and any(
            max(sum(share[i] for i in part) for part in _spread(share, count)) > self.budget.tokens for share in shares
        ):
            count += 1
        own = [self.budget.cost(self._lengths[slot.index]) for slot in mine]
        return [[mine[i] for i in part] for part in _spread(own, count)]

    def _first(self, rank: int) -> int:
        return self._stage.global_batch * rank // self._world_size
