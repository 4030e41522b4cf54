"""What a node's facts (``cluster.node``) mean for the jobs that will run there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from safe_llava.cluster.checks.findings import CheckResult
from safe_llava.cluster.estimates.estimate import model_size
from safe_llava.cluster.estimates.footprint import footprint
from safe_llava.cluster.estimates.measured import Measured
from safe_llava.config.base import Row
from safe_llava.config.schema import Config
from safe_llava.containers.tag import tag_in
from safe_llava.core.errors import TrainError
from safe_llava.data.planning.volume import decimal_size
from safe_llava.train.loop.planner import GIB, Machine, choose_computation

NodeKind = Literal["train", "eval", "paper"]
REQUIRED: dict[str, tuple[str, ...]] = {
    "train": ("torch", "transformers", "deepspeed", "pydantic"),
    "eval": ("torch", "transformers", "lmms-eval", "pydantic"),
    "paper": ("matplotlib", "pydantic"),
}
# What a stage is faster with, and what it takes instead.
BETTER: dict[str, dict[str, str]] = {
    "train": {"flash-attn": "PyTorch's own attention is used"},
    "eval": {"vllm": "answers come from transformers"},
    "paper": {},
}
DRIVER = 580  # the oldest for CUDA 13, which the wheels bring (NVIDIA: CUDA Compatibility, table 1)
# Of what is installed and cannot be loaded: what lets the run do without it.
WITHOUT = {"vllm": "; or `backend: transformers` in the rows of models"}


class Expected(Row):
    """What a job that looked around was to find: its container image (null: none is used), and GPUs."""

    image: str | None
    gpus: int
    log: str


def node_findings(
    kind: NodeKind, facts: Mapping[str, Any] | None, want: Expected, config: Config, known: Measured
) -> list[CheckResult]:
    """Return the lines of one job.

    Args:
        facts: what ``cluster.node`` wrote; None where its job did not come back.
    """
    where = f"{kind} image" if want.image else f"{kind} environment"
    if facts is None:
        said = "its job has not reported"
        remedy = f"read {want.log} and the job's own log under results/logs/slurm, then run this again"
        return [CheckResult(where, "job", "red", said, remedy)]
    job = f"SLURM job {facts['slurm_job']} on " if facts["slurm_job"] else ""
    found = [CheckResult(where, "job", "ok", f"{job}{facts['host']}, {facts['cpus']} CPUs, Python {facts['python']}")]
    if want.image:
        found.append(_image(where, facts, want.image))
    found += _packages(where, kind, facts["packages"])
    found += _better(where, kind, facts, want.image)
    if facts["gpus"] is not None:
        found.append(_gpus(where, facts["gpus"], want.gpus))
    if facts["all_reduce"] is not None:
        found.append(_sum(where, facts["all_reduce"]))
    if kind == "train":
        found += _memory(where, facts, config, known)
    return [*found, *_folders(where, facts)]


def _image(where: str, facts: Mapping[str, Any], wanted: str) -> CheckResult:
    image = facts["image"]
    if image is None:
        remedy = "run with --sdm apptainer, as workflow/profiles/slurm does"
        return CheckResult(where, "image", "red", f"the job did not run in {wanted}", remedy)
    return labelled(where, "image", wanted, image["labels"], image["path"])


def labelled(where: str, what: str, wanted: str, labels: Mapping[str, str], said: str) -> CheckResult:
    """Return whether an image's labels are those of the one that was wanted.

    Args:
        wanted: the image's path, which carries the tag unless the container image is the user's own.
        said: what is known of it beside its labels.
    """
    found, expected = labels.get("safe-llava.tag"), tag_in(wanted)
    if found is None and expected is None:
        remedy = "leave images.train, .eval and .paper out, and run snakemake images; or see to its packages yourself"
        return CheckResult(where, what, "open", f"{said}: no labels of this project", remedy)
    if expected is not None and found != expected:
        return CheckResult(where, what, "red", f"{said}: tag {found}, and it should be {expected}", made_again(wanted))
    commit = labels.get("org.opencontainers.image.revision", "unknown")
    return CheckResult(where, what, "ok", f"{said}: tag {found}, commit {commit}")


def made_again(image: str) -> str:
    """Return how to come by a container image again: the user's own is not this project's to delete."""
    return f"rm {image}*; snakemake images" if tag_in(image) else "copy the image again, and its note with it"


def _packages(where: str, kind: str, found: Mapping[str, str]) -> Iterator[CheckResult]:
    if missing := [name for name in REQUIRED[kind] if name not in found]:
        remedy = "make the image again (snakemake images), or the environment (make env)"
        yield CheckResult(where, "packages", "red", f"not installed: {', '.join(missing)}", remedy)
    else:
        yield CheckResult(where, "packages", "ok", ", ".join(f"{name} {found[name]}" for name in REQUIRED[kind]))


def _better(where: str, kind: str, facts: Mapping[str, Any], image: str | None) -> Iterator[CheckResult]:
    """Say which of what is compiled for GPUs is there, and whether it was loaded where a GPU is."""
    for name, instead in BETTER[kind].items():
        version = facts["packages"].get(name)
        if version is None:
            yield CheckResult(where, name, "ok", f"not installed: {instead}")
        elif fault := facts["loaded"].get(name):
            how = made_again(image) if image else "install it again"
            remedy = f"it has to be made for the torch and CUDA that are there: {how}{WITHOUT.get(name, '')}"
            yield CheckResult(where, name, "red", f"{version} cannot be loaded: {fault.splitlines()[-1]}", remedy)
        else:
            yield CheckResult(where, name, "ok", f"{version}, loaded" if name in facts["loaded"] else version)


def _gpus(where: str, gpus: Mapping[str, Any], wanted: int) -> CheckResult:
    devices = gpus["devices"]
    seen = ", ".join(f"{one['name']} ({one['memory'] / GIB:.0f} GiB)" for one in devices)
    if len(devices) < wanted:
        said = f"{len(devices)} of {wanted} GPUs are visible: {gpus['why_none'] or seen}"
        remedy = (
            "on a cluster: --nv in apptainer-args, images with CUDA wheels, a GPU partition in the profile, and on its "
            f"nodes NVIDIA's driver {DRIVER} or newer;\n"
            "without GPUs: `accelerator: cpu` in the rows of train.models and models"
        )
        return CheckResult(where, "GPUs", "red", said, remedy)
    said = f"{seen}, CUDA {gpus['cuda']}" if devices else "none, and none is asked for"
    return CheckResult(where, "GPUs", "ok", said)


def _sum(where: str, found: Mapping[str, Any]) -> CheckResult:
    what = "sum over two processes"
    if "error" in found:
        remedy = "set NCCL_DEBUG=INFO and run `python -m safe_llava.cluster.all_reduce` there to see where it stops"
        return CheckResult(where, what, "red", found["error"].splitlines()[-1], remedy)
    how = "NCCL between two GPUs" if found["backend"] == "nccl" else "gloo on CPUs, for want of two GPUs"
    if not found["right"]:
        remedy = "leave the node out (--set-resources …:slurm_extra=\"'--exclude=NODE'\") and tell its keepers"
        return CheckResult(where, what, "red", f"{how}: the sum is wrong", remedy)
    return CheckResult(where, what, "ok", f"{how}: right, {found['gb_per_s']} GB/s")


def _memory(where: str, facts: Mapping[str, Any], config: Config, known: Measured) -> Iterator[CheckResult]:
    """Let the planner choose, for every model that is selected, on GPUs like the one that was seen."""
    devices = (facts["gpus"] or {}).get("devices", [])
    for name in config.train.select.models:
        row = config.train.models[name]
        if row.accelerator == "cpu" or not devices:
            continue
        machine = Machine(min(one["memory"] for one in devices), row.processes, row.nodes)
        for stage in ("pretrain", "finetune"):
            what, size = f"memory of {name}, {stage}", model_size(known, row, stage)
            if size is None:
                said = "its size is not noted in config/measured.yaml"
                yield CheckResult(where, what, "open", said, "nothing: training plans for itself when it starts")
                continue
            try:
                choice = choose_computation(size, row, getattr(row, stage), machine)
                found = footprint(config, known, name, stage)
                said = choice.reason
                if found is not None and not choice.offload:
                    said += f"; checkpoints are written from {decimal_size(found.staging)} of each machine's memory"
                yield CheckResult(where, what, "ok", said)
            except TrainError as error:
                yield CheckResult(where, what, "red", error.message, error.remedy)


def _folders(where: str, facts: Mapping[str, Any]) -> Iterator[CheckResult]:
    for one in [*facts["folders"], facts["scratch"]]:
        what = f"folder {one['path']}"
        if one["error"]:
            remedy = (
                "let the nodes write there (and the image see it: --bind in apptainer-args), or name another folder"
            )
            yield CheckResult(where, what, "red", one["error"], remedy)
            continue
        inodes = "no bound on files" if one["free_files"] is None else f"{one['free_files']:,} inodes"
        yield CheckResult(where, what, "ok", f"writable, {decimal_size(one['free_bytes'])} and {inodes} free")
