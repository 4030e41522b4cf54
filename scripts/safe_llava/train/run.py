"""Train one stage of one model: the projector on captions, or projector and language model on conversations.

By hand, in one process: ``python -m safe_llava.train.run --config ROW.json --stage pretrain …``; in several on
one machine: ``python -m safe_llava.train.launch --processes 8 -- --config ROW.json …`` (or torchrun). Killed at
any moment, the same command goes on from the newest checkpoint; SIGTERM and SIGUSR1 make it save and exit with
75, "run again".
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import torch

from safe_llava.config.train import Stage, TrainedModel
from safe_llava.core import cli, imagefiles
from safe_llava.core.errors import SafeLlavaError, TrainError
from safe_llava.core.files import file_digest, write_json
from safe_llava.core.provenance import record
from safe_llava.train.checkpoint import CheckpointFolder
from safe_llava.train.engine import Processes, join_processes
from safe_llava.train.loop import Loop, StopRequest
from safe_llava.train.metrics import StepMetrics, check_tensorboard, write_metrics

LOG = logging.getLogger(__name__)
MIB = 1 << 20
CPU_MICRO_BATCH = 8


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.train.run", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="a train.models row as JSON")
    parser.add_argument("--stage", choices=("pretrain", "finetune"), required=True)
    parser.add_argument("--language-model", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--vision-tower", type=Path, required=True, help="folder of the vision tower")
    parser.add_argument("--annotations", type=Path, required=True, help="JSON list of samples, or .jsonl")
    parser.add_argument("--images", type=Path, required=True, help="folder that image paths start from")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for checkpoints, made if absent")
    parser.add_argument("--projector", type=Path, help="projector.safetensors of the pretrain stage (finetune)")
    parser.add_argument("--out", type=Path, required=True, help="pretrain: projector file; finetune: checkpoint folder")
    parser.add_argument("--metrics", type=Path, required=True, help="CSV of the steps")
    parser.add_argument("--summary", type=Path, required=True, help="JSON of the run and its provenance")
    parser.add_argument("--micro-batch", type=int, help="samples at once; default: 8 on CPU, by tokens on GPU")
    parser.add_argument("--micro-tokens", type=int, help="tokens at once; default on GPU: what the memory allows")
    parser.add_argument("--attention", default="auto", help="auto, padded, varlen, flash, flex or blocks")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="layers; auto: on a GPU")
    parser.add_argument("--workers", type=int, help="loader processes each; default: 0 on a CPU, 8 on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch in each process")
    parser.add_argument("--cache-mib", type=int, default=1024, help="decoded samples kept in memory (without workers)")
    parser.add_argument("--tensorboard", type=Path, help="folder for TensorBoard's event files; default: none")
    parser.add_argument("--keep-checkpoints", action="store_true", help="leave the checkpoints when all is done")
    return parser


def read_row(file: Path) -> TrainedModel:
    """Read a train.models row.

    Raises:
        TrainError: the file is missing or is not such a row; the key is named.
    """
    remedy = "the workflow writes this file from the configuration: mend the row there"
    try:
        return TrainedModel.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainError(f"{file}: cannot be read: {error}", remedy) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise TrainError(f"{file}: {key}: {first['msg']}", remedy) from error


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything heavy is loaded."""
    for name in ("language_model", "vision_tower", "images"):
        if not imagefiles.is_folder(getattr(arguments, name)):
            raise TrainError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: no such folder", "fetch it first")
    if not arguments.annotations.is_file():
        raise TrainError(f"--annotations {arguments.annotations}: no such file", "make it first")
    if arguments.projector is not None and not arguments.projector.is_file():
        raise TrainError(f"--projector {arguments.projector}: no such file", "run the pretrain stage first")
    if arguments.stage == "finetune" and arguments.projector is None:
        raise TrainError("finetune without --projector", "give the file that the pretrain stage wrote")
    if arguments.tensorboard is not None:
        check_tensorboard()
    for name, least in (("micro_batch", 1), ("micro_tokens", 1), ("threads", 1), ("workers", 0), ("cache_mib", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise TrainError(f"--{name.replace('_', '-')} {value}", f"give a whole number from {least} on")


def fingerprint(
    arguments: argparse.Namespace, row: TrainedModel, processes: Processes, computed: dict[str, Any]
) -> dict[str, Any]:
    """Return what must be the same when a run goes on: whatever changes a number, and nothing else.

    Args:
        computed: how micro-batches are cut and computed, as far as it was chosen here.
    """
    config = row.model_dump(mode="json", exclude={"description", "checkpoints", "processes", "nodes", "loss_limit"})
    other = "pretrain" if arguments.stage == "finetune" else "finetune"
    folders = {"language_model": arguments.language_model, "vision_tower": arguments.vision_tower}
    models = {
        name: {file.name: file.stat().st_size for file in sorted(folder.glob("*.*")) if file.is_file()}
        for name, folder in folders.items()
    }
    return {
        "stage": arguments.stage,
        "config": {key: value for key, value in config.items() if key != other},
        "annotations_sha256": file_digest(arguments.annotations),
        "projector_sha256": file_digest(arguments.projector) if arguments.projector else None,
        "models": models,
        "world_size": processes.world_size,
        "threads": arguments.threads,
        **computed,
    }


@dataclass(frozen=True)
class Job:
    """A stage, ready to train."""

    row: TrainedModel
    stage: Stage
    llava: Any
    tower: Any
    tokenizer: Any
    loop: Loop
    data: Any


def choose_paths(arguments: argparse.Namespace, processes: Processes, stage: Stage) -> Any:
    """Return the attention back end, whether layers are compiled, and how samples are loaded."""
    from safe_llava.train import attention
    from safe_llava.train.assemble import Paths

    gpu = processes.device.type == "cuda"
    chosen = attention.choose(arguments.attention, processes.device)
    # ZeRO-3 exchanges a layer's weights in hooks that a compiled layer would not run.
    automatic = gpu and stage.zero_stage != 3
    compiled = chosen != attention.PADDED and (automatic if arguments.compile == "auto" else arguments.compile == "on")
    workers = arguments.workers if arguments.workers is not None else (8 if gpu else 0)
    return Paths(chosen, compiled, workers, arguments.cache_mib * MIB)


def prepare(arguments: argparse.Namespace, row: TrainedModel, processes: Processes) -> Job:
    """Load samples, tokenizer and weights, and put them under DeepSpeed."""
    from safe_llava.core.imports import light_transformers

    light_transformers()
    from safe_llava.train import assemble
    from safe_llava.train.model import build_model, read_tower
    from safe_llava.train.samples import SampleDataset, load_annotations
    from safe_llava.train.schedule import Plan
    from safe_llava.train.tokenizer import add_image_token, load_tokenizer

    stage: Stage = getattr(row, arguments.stage)
    samples = load_annotations(arguments.annotations)
    tokenizer = load_tokenizer(arguments.language_model, row.max_length)
    image_token_id = add_image_token(tokenizer)
    tower = read_tower(arguments.vision_tower, row)
    dataset = SampleDataset(
        samples,
        arguments.images,
        tokenizer,
        arguments.stage,
        image_token_id=image_token_id,
        max_length=row.max_length,
        image=tower.image_format(stage.image_geometry),
        template=stage.template,
    )
    llava = build_model(row, arguments.language_model, tower, arguments.projector, image_token_id, processes.device)
    choice = assemble.plan_for(llava, row, stage, processes)
    if processes.first and processes.device.type == "cuda":
        LOG.info("plan: %s", choice.reason)
    stage = choice.applied(stage)
    paths = choose_paths(arguments, processes, stage)
    by_tokens = paths.packed and arguments.micro_batch is None
    tokens = (arguments.micro_tokens or choice.micro_tokens) if by_tokens else None
    # On a CPU a smaller one costs nothing and wastes less on padding.
    micro_batch = arguments.micro_batch or (CPU_MICRO_BATCH if processes.device.type == "cpu" else None)
    budget = assemble.token_budget(tokens, row, tower.tokens)
    plan = Plan(stage, samples, row.seed, processes.world_size, micro_batch, budget)
    computed = {
        "micro_batch": plan.micro_batch,
        "micro_tokens": tokens,
        "attention": paths.attention,
        "compiled": paths.compiled,
        "zero_stage": stage.zero_stage,
        "offload_optimizer": stage.offload_optimizer,
    }
    shared: list[Any] = [fingerprint(arguments, row, processes, computed) if processes.first else None]
    torch.distributed.broadcast_object_list(shared)
    folder = CheckpointFolder(arguments.checkpoints, shared[0], processes, row.checkpoints.keep)
    label = f"train {arguments.stage}"
    loop, data = assemble.assemble(llava, dataset, row, stage, plan, folder, processes, paths, label)
    return Job(row, stage, llava, tower, tokenizer, loop, data)


def write_results(arguments: argparse.Namespace, job: Job, steps: list[StepMetrics], processes: Processes) -> None:
    """Write model, metrics and summary; then the checkpoints are not needed any more."""
    from safe_llava.train.export import save_checkpoint, save_projector
    from safe_llava.train.model import PROJECTOR

    pretrain = arguments.stage == "pretrain"
    state = job.loop.engine.gather((PROJECTOR,) if pretrain else ("",))
    if not processes.first:
        return
    if pretrain:
        save_projector(state, arguments.out)
    else:
        save_checkpoint(job.llava, state, job.row, job.tower, job.tokenizer, arguments.out)
    write_metrics(arguments.metrics, steps)
    write_json(arguments.summary, summary(arguments, job, steps, processes))
    LOG.info("wrote %s", arguments.out)
    if not arguments.keep_checkpoints:
        job.loop.folder.remove()


def summary(arguments: argparse.Namespace, job: Job, steps: list[StepMetrics], processes: Processes) -> dict[str, Any]:
    """Return the run in numbers, with its provenance."""
    inputs = {"annotations": arguments.annotations, "config": arguments.config}
    inputs |= {"language_model": arguments.language_model, "vision_tower": arguments.vision_tower}
    if arguments.projector:
        inputs["projector"] = arguments.projector
    return {
        "stage": arguments.stage,
        "final_loss": steps[-1].loss,
        "steps": len(steps),
        "samples": len(steps) * job.stage.global_batch,
        "seconds": steps[-1].seconds,
        "samples_the_original_would_drop": job.loop.would_mismatch,
        "processes": processes.world_size,
        "micro_batch": job.loop.plan.micro_batch,
        "device": torch.cuda.get_device_name() if processes.device.type == "cuda" else "cpu",
        "provenance": record(inputs, seed=job.row.seed, config=job.row.model_dump(mode="json")),
    }


def train(arguments: argparse.Namespace) -> int:
    """Train a stage to its end, or to a signal; return the exit code."""
    check_arguments(arguments)
    row = read_row(arguments.config)
    processes = join_processes(row.accelerator, arguments.threads)
    job = prepare(arguments, row, processes)
    job.loop.loss_limit, job.loop.tensorboard = row.loss_limit, arguments.tensorboard
    if processes.first:
        plan = job.loop.plan
        each = f"{plan.micro_batches} x {plan.micro_batch}"
        if plan.budget is not None:
            each = f"at most {plan.budget.tokens} tokens"
        LOG.info(
            "%s: %d steps of %d samples on %d processes (%s at once each)",
            job.loop.label,
            plan.total_steps,
            job.stage.global_batch,
            processes.world_size,
            each,
        )
    try:
        finished, steps = job.loop.run(job.data)
        StopRequest.release()
        if not finished:
            return cli.EXIT_RUN_AGAIN
        write_results(arguments, job, steps, processes)
        torch.distributed.barrier()
    finally:
        job.loop.folder.release()
    return 0


def main(argv: Sequence[str] | None = None) -> int | None:
    """Train one stage; one error is printed where all processes meet the same one."""
    arguments = parser().parse_args(argv)
    try:
        code = train(arguments)
        torch.distributed.destroy_process_group()
        return code
    except SafeLlavaError:
        StopRequest.release()
        if int(os.environ.get("RANK", "0")) > 0:
            # If the first process failed the same way, the launcher ends this one before it says so again.
            sys.stderr.flush()
            time.sleep(3)
        raise


if __name__ == "__main__":
    cli.run(main)
