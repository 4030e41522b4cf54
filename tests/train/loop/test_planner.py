"""The planner's choices for the machines that labs have, without any of them."""

from __future__ import annotations

from typing import Any

import pytest

from safe_llava.core.errors import TrainError
from safe_llava.train.loop.planner import GIB, Choice, Machine, Size, choose_computation, static_bytes, token_bytes
from train.tiny import make_row

LANGUAGE = {"7b": (6_738_000_000, 32, 4096), "13b": (13_016_000_000, 40, 5120)}
TOWER, PROJECTOR = 304_000_000, 21_000_000
AUTO = {"zero_stage": "auto", "gradient_checkpointing": "auto", "offload_optimizer": "auto", "order": "shuffled"}
A100_40, H100_80, H200 = 39.4 * GIB, 79.1 * GIB, 139.7 * GIB


def plan(
    memory: float,
    processes: int,
    nodes: int = 1,
    model: str = "7b",
    stage: str = "finetune",
    before: int | None = None,
    cpus: int | None = None,
    **own: Any,
) -> Choice:
    language, layers, width = LANGUAGE[model]
    batch = {"global_batch": 256, "reference_group": 32} if stage == "pretrain" else {"global_batch": 128}
    row = make_row(**{stage: {**AUTO, "reference_group": 16, **batch, **own}}, max_length=2048)
    trained = PROJECTOR + (language if stage == "finetune" else 0)
    size = Size(language + TOWER + PROJECTOR, trained, layers, width, 32_000)
    choice = choose_computation(size, row, getattr(row, stage), Machine(memory, processes, nodes, cpus), before)
    needed = choice.static + choice.micro_tokens * token_bytes(size, choice.checkpointing)
    assert needed < memory
    assert choice.static == static_bytes(size, processes, choice.zero_stage, choice.offload)
    return choice


def test_eight_of_80_gb_need_nothing_dear() -> None:
    choice = plan(H100_80, 8)
    assert (choice.zero_stage, choice.checkpointing, choice.offload) == (1, False, False)
    assert 4096 <= choice.micro_tokens < 16_384
    assert "global batch 128, 16 samples a GPU" in choice.reason


@pytest.mark.parametrize(
    ("model", "gpus", "way", "gib"),
    [
        # bf16 weights, bf16 gradients (partitioned by ZeRO-2), fp32 states over the GPUs, buckets
        ("7b", 2, (1, True), (2 * 7.063 + 2 * 6.759 + 12 * 6.759 / 2) / 1.0737 + 2.5),
        ("7b", 4, (1, False), (2 * 7.063 + 2 * 6.759 + 12 * 6.759 / 4) / 1.0737 + 2.5),
        ("13b", 4, (2, True), (2 * 13.341 + 14 * 13.037 / 4) / 1.0737 + 2.5),
        ("13b", 8, (2, False), (2 * 13.341 + 14 * 13.037 / 8) / 1.0737 + 2.5),
    ],
)
def test_fewer_of_80_gb_compute_activations_again_before_they_offload(
    model: str, gpus: int, way: tuple[int, bool], gib: float
) -> None:
    choice = plan(H100_80, gpus, model=model)
    assert (choice.zero_stage, choice.checkpointing, choice.offload) == (*way, False)
    assert choice.static / GIB == pytest.approx(gib, abs=0.1)
    assert choice.micro_tokens >= 4096


def test_four_of_40_gb_keep_the_optimizer_on_the_cpu() -> None:
    choice = plan(A100_40, 4)
    assert choice.offload and choice.checkpointing and choice.zero_stage < 3
    assert 90 < choice.cpu_memory / GIB < 130
    assert "CPU's memory: " in choice.reason and "32 samples a GPU" in choice.reason


def test_what_an_offloaded_optimizer_costs_is_said_before_the_first_step() -> None:
    """As many CPUs as were measured, and as many elements, take as long; fewer CPUs take longer."""
    assert "adds about 2.7 s to each step on 16 CPUs" in plan(A100_40, 4, cpus=16).reason  # 1.4 s, times 6.76 / 3.52
    assert "adds about 1.3 s to each step on 32 CPUs" in plan(A100_40, 4).reason
    assert "adds about 1.3 s to each step on 16 CPUs" in plan(A100_40, 4, nodes=2).reason


def test_two_machines_of_eight_keep_the_global_batch() -> None:
    choice = plan(H100_80, 16, nodes=2)
    assert (choice.zero_stage, choice.checkpointing, choice.offload) == (1, False, False)
    assert choice.micro_tokens > plan(H100_80, 8).micro_tokens
    assert "on 2 machines: global batch 128, 8 samples a GPU" in choice.reason


def test_what_was_measured_is_what_is_chosen() -> None:
    two = plan(H200, 2)
    assert (two.zero_stage, two.checkpointing, two.offload, two.micro_tokens) == (1, False, False, 16_384)
    one = plan(H200, 1, stage="pretrain")
    assert (one.zero_stage, one.checkpointing, one.micro_tokens) == (1, False, 16_384)


def test_a_larger_model_on_smaller_gpus_partitions_more() -> None:
    large = plan(H100_80, 8, model="13b")
    assert (large.zero_stage, large.checkpointing) > (1, False)
    assert not large.offload
    assert plan(A100_40, 4, model="13b").offload


def test_pretraining_fits_one_of_40_gb() -> None:
    choice = plan(A100_40, 1, stage="pretrain")
    assert (choice.zero_stage, choice.checkpointing, choice.offload) == (1, False, False)


def test_what_the_row_says_is_kept() -> None:
    choice = plan(H100_80, 8, zero_stage=3, gradient_checkpointing=True)
    assert (choice.zero_stage, choice.checkpointing, choice.offload) == (3, True, False)
    assert plan(H100_80, 8, zero_stage=2, gradient_checkpointing=True, offload_optimizer=False).zero_stage == 2
    applied = choice.applied(make_row(finetune=AUTO).finetune)
    assert (applied.zero_stage, applied.gradient_checkpointing, applied.offload_optimizer) == (3, True, False)


def test_what_cannot_fit_is_refused_with_the_reason() -> None:
    with pytest.raises(TrainError, match="do not fit on 1 GPUs of 39 GiB"):
        plan(A100_40, 1, model="13b", offload_optimizer=False)
    with pytest.raises(TrainError, match="129 GPUs"):
        plan(H100_80, 129)


def test_a_run_goes_on_with_its_micro_batches_where_they_fit() -> None:
    small = plan(H100_80, 8)
    # On larger GPUs as on those that it began on; on smaller ones at the cost of computing activations again.
    assert plan(H200, 8, before=small.micro_tokens).micro_tokens == small.micro_tokens
    assert plan(H100_80, 8, before=16_384, zero_stage=1).checkpointing
    with pytest.raises(
        TrainError, match="micro-batches of 16384 tokens, as this training began with, do not fit"
    ) as no:
        plan(A100_40, 8, before=16_384, zero_stage=1, offload_optimizer=False)
    assert "constraint" in no.value.remedy


def test_cpus_are_left_as_they_are() -> None:
    row = make_row(finetune=AUTO)
    choice = choose_computation(Size(10, 10, 1, 1, 1), row, row.finetune, Machine(0, 2))
    assert (choice.zero_stage, choice.checkpointing, choice.offload) == (2, False, False)
