"""Which samples a step takes, who computes them, and at which learning rate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import Sample, Turn
from safe_llava.train.samples.schedule import Plan, fill_last_step, learning_rate_factor
from train.tiny import make_row


def samples(count: int, text_every: int = 0) -> list[Sample]:
    images = [None if text_every and k % text_every == 0 else "x.jpg" for k in range(count)]
    return [Sample(k + 1, str(k), image, (Turn("gpt", "w " * (k % 7 + 1)),)) for k, image in enumerate(images)]


def plan(count: int, world_size: int = 1, micro_batch: int | None = None, **stage: Any) -> Plan:
    return Plan(make_row(finetune=stage).finetune, samples(count, 4), 7, world_size, micro_batch)


@pytest.mark.parametrize(("total", "ratio"), [(100, 0.03), (2181, 0.03), (5198, 0.03), (10, 0.0), (3, 0.5)])
def test_the_learning_rate_is_transformers(total: int, ratio: float) -> None:
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(ratio * total), total)
    for step in range(total):
        assert learning_rate_factor(step, total, ratio) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 23, 24, 25, 40])
def test_the_last_step_is_filled_as_accelerate_does(count: int) -> None:
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    order = [(5 * k) % 41 for k in range(count)]
    devices, batch = 4, 2
    shards = [list(BatchSamplerShard(BatchSampler(order, batch, False), devices, rank)) for rank in range(devices)]
    expected = [index for step in zip(*shards, strict=True) for share in step for index in share]
    assert fill_last_step(order, devices * batch) == expected


@pytest.mark.parametrize(("count", "batch", "group", "steps"), [(558_128, 256, 32, 2181), (665_298, 128, 16, 5198)])
def test_steps_of_the_published_stages(count: int, batch: int, group: int, steps: int) -> None:
    stage = make_row(finetune={"global_batch": batch, "reference_group": group}).finetune
    assert Plan(stage, [samples(1)[0]] * count, 42, 8, None).total_steps == steps


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_every_sample_of_a_step_is_computed_once(world_size: int, micro_batch: int | None) -> None:
    whole = plan(50, world_size, micro_batch)
    for step in range(whole.total_steps):
        shares = [whole.share(step, rank) for rank in range(world_size)]
        assert {len(share) for share in shares} == {whole.micro_batches}
        slots = [slot for share in shares for batch in share for slot in batch]
        expected = [(index, position // 4) for position, index in enumerate(whole.step(step))]
        assert sorted((slot.index, slot.group) for slot in slots) == sorted(expected)
        assert all(len(batch) <= whole.micro_batch for share in shares for batch in share)


def test_micro_batches_hold_alike_lengths() -> None:
    members = samples(50, 4)
    batches = Plan(make_row().finetune, members, 7, 1, 2).share(0, 0)
    words = [members[slot.index].words for batch in batches for slot in batch]
    assert len(batches) == 4
    assert words == sorted(words)


@pytest.mark.parametrize(("world_size", "cut"), [(1, False), (2, False), (4, True), (8, True)])
def test_groups_are_cut_or_not(world_size: int, cut: bool) -> None:
    assert plan(50, world_size).groups_are_cut is cut


@pytest.mark.parametrize("order", ["shuffled", "modality_length"])
def test_the_order_follows_the_seed_alone(order: str) -> None:
    first = plan(50, order=order, epochs=3)
    orders = [first.step(step) for step in range(first.total_steps)]
    torch.manual_seed(1)
    second = plan(50, order=order, epochs=3, world_size=2)
    assert second.step(15) == orders[15], "a run that starts late sees the same samples"
    assert [second.step(step) for step in range(second.total_steps)] == orders
    assert orders[0] != orders[7], "epochs differ"
    assert sorted({index for step in orders[:7] for index in step}) == list(range(50))


def test_modalities_stay_apart() -> None:
    members = samples(64, 4)
    whole = Plan(make_row().finetune, members, 7, 1, None)
    kinds = [{members[index].image is None for index in whole.step(step)} for step in range(whole.total_steps)]
    # The last mega-batch of each modality goes to the tail, as in the original, and may share a step there.
    assert kinds.count({True}) == 1
    assert kinds.count({False}) == 5
    assert kinds[-2:].count({True, False}) == 2


@pytest.mark.parametrize(("epochs", "max_steps", "steps"), [(1, None, 7), (0.5, None, 4), (2, None, 14), (2, 3, 3)])
def test_how_many_steps(epochs: float, max_steps: int | None, steps: int) -> None:
    assert plan(50, epochs=epochs, max_steps=max_steps).total_steps == steps


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(TrainError, match="not a multiple"):
        plan(50, global_batch=10, reference_group=4)
    with pytest.raises(TrainError, match="no samples"):
        plan(0)
