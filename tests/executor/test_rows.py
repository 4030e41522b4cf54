"""One stage, one model or one rule again, as docs/cluster.md says: what would be submitted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from workflow.conftest import Run, job_counts, snakemake

__all__ = ["snakemake"]
FRESH = "results=/nonexistent/results"


def counts(snakemake: Run, *arguments: str) -> dict[str, int]:
    done = snakemake("-n", "--profile", "slurm", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return job_counts(done.stdout + done.stderr)


def test_one_stage(snakemake: Run) -> None:
    found = counts(snakemake, "train", "--config", FRESH)
    assert found["train_finetune"] == 2
    assert {name.split("_")[0] for name in found} == {"train", "data", "total"}


def test_one_model_of_a_stage(snakemake: Run) -> None:
    found = counts(snakemake, "prism", "--config", FRESH, "prism={select: {models: [LLaVA]}}")
    assert found["prism_answers"] == 2  # both editions
    assert not {"train_finetune", "benchmarks_run"} & set(found)


def test_one_file(snakemake: Run) -> None:
    found = counts(snakemake, "--config", FRESH, "--", "/nonexistent/results/train/safe-llava-v1.5-7b/model")
    assert (found["train_pretrain"], found["train_finetune"]) == (1, 1)
    assert "prism_answers" not in found


def test_resources_by_class(snakemake: Run) -> None:
    """What the paper's rows ask for: training a whole machine, an evaluated model one GPU, everything else none."""
    text = snakemake("-n", "--profile", "slurm", "--config", FRESH).stdout
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .+\n)+)", text, re.MULTILINE)
    asked = {}
    for name, block in blocks:
        resources = dict(re.findall(r"(gpu|mem_mb|runtime|cpus_per_task|nodes)=(\d+)", block))
        asked.setdefault(name, {key: int(value) for key, value in resources.items()})
    whole = {"gpu": 8, "cpus_per_task": 64, "mem_mb": 256000, "nodes": 1}
    assert asked["train_pretrain"] == whole | {"runtime": 720}
    assert asked["train_finetune"] == whole | {"runtime": 1440}
    one = {"gpu": 1, "cpus_per_task": 8, "mem_mb": 64000, "nodes": 1, "runtime": 240}
    assert asked["prism_answers"] == asked["benchmarks_run"] == one
    assert {name for name, resources in asked.items() if resources.get("gpu")} == {
        *(
            "train_pretrain",
            "train_finetune",
            "prism_answers",
            "benchmarks_run",
            "benchmarks_submit",
            "benchmarks_answers",
        )
    } & set(asked)


@pytest.mark.parametrize("number", range(4))
def test_the_commands_of_the_page_are_commands(snakemake: Run, root: Path, number: int) -> None:
    block = re.search(r"## One stage, .+?\n\n((?:    .+\n)+)", (root / "docs/cluster.md").read_text())
    assert block
    command = shlex.split(block[1].splitlines()[number], comments=True)
    assert command[:3] == ["snakemake", "--profile", "slurm"]
    assert counts(snakemake, *command[3:])
