"""Put model, data and engine of a stage together, with the paths that make it fast where the device has them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from safe_llava.config.train import Stage, TrainedModel
from safe_llava.train.loop import planner
from safe_llava.train.loop.checkpoint import CheckpointFolder
from safe_llava.train.loop.deepspeed import Processes, TrainingEngine
from safe_llava.train.loop.flops import arithmetic_of
from safe_llava.train.loop.loop import Loop
from safe_llava.train.model import attention
from safe_llava.train.model.build import set_trainable
from safe_llava.train.model.loss import LossModel
from safe_llava.train.model.packed_loss import HEAD_ROWS, PackedLossModel
from safe_llava.train.samples.annotated import SampleDataset
from safe_llava.train.samples.batches import Packing, StepDataset
from safe_llava.train.samples.schedule import MicroBatchBudget, Plan

CACHE_BYTES = 1 << 30  # decoded samples that a process without loader processes keeps in memory


@dataclass(frozen=True)
class Paths:
    """How a stage is computed; what is computed is the same in every way.

    Attributes:
        attention: ``attention.PADDED`` or one of ``attention.PACKED``.
        compiled: whether layers are compiled one by one (packed paths only).
        workers: loader processes of each training process; 0 loads in the training process.
    """

    attention: str
    compiled: bool
    workers: int

    @property
    def packed(self) -> bool:
        """Whether micro-batches are padding-free rows."""
        return self.attention != attention.PADDED


def loss_model(llava: Any, image_token_id: int, paths: Paths, stage: Stage) -> LossModel:
    """Return the model from a micro-batch to its loss."""
    if not paths.packed:
        return LossModel(llava, image_token_id)
    rows = None if stage.zero_stage == 3 else HEAD_ROWS
    model = PackedLossModel(llava, image_token_id, paths.attention, rows)
    if paths.compiled:
        model.compile_layers()
    return model


def token_budget(tokens: int | None, row: TrainedModel, image_tokens: int) -> MicroBatchBudget | None:
    """Return how micro-batches are cut by tokens; None where they are cut by samples."""
    return MicroBatchBudget(tokens, image_tokens, row.max_length) if tokens else None


def packing_for(dataset: SampleDataset, row: TrainedModel, paths: Paths) -> Packing | None:
    """Return how rows are made, or None where micro-batches are padded."""
    dtype = torch.bfloat16 if row.precision == "bf16" else torch.float32
    image = dataset.image
    return Packing(dataset.image_token_id, image.tokens, image.size, dtype) if paths.packed else None


def trained_elements(llava: Any, row: TrainedModel, stage: Stage) -> int:
    """Return how many elements the stage will train; the model may be untouched."""
    count = 0
    if "projector" in stage.trainable:
        count += sum(value.numel() for value in llava.model.multi_modal_projector.parameters())
    if "language_model" in stage.trainable:
        language_model = llava.model.language_model
        if row.lora is not None:
            layers = [module for module in language_model.modules() if isinstance(module, torch.nn.Linear)]
            return count + sum(row.lora.rank * (layer.in_features + layer.out_features) for layer in layers)
        count += sum(value.numel() for part in (language_model, llava.lm_head) for value in part.parameters())
    return count


def plan_for(
    llava: Any, row: TrainedModel, stage: Stage, processes: Processes, before: int | None = None
) -> planner.Choice:
    """Return how the planner would compute the stage on the GPUs that are there.

    ``before`` is as for ``choose_computation``.
    """
    memory = 0.0
    if processes.device.type == "cuda":
        memory = float(torch.cuda.get_device_properties(processes.device).total_memory)
    size = planner.measure_model(llava, trained_elements(llava, row, stage))
    machine = planner.Machine(memory, processes.world_size, row.nodes, len(os.sched_getaffinity(0)))
    return planner.choose_computation(size, row, stage, machine, before)


def assemble(
    llava: Any,
    dataset: SampleDataset,
    row: TrainedModel,
    stage: Stage,
    plan: Plan,
    folder: CheckpointFolder,
    processes: Processes,
    paths: Paths,
    label: str,
) -> tuple[Loop, StepDataset]:
    """Mark what is trained, put the model under DeepSpeed, and return the loop with its data."""
    set_trainable(llava, row, stage)
    trains_language = "language_model" in stage.trainable and row.lora is None
    tower_config = llava.config.vision_config
    arithmetic = arithmetic_of(llava, tower_config, dataset.image.tokens, trains_language)
    model = loss_model(llava, dataset.image_token_id, paths, stage)
    engine = TrainingEngine(model, row, stage, plan.micro_batch, plan.micro_batches, processes)
    loop = Loop(engine, plan, stage, row.checkpoints, folder, processes, row.seed, paths.workers, label)
    loop.arithmetic = arithmetic
    cache = 0 if paths.workers else CACHE_BYTES
    return loop, StepDataset(dataset, plan, processes.rank, cache, packing_for(dataset, row, paths))
