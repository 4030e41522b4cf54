"""Train one stage of one model: the projector on captions, or projector and language model on conversations.

By hand, in one process: ``python -m safe_llava.train.run --config ROW.json --stage pretrain …``; in several on
one machine: ``python -m safe_llava.train.launch --processes 8 -- --config ROW.json …`` (or torchrun). Killed at
any moment, the same command resumes from the newest checkpoint; SIGTERM and SIGUSR1 make it save and exit with
75, "run again", but for the time in which the results are written. These stay in ``finished`` beside the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_llava.config.train import Checkpoints, Stage, TrainedModel
from safe_llava.core import cli
from safe_llava.core.errors import SafeLlavaError, TrainError
from safe_llava.core.files import file_digest, write_json
from safe_llava.core.provenance import record
from safe_llava.core.rows import check_row
from safe_llava.formats.annotations import read_samples
from safe_llava.formats.metrics import StepMetrics
from safe_llava.formats.tables import write_table
from safe_llava.images import store as imagefiles
from safe_llava.train.loop import results
from safe_llava.train.loop.checkpoint import FINISHED, CheckpointFolder, Saved
from safe_llava.train.loop.deepspeed import Processes, join_processes
from safe_llava.train.loop.guards import taken_gpu_named
from safe_llava.train.loop.loop import Loop, StopRequest
from safe_llava.train.loop.metrics import check_tensorboard

LOG = logging.getLogger(__name__)
CPU_MICRO_BATCH = 8


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.train.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--config", type=Path, required=True, help="a train.models row, or its part for a stage, as JSON"
    )
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
    parser.add_argument("--every-steps", type=int, help="steps between two checkpoints; default: the row's")
    parser.add_argument("--every-minutes", type=float, help="minutes between two checkpoints; default: the row's")
    parser.add_argument("--keep", type=int, help="how many of the newest checkpoints are kept; default: the row's")
    parser.add_argument("--loss-limit", type=float, help="stop above this multiple of the mean; default: the row's")
    parser.add_argument("--exchange-minutes", type=float, default=30, help="after which a missing process is named")
    parser.add_argument("--tensorboard", type=Path, help="folder for TensorBoard's event files; default: none")
    parser.add_argument("--keep-checkpoints", action="store_true", help="leave them, not `finished`, when all is done")
    return parser


def read_model_row(arguments: argparse.Namespace) -> TrainedModel:
    """Read a train.models row, of which all may be missing that changes no number of the stage.

    Raises:
        TrainError: the file is missing or is not such a row; the key is named.
    """
    file, stage = arguments.config, arguments.stage
    remedy = "the workflow writes this file from the configuration: mend the row there"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        # Nobody reads these, but a row has them: a stage knows nothing of the other one, nor the number of processes.
        values = {"description": "", "processes": 1, "pretrain": said.get(stage), "finetune": said.get(stage), **said}
        given = {key: getattr(arguments, key) for key in (*Checkpoints.model_fields, "loss_limit")}
        given = {key: value for key, value in given.items() if value is not None}
        limit = given.pop("loss_limit", said.get("loss_limit"))
        values |= {"loss_limit": limit, "checkpoints": {**said.get("checkpoints", {}), **given}}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise TrainError(f"{file}: cannot be read: {error}", remedy) from error
    return check_row(TrainedModel, json.dumps(values), str(file), TrainError, remedy, is_json=True)


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
    for name, least in (("micro_batch", 1), ("micro_tokens", 1), ("threads", 1), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise TrainError(f"--{name.replace('_', '-')} {value}", f"give a whole number from {least} on")


def identity(arguments: argparse.Namespace, row: TrainedModel) -> dict[str, Any]:
    """Return what is given and must be the same when a run resumes: whatever changes a number, and nothing else."""
    folders = {"language_model": arguments.language_model, "vision_tower": arguments.vision_tower}
    models = {
        name: {file.name: file.stat().st_size for file in sorted(folder.glob("*.*")) if file.is_file()}
        for name, folder in folders.items()
    }
    return {
        "stage": arguments.stage,
        "config": row.identity(arguments.stage),
        "annotations_sha256": file_digest(arguments.annotations),
        "projector_sha256": file_digest(arguments.projector) if arguments.projector else None,
        "models": models,
        "threads": arguments.threads,
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


def choose_paths(arguments: argparse.Namespace, processes: Processes, stage: Stage, before: dict[str, Any]) -> Any:
    """Return the attention back end, whether layers are compiled, and how samples are loaded."""
    from safe_llava.train.loop.assemble import Paths
    from safe_llava.train.model import attention

    gpu = processes.device.type == "cuda"
    asked = before.get("attention", "auto") if arguments.attention == "auto" else arguments.attention
    chosen = attention.choose_backend(asked, processes.device)
    # ZeRO-3 exchanges a layer's weights in hooks that a compiled layer would not run.
    automatic = gpu and stage.zero_stage != 3
    compiled = chosen != attention.PADDED and (automatic if arguments.compile == "auto" else arguments.compile == "on")
    workers = arguments.workers if arguments.workers is not None else (8 if gpu else 0)
    return Paths(chosen, compiled, workers)


def computed_before(saved: Saved | None, processes: Processes) -> dict[str, Any]:
    """Return what a run that resumes keeps of how it was computed; on other processes, that is how it attends alone."""
    if saved is None:
        return {}
    if saved.computed["world_size"] == processes.world_size:
        return dict(saved.computed)
    return {"attention": saved.computed["attention"]}


def lay_out(
    arguments: argparse.Namespace,
    row: TrainedModel,
    stage: Stage,
    llava: Any,
    processes: Processes,
    before: dict[str, Any],
) -> tuple[Stage, Any, int | None]:
    """Choose how a stage is computed: as before where it resumes (``computed_before``), or as suits the device.

    Returns:
        The stage without ``auto``, its paths, and the tokens of a micro-batch where they are cut by tokens.
    """
    from safe_llava.train.loop import assemble

    stage = stage.model_copy(update={key: before[key] for key in ("zero_stage", "offload_optimizer") if key in before})
    tokens_before = None if arguments.micro_tokens else before.get("micro_tokens")
    choice = assemble.plan_for(llava, row, stage, processes, tokens_before)
    if processes.first and processes.device.type == "cuda":
        LOG.info("plan: %s", choice.reason)
    stage = choice.applied(stage)
    paths = choose_paths(arguments, processes, stage, before)
    by_tokens = paths.packed and arguments.micro_batch is None
    return stage, paths, (arguments.micro_tokens or choice.micro_tokens) if by_tokens else None


def load_samples(arguments: argparse.Namespace, row: TrainedModel, stage: Stage) -> tuple[Any, Any, Any]:
    """Return the stage's data set, its vision tower's description, and the tokenizer of the model that is made."""
    from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
    from safe_llava.checkpoints.tower import read_tower
    from safe_llava.train.samples.annotated import ImageFormat, SampleDataset

    samples = list(read_samples(arguments.annotations))
    tokenizer = load_tokenizer(arguments.language_model, row.max_length)
    tower = read_tower(arguments.vision_tower, row.vision_feature_select)
    dataset = SampleDataset(
        samples,
        arguments.images,
        tokenizer,
        arguments.stage,
        image_token_id=add_image_token(tokenizer),
        max_length=row.max_length,
        image=ImageFormat.of(tower, stage.image_geometry),
        template=stage.template,
    )
    return dataset, tower, tokenizer


def open_folder(arguments: argparse.Namespace, row: TrainedModel, processes: Processes) -> CheckpointFolder:
    """Return the folder of the run's checkpoints, which this run holds until it releases it."""
    given: list[Any] = [identity(arguments, row) if processes.first else None]
    torch.distributed.broadcast_object_list(given)
    return CheckpointFolder(arguments.checkpoints, given[0], processes, row.checkpoints.keep)


def prepare_training(
    arguments: argparse.Namespace, row: TrainedModel, processes: Processes, folder: CheckpointFolder
) -> Job:
    """Load samples, tokenizer and weights, and put them under DeepSpeed."""
    from safe_llava.core.imports import light_transformers

    light_transformers()
    from safe_llava.train.loop import assemble
    from safe_llava.train.model.build import build_model
    from safe_llava.train.samples.schedule import Plan

    asked: Stage = getattr(row, arguments.stage)
    saved = folder.find()
    dataset, tower, tokenizer = load_samples(arguments, row, asked)
    token_id = dataset.image_token_id
    # What a checkpoint replaces is not read first.
    replaced = saved is not None and "language_model" in asked.trainable and row.lora is None
    language_model = arguments.language_model
    llava = build_model(row, language_model, tower, arguments.projector, token_id, processes.device, not replaced)
    stage, paths, tokens = lay_out(arguments, row, asked, llava, processes, computed_before(saved, processes))
    # On a CPU a smaller one costs nothing and wastes less on padding.
    micro_batch = arguments.micro_batch or (CPU_MICRO_BATCH if processes.device.type == "cpu" else None)
    budget = assemble.token_budget(tokens, row, tower.tokens)
    plan = Plan(stage, dataset.samples, row.seed, processes.world_size, micro_batch, budget)
    folder.agree(
        {
            "world_size": processes.world_size,
            "micro_batch": plan.micro_batch,
            "micro_tokens": tokens,
            "attention": paths.attention,
            "compiled": paths.compiled,
            "zero_stage": stage.zero_stage,
            "offload_optimizer": stage.offload_optimizer,
        }
    )
    label = f"train {arguments.stage}"
    loop, data = assemble.assemble(llava, dataset, row, stage, plan, folder, processes, paths, label)
    return Job(row, stage, llava, tower, tokenizer, loop, data)


def finish(
    arguments: argparse.Namespace, job: Job, steps: list[StepMetrics], processes: Processes, made: dict[str, Any]
) -> Path:
    """Keep model, metrics and summary in the folder of the checkpoints; return where."""
    from safe_llava.checkpoints.export import Form, save_projector, write_checkpoint
    from safe_llava.checkpoints.tower import PROJECTOR
    from safe_llava.train.model.build import merge_lora

    pretrain = arguments.stage == "pretrain"
    state = job.loop.engine.gather((PROJECTOR,) if pretrain else ("",))

    def write(folder: Path) -> None:
        if pretrain:
            save_projector(state, folder / results.MODEL)
        else:
            form = Form(job.row.finetune.template, job.row.finetune.image_geometry)
            merged = merge_lora(state, job.row)
            write_checkpoint(job.llava.config, merged, form, job.tower, job.tokenizer, folder / results.MODEL)
        write_table(folder / results.METRICS, StepMetrics, steps)
        write_json(folder / results.SUMMARY, summary(arguments, job, steps, processes))

    if processes.first:
        job.loop.folder.finish(write, made)
        if job.loop.stop.received:
            LOG.info("the signal to stop came behind the last step: the results are whole")
    return job.loop.folder.folder / FINISHED


def abandon(folder: CheckpointFolder) -> None:
    """Wait for a checkpoint that is still being written: it is not needed any more, whatever becomes of it."""
    try:
        folder.settle()
    except TrainError as error:
        LOG.warning("%s", error)


def give_results(arguments: argparse.Namespace, folder: CheckpointFolder, kept: Path) -> None:
    """Put the results in their places; then the checkpoints are not needed any more."""
    places = {results.MODEL: arguments.out, results.METRICS: arguments.metrics, results.SUMMARY: arguments.summary}
    results.give(kept, places)
    LOG.info("wrote %s", arguments.out)
    if arguments.keep_checkpoints:
        shutil.rmtree(kept)
    else:
        folder.remove()


def summary(arguments: argparse.Namespace, job: Job, steps: list[StepMetrics], processes: Processes) -> dict[str, Any]:
    """Return the run in numbers, with its provenance."""
    inputs = {"annotations": arguments.annotations, "config": arguments.config}
    inputs |= {"language_model": arguments.language_model, "vision_tower": arguments.vision_tower}
    if arguments.projector:
        inputs["projector"] = arguments.projector
    return {
        "stage": arguments.stage,
        "final_loss": steps[-1].loss if steps else None,
        "steps": job.loop.plan.total_steps,
        "samples": job.loop.plan.total_steps * job.stage.global_batch,
        "seconds": steps[-1].seconds if steps else None,
        "samples_the_original_would_drop": job.loop.would_mismatch,
        "processes": processes.world_size,
        "micro_batch": job.loop.plan.micro_batch,
        "device": torch.cuda.get_device_name() if processes.device.type == "cuda" else "cpu",
        "provenance": record(inputs, seed=job.row.seed, config=job.row.identity(arguments.stage)),
    }


def announce_training(job: Job, processes: Processes) -> None:
    """Say what is about to be trained."""
    plan = job.loop.plan
    each = f"{plan.micro_batches} x {plan.micro_batch}"
    if plan.budget is not None:
        each = f"at most {plan.budget.tokens} tokens"
    if processes.first:
        LOG.info(
            "%s: %d steps of %d samples on %d processes (%s at once each)",
            job.loop.label,
            plan.total_steps,
            job.stage.global_batch,
            processes.world_size,
            each,
        )


def train(arguments: argparse.Namespace) -> int:
    """Train a stage to its end, or to a signal; return the exit code."""
    check_arguments(arguments)
    row = read_model_row(arguments)
    processes = join_processes(row.accelerator, arguments.threads, arguments.exchange_minutes)
    folder, made = open_folder(arguments, row, processes), results.made_with()
    try:
        with taken_gpu_named(processes.device):
            job = prepare_training(arguments, row, processes, folder)
        job.loop.loss_limit, job.loop.tensorboard = row.loss_limit, arguments.tensorboard
        job.loop.exchange_seconds = 60 * arguments.exchange_minutes
        kept = folder.finished(made)
        if kept is None:
            announce_training(job, processes)
            finished, steps = job.loop.run(job.data)
            if not finished:
                return cli.EXIT_RUN_AGAIN
            kept = finish(arguments, job, steps, processes, made)
            abandon(folder)
        elif processes.first:
            LOG.info("%s: finished before; delete %s to train from the beginning", job.loop.label, kept)
        if processes.first:
            give_results(arguments, folder, kept)
        torch.distributed.barrier()
    finally:
        folder.release()
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
