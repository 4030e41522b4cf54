"""Measure transformers' Trainer on the model, the set and the samples of a step that ``speed.training`` measures with.

``python -m safe_llava.speed.peer --stage finetune --size half --global-batch 32 --work /tmp/bench --out LOG``, with
the packages of training and ``pip install liger-kernel``, which only this module uses. The log is as ``speed.training``
writes it.

The Trainer is set up for speed, as its documentation advises: Liger kernels (norm, rotary embedding, SwiGLU, the head
fused with the loss), samples put into one row without padding by ``DataCollatorWithFlattening``, fused AdamW. Weights
are bf16 and their masters fp32, as in this project: under DeepSpeed ZeRO-1 (``--masters zero``), or what is trained is
fp32 under bf16 autocast (``--masters autocast``). Attention is PyTorch's ``varlen_attn``, registered with transformers;
that of flash-attn would be the same kernel. Two things differ: the loss is the token mean of a step (here, of each
reference group), and the head has 64 more rows, as in published LLaVA checkpoints.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import Subset
from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments

from safe_llava.config.train import Stage, TrainedModel
from safe_llava.core import cli
from safe_llava.core.errors import TrainError
from safe_llava.core.files import write_text
from safe_llava.formats.metrics import StepMetrics
from safe_llava.speed import training
from safe_llava.train.loop.deepspeed import Processes, join_processes
from safe_llava.train.loop.flops import arithmetic_of, peak_flops
from safe_llava.train.model import attention
from safe_llava.train.model.build import set_trainable
from safe_llava.train.samples.annotated import Features, SampleDataset
from safe_llava.train.samples.batches import count_labelled
from safe_llava.train.samples.schedule import Plan

VOCABULARY = 32_064  # Llama's 32,000, the image's token, and padding to a multiple of 64
SDPA = "sdpa"


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.speed.peer", description=__doc__.split("\n")[0])
    training.common_options(parser)
    parser.add_argument("--micro-batch", type=int, default=16, help="samples of a row")
    parser.add_argument("--masters", choices=("zero", "autocast"), default="zero", help="where fp32 weights are kept")
    parser.add_argument("--attention", choices=("auto", attention.VARLEN, SDPA), default="auto")
    parser.add_argument("--liger", choices=("auto", "on", "off"), default="auto", help="auto: on a GPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile, by the Trainer")
    parser.set_defaults(zero_stage=1, checkpointing=False, offload=False)
    return parser


@dataclass(frozen=True)
class PaddingFree:
    """transformers' padding-free collator, with the pixels and what ``attention.VARLEN`` is called with."""

    bounds: bool

    def __call__(self, features: Sequence[Features]) -> dict[str, Any]:
        """Return the arguments of the model's forward pass for one row of all samples."""
        samples = [{"input_ids": item.input_ids, "labels": item.labels} for item in features]
        batch = dict(DataCollatorWithFlattening(return_flash_attn_kwargs=True)(samples))
        ends = [batch.pop(f"{name}_{side}") for name in ("cu_seq_lens", "max_length") for side in "qk"]
        if self.bounds:
            batch |= {"bounds": ends[0], "longest": ends[2]}
        images = [item.pixel_values for item in features if item.pixel_values is not None]
        return batch | ({"pixel_values": torch.stack(images)} if images else {})


class Steps(TrainerCallback):
    """Collects the steps in the form of this project's table.

    Args:
        work: FLOPs and tokens of each step.
        peak: FLOP/s of all devices.
    """

    def __init__(self, work: Sequence[tuple[float, int]], global_batch: int, epoch: int, peak: float) -> None:
        self.steps: list[StepMetrics] = []
        self._work, self._batch, self._epoch, self._peak = work, global_batch, epoch, peak

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, float] | None = None, **___: Any) -> None:
        """Add a step: its loss was read from the device, so all its work is done."""
        if not logs or "loss" not in logs:
            return  # the end's summary
        seconds = time.monotonic() - self._start
        took = seconds - (self.steps[-1].seconds if self.steps else 0.0)
        flops, tokens = self._work[state.global_step - 1]
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        speeds = (self._batch / took, tokens / took, seconds, flops / took / self._peak, memory)
        told = (logs["loss"], logs["learning_rate"], float(logs["grad_norm"]))
        step = int(state.global_step)
        self.steps.append(StepMetrics(step, step / self._epoch, *told, *(round(value, 4) for value in speeds)))
        print(json.dumps(asdict(self.steps[-1])), flush=True)


def step_work(llava: Any, dataset: SampleDataset, stage: Stage, order: Sequence[int]) -> list[tuple[float, int]]:
    """Return FLOPs and tokens of each step that samples in this order make up.

    Args:
        dataset: without pixels, which would all be decoded.
    """
    arithmetic = arithmetic_of(
        llava, llava.config.vision_config, dataset.image.tokens, "language_model" in stage.trainable
    )
    features = [dataset[index] for index in order]
    work = []
    for start in range(0, len(order), stage.global_batch):
        step = features[start : start + stage.global_batch]
        lengths = [len(item.input_ids) for item in step]
        labelled = sum(int(count_labelled(torch.tensor([item.labels]))) for item in step)
        images = sum(item.image_span is not None for item in step)
        squares = sum(length**2 for length in lengths)
        work.append((arithmetic.step(sum(lengths), squares, labelled, images), sum(lengths)))
    return work


def trainer_arguments(arguments: argparse.Namespace, stage: Stage, processes: Processes) -> TrainingArguments:
    """Return the Trainer's settings: the row's hyperparameters, and what makes it fast.

    Raises:
        TrainError: Liger kernels are asked for and missing, or the rows do not fill a step.
    """
    gpu = processes.device.type == "cuda"
    liger = gpu if arguments.liger == "auto" else arguments.liger == "on"
    if liger and importlib.util.find_spec("liger_kernel") is None:
        raise TrainError("the package liger_kernel is missing", "pip install liger-kernel, or give --liger off")
    rows, left = divmod(stage.global_batch, arguments.micro_batch * processes.world_size)
    if left or not rows:
        raise TrainError(f"{stage.global_batch} samples are no whole rows for each process", "change --micro-batch")
    zero = {"stage": 1, "overlap_comm": gpu}
    deepspeed = {"zero_optimization": zero, "zero_allow_untested_optimizer": True, "steps_per_print": 1 << 40}
    deepspeed |= {"zero_force_ds_cpu_optimizer": False, "gradient_clipping": "auto", "bf16": {"enabled": "auto"}}
    deepspeed |= dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto")
    return TrainingArguments(
        output_dir=str(arguments.work / "peer"),
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.micro_batch,
        gradient_accumulation_steps=rows,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(stage.warmup_ratio * arguments.steps),
        weight_decay=stage.weight_decay,
        adam_beta1=stage.adam_betas[0],
        adam_beta2=stage.adam_betas[1],
        adam_epsilon=stage.adam_epsilon,
        max_grad_norm=stage.max_grad_norm,
        optim="adamw_torch_fused" if gpu else "adamw_torch",
        bf16=gpu,
        use_cpu=not gpu,
        use_liger_kernel=liger,
        torch_compile=arguments.compile,
        deepspeed=deepspeed if arguments.masters == "zero" else None,
        dataloader_num_workers=arguments.workers,
        dataloader_pin_memory=gpu,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=arguments.seed,
    )


def run_steps(arguments: argparse.Namespace, row: TrainedModel, processes: Processes) -> list[StepMetrics]:
    """Train the steps; return them."""
    stage: Stage = getattr(row, arguments.stage)
    config = training.llava_config(arguments.size, VOCABULARY, 0, row.vision_feature_layer)
    dataset = training.make_dataset(arguments, row, config.vision_config, processes)
    config.image_token_id, config.text_config.use_cache = dataset.image_token_id, False
    dtype = torch.bfloat16 if row.precision == "bf16" else torch.float32
    llava = training.random_model(config, processes.device, dtype, row.seed)
    set_trainable(llava, row, stage)
    if arguments.masters == "zero":
        import deepspeed

        deepspeed.ops.__compatible_ops__ = {}  # no kernels are built, as in this project's training
    else:
        for value in llava.parameters():
            value.data = value.data.float() if value.requires_grad else value.data
    if arguments.attention == attention.VARLEN:
        attention.use(llava.model.language_model, attention.VARLEN)
    plan = Plan(stage, list(dataset.samples), row.seed, 1, arguments.micro_batch)
    order = [slot.index for step in range(arguments.steps) for slots in plan.share(step, 0) for slot in slots]
    peak = (peak_flops(processes.device) or math.inf) * processes.world_size
    texts = training.make_dataset(arguments, row, config.vision_config, processes, pixels=False)
    work = step_work(llava, texts, stage, order)
    steps = Steps(work, stage.global_batch, plan.steps_per_epoch, peak)
    samples: Any = dataset  # what Subset asks for is there
    Trainer(
        llava,
        trainer_arguments(arguments, stage, processes),
        data_collator=PaddingFree(arguments.attention == attention.VARLEN),
        train_dataset=Subset(samples, order),
        callbacks=[steps],
    ).train()
    return steps.steps


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the means and write the log."""
    arguments = parser().parse_args(argv)
    gpu = torch.cuda.is_available()
    # One process in a group would be wrapped for data parallelism.
    alone = "RANK" not in os.environ and arguments.masters == "autocast"
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    processes = Processes(0, 1, device) if alone else join_processes("gpu" if gpu else "cpu", 1)
    if arguments.attention == "auto":
        arguments.attention = attention.VARLEN if attention.available(attention.VARLEN, device) else SDPA
    row = training.make_row(arguments, gpu)
    steps = [{"kind": "step", **asdict(step)} for step in run_steps(arguments, row, processes)]
    if processes.first:
        first = {**training.conditions(arguments, row, processes, arguments.attention), "trainer": "transformers"}
        last = training.means(steps, arguments.warmup, first["global_batch"], processes.world_size)
        write_text(arguments.out, "".join(json.dumps(line) + "\n" for line in [first, *steps, last]))
        print(json.dumps(last))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
