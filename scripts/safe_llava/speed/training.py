"""Measure the trainer: the real loop, loader, optimizer and metrics on a synthetic set and random weights.

On as many GPUs as there are: ``python -m safe_llava.train.launch --processes 8 --module safe_llava.speed.training --
--stage finetune --work /tmp/bench --out finetune.jsonl``; ``--size tiny`` runs the same on a CPU. The log has a line
with the conditions, one for each step and one with the means behind the warm-up.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safe_llava.config.train import Stage, TrainedModel
from safe_llava.core import cli
from safe_llava.core.files import write_text
from safe_llava.core.imports import light_transformers
from safe_llava.formats.annotations import read_samples
from safe_llava.formats.metrics import StepMetrics
from safe_llava.train.loop.deepspeed import Processes, join_processes
from safe_llava.train.model import attention

if TYPE_CHECKING:
    from safe_llava.train.samples.annotated import SampleDataset

COMMON: dict[str, Any] = {
    "annotations": "synthetic",
    "epochs": 1000,
    "warmup_ratio": 0.03,
    "weight_decay": 0.0,
    "adam_betas": [0.9, 0.999],
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
}
PRETRAIN: dict[str, Any] = {
    **COMMON,
    "template": "plain",
    "image_geometry": "crop",
    "trainable": ["projector"],
    "order": "shuffled",
    "global_batch": 256,
    "reference_group": 32,
    "learning_rate": 1e-3,
}
FINETUNE: dict[str, Any] = {
    **COMMON,
    "template": "v1",
    "image_geometry": "pad",
    "trainable": ["projector", "language_model"],
    "order": "modality_length",
    "global_batch": 128,
    "reference_group": 16,
    "learning_rate": 2e-5,
}
# Vicuna-7B and CLIP ViT-L/14-336; with half its layers; and in tiny.
LANGUAGE = {
    "7b": (4096, 11008, 32, 32),
    "half": (4096, 11008, 16, 32),
    "tiny": (64, 128, 2, 4),
}
TOWER_SIZES = {
    "7b": (1024, 4096, 24, 16, 336, 14),
    "half": (1024, 4096, 24, 16, 336, 14),
    "tiny": (32, 64, 3, 2, 56, 14),
}


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark and its peer are both told."""
    parser.add_argument("--stage", choices=("pretrain", "finetune"), required=True)
    parser.add_argument("--size", choices=sorted(LANGUAGE), default="7b", help="of the model with random weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for the synthetic set, kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="log, JSON lines")
    parser.add_argument("--tokenizer", type=Path, help="Llama tokenizer.model; default: one word, one token")
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps in all")
    parser.add_argument("--warmup", type=int, default=8, help="steps that are not counted")
    parser.add_argument("--global-batch", type=int, help="default: the stage's")
    parser.add_argument("--workers", type=int, default=8, help="loader processes of each training process")
    parser.add_argument("--samples", type=int, default=4096, help="of the synthetic set")
    parser.add_argument("--images", type=int, default=512, help="of the synthetic set")
    parser.add_argument("--seed", type=int, default=42)


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.speed.training", description=__doc__.split("\n")[0])
    common_options(parser)
    parser.add_argument("--micro-tokens", type=int, default=16384, help="tokens of a micro-batch, at most (packed)")
    parser.add_argument("--micro-batch", type=int, help="samples of a micro-batch; default: by tokens if packed")
    parser.add_argument("--attention", choices=attention.CHOICES, default="auto")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="auto: on a GPU")
    parser.add_argument("--passes-only", action="store_true", help="forward and backward pass, no optimizer, one GPU")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--zero-stage", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--offload", action="store_true", help="AdamW and its state on the CPU")
    return parser


def make_row(arguments: argparse.Namespace, gpu: bool) -> TrainedModel:
    """Return the row that is measured: the published hyperparameters, and what the command line changes."""
    changes = {
        "max_steps": arguments.steps,
        "zero_stage": arguments.zero_stage,
        "gradient_checkpointing": arguments.checkpointing,
        "offload_optimizer": arguments.offload,
    }
    stages = {"pretrain": {**PRETRAIN, **changes}, "finetune": {**FINETUNE, **changes}}
    if arguments.global_batch:
        stages[arguments.stage]["global_batch"] = arguments.global_batch
    return TrainedModel.model_validate(
        {
            "description": "benchmark",
            "language_model": "random",
            "vision_tower": "random",
            "projector": "mlp2x_gelu",
            "vision_feature_layer": -2,
            "vision_feature_select": "patch",
            "max_length": 2048,
            "precision": "bf16" if gpu else "fp32",
            "seed": arguments.seed,
            "accelerator": "gpu" if gpu else "cpu",
            "processes": 1,
            "checkpoints": {"every_steps": 10**9, "every_minutes": 10**6},
            **stages,
        }
    )


def llava_config(size: str, vocabulary: int, image_token: int, feature_layer: int) -> Any:
    """Return the configuration of a LLaVA model of one of the sizes."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    width, inner, layers, heads = LANGUAGE[size]
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    width, inner, layers, heads, edge, patch = TOWER_SIZES[size]
    tower = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=edge,
        patch_size=patch,
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(edge // patch) ** 2,
        vision_feature_layer=feature_layer,
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
    )


def make_model(size: str, row: TrainedModel, vocabulary: int, device: torch.device) -> Any:
    """Return a LLaVA model of random weights; ``<image>`` lies behind the vocabulary."""
    dtype = torch.bfloat16 if row.precision == "bf16" else torch.float32
    return random_model(llava_config(size, vocabulary, vocabulary, row.vision_feature_layer), device, dtype, row.seed)


def random_model(config: Any, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """Return the model of a ``LlavaConfig``, its random weights made on the device: the same in every process."""
    light_transformers()
    from transformers import LlavaForConditionalGeneration

    default = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)


def word_tokenizer() -> Any:
    """Return a tokenizer of 32,000 ids that takes a word of the synthetic set as one token, as Llama's mostly does."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from safe_llava.speed.synthetic import SAMPLE_WORDS

    special = ["<unk>", "<s>", "</s>"]
    prompt = "USER ASSISTANT : . A chat between curious user and an artificial intelligence assistant The gives"
    texts = prompt.split()
    words = [*special, *dict.fromkeys([*SAMPLE_WORDS, *(word.capitalize() for word in SAMPLE_WORDS), *texts])]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def make_dataset(
    arguments: argparse.Namespace, row: TrainedModel, tower: Any, processes: Processes, pixels: bool = True
) -> SampleDataset:
    """Return the synthetic set of a stage, written unless it is there.

    Args:
        tower: configuration of the vision tower.
        pixels: whether images are opened.
    """
    from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
    from safe_llava.speed.synthetic import write_set
    from safe_llava.train.samples.annotated import ImageFormat, SampleDataset
    from safe_llava.train.samples.images import ImageGeometry

    file = arguments.work / f"{arguments.stage}.json"
    if processes.first and not file.is_file():
        write_set(arguments.work, arguments.stage, arguments.samples, arguments.images, arguments.seed)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    tokenizer = load_tokenizer(arguments.tokenizer, row.max_length) if arguments.tokenizer else word_tokenizer()
    geometry = ImageGeometry(getattr(row, arguments.stage).image_geometry)
    return SampleDataset(
        list(read_samples(file)),
        arguments.work / "images",
        tokenizer,
        arguments.stage,
        image_token_id=add_image_token(tokenizer),
        max_length=row.max_length,
        image=ImageFormat(tower.image_size, (tower.image_size // tower.patch_size) ** 2, geometry=geometry),
        pixels=pixels,
    )


def run_steps(arguments: argparse.Namespace, row: TrainedModel, processes: Processes) -> list[StepMetrics]:
    """Train the steps; return them in the first process, an empty list in the others."""
    from safe_llava.train.loop.assemble import Paths, assemble, token_budget
    from safe_llava.train.loop.checkpoint import CheckpointFolder
    from safe_llava.train.samples.schedule import Plan

    stage: Stage = getattr(row, arguments.stage)
    llava = make_model(arguments.size, row, 32_000, processes.device)
    dataset = make_dataset(arguments, row, llava.config.vision_config, processes)
    image, samples = dataset.image, list(dataset.samples)
    gpu = processes.device.type == "cuda"
    chosen = attention.choose_backend(arguments.attention, processes.device)
    packed = chosen != attention.PADDED
    compiled = packed and (gpu if arguments.compile == "auto" else arguments.compile == "on")
    paths = Paths(chosen, compiled, arguments.workers)
    by_tokens = packed and arguments.micro_batch is None
    budget = token_budget(arguments.micro_tokens if by_tokens else None, row, image.tokens)
    plan = Plan(stage, samples, row.seed, processes.world_size, arguments.micro_batch, budget)
    steps_folder = arguments.work / "steps"
    if processes.first and steps_folder.exists():
        shutil.rmtree(steps_folder)
    torch.distributed.barrier()
    if arguments.passes_only:
        return _passes(llava, dataset, row, stage, plan, processes, paths)
    folder = CheckpointFolder(steps_folder, {}, processes, 1)
    loop, data = assemble(llava, dataset, row, stage, plan, folder, processes, paths, f"bench {arguments.stage}")
    loop.saves = False
    try:
        return loop.run(data)[1]
    finally:
        folder.release()


def _passes(
    llava: Any,
    dataset: Any,
    row: TrainedModel,
    stage: Stage,
    plan: Any,
    processes: Processes,
    paths: Any,
) -> list[StepMetrics]:
    """Run forward and backward passes alone, as the facts' prototype was measured; the loss and norm are left out."""
    from safe_llava.train.loop.assemble import loss_model, packing_for
    from safe_llava.train.loop.flops import arithmetic_of, peak_flops
    from safe_llava.train.model.build import set_trainable
    from safe_llava.train.samples.batches import StepDataset, steps_from

    set_trainable(llava, row, stage)
    arithmetic = arithmetic_of(llava, llava.config.vision_config, dataset.image.tokens, stage is row.finetune)
    model = loss_model(llava, dataset.image_token_id, paths, stage)
    device, steps, seconds = processes.device, [], 0.0
    gpu = device.type == "cuda"
    data = StepDataset(dataset, plan, 0, 1 << 28, packing_for(dataset, row, paths))
    last = time.monotonic()
    for step, batches in enumerate(steps_from(data, 0, plan.total_steps, paths.workers, gpu), start=1):
        for item in batches:
            tensors = {
                key: value.to(device, non_blocking=True) if value.ndim else value for key, value in item.tensors.items()
            }
            loss, _ = model(**tensors, weights=torch.full((len(item.groups),), 1e-3, device=device))
            loss.backward()
        if gpu:
            torch.cuda.synchronize(device)
        model.zero_grad()
        now = time.monotonic()
        took, last = now - last, now
        seconds += took
        flops = sum(arithmetic.step(b.tokens, b.squares, int(b.labelled.sum()), b.images) for b in batches)
        mfu = flops / took / (peak_flops(device) or float("inf"))
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if gpu else 0.0
        tokens = sum(b.tokens for b in batches)
        speeds = (stage.global_batch / took, tokens / took, seconds, mfu, memory)
        steps.append(StepMetrics(step, 0.0, 0.0, 0.0, 0.0, *(round(value, 4) for value in speeds)))
    return steps


def conditions(arguments: argparse.Namespace, row: TrainedModel, processes: Processes, back_end: str) -> dict[str, Any]:
    """Return what the figures hold for.

    Args:
        back_end: of attention.
    """
    gpu = processes.device.type == "cuda"
    return {
        "kind": "conditions",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or "cpu",
        "devices": processes.world_size,
        "arguments": {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)},
        "attention": back_end,
        "global_batch": getattr(row, arguments.stage).global_batch,
        "versions": {"python": sys.version.split()[0], **_versions()},
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "deepspeed", "triton", "flash-attn", "accelerate", "liger-kernel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def means(steps: Sequence[dict[str, Any]], warmup: int, global_batch: int, devices: int) -> dict[str, Any]:
    """Return the steady state: samples, tokens and peak use over the time behind the warm-up.

    Args:
        steps: lines of the log with ``seconds`` since the beginning.
    """
    counted = steps[warmup:]
    seconds = counted[-1]["seconds"] - steps[warmup - 1]["seconds"]
    took = [now["seconds"] - before["seconds"] for before, now in zip(steps[warmup - 1 :], counted, strict=False)]
    tokens = sum(step["tokens_per_s"] * time for step, time in zip(counted, took, strict=True))
    samples = len(counted) * global_batch / seconds
    return {
        "kind": "means",
        "steps": len(counted),
        "seconds": round(seconds, 3),
        "samples_per_s": round(samples, 3),
        "samples_per_s_per_device": round(samples / devices, 3),
        "tokens_per_s_per_device": round(tokens / seconds / devices, 1),
        "mfu": round(sum(step["mfu"] * time for step, time in zip(counted, took, strict=True)) / seconds, 4),
        "median_step_s": round(statistics.median(took), 4),
        "memory_gib": max(step["memory_gib"] for step in steps),
    }


def main(argv: Sequence[str] | None = None) -> int | None:
    """Measure, print the means and write the log."""
    arguments = parser().parse_args(argv)
    gpu = torch.cuda.is_available()
    processes = join_processes("gpu" if gpu else "cpu", 1)
    row = make_row(arguments, gpu)
    steps = [{"kind": "step", **asdict(step)} for step in run_steps(arguments, row, processes)]
    if processes.first:
        back_end = attention.choose_backend(arguments.attention, processes.device)
        first = conditions(arguments, row, processes, back_end)
        last = means(steps, arguments.warmup, first["global_batch"], processes.world_size)
        lines = [first, *steps, last]
        write_text(arguments.out, "".join(json.dumps(line) + "\n" for line in lines))
        print(json.dumps(last))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    cli.run(main)
