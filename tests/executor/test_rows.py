"""One stage, one model or one file again, as docs/cluster.md says, and what its jobs ask SLURM for."""

from __future__ import annotations

from workflow.conftest import Run, job_counts, paper_dag, paper_jobs, snakemake
from workflow.dag import Job

__all__ = ["paper_dag", "paper_jobs", "snakemake"]
FRESH = "results=/nonexistent/results"


def submitted(snakemake: Run, *arguments: str) -> set[str]:
    """The rules whose jobs would be submitted."""
    done = snakemake("-n", "--profile", "slurm", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(job_counts(done.stdout + done.stderr)) - {"total"}


def test_one_stage(snakemake: Run) -> None:
    found = submitted(snakemake, "train", "--config", FRESH)
    assert "train_finetune" in found
    assert {name.split("_")[0] for name in found} == {"train", "data"}


def test_one_model_of_a_stage(snakemake: Run) -> None:
    found = submitted(snakemake, "prism", "--config", FRESH, "prism={select: {models: [LLaVA]}}")
    assert "prism_answers" in found
    assert found.isdisjoint({"train_finetune", "benchmarks_run"})


def test_one_file(snakemake: Run) -> None:
    found = submitted(snakemake, "--config", FRESH, "--", "/nonexistent/results/train/safe-llava-v1.5-7b/model")
    assert {"train_pretrain", "train_finetune"} <= found
    assert "prism_answers" not in found


def test_resources_by_class(paper_jobs: dict[str, Job]) -> None:
    """What the paper's rows ask for: training a whole machine, an evaluated model one GPU, everything else none."""
    asked = {job.rule: job.resources for job in paper_jobs.values()}
    whole = {"gpu": 8, "cpus_per_task": 64, "mem_mb": 256000}
    assert asked["train_pretrain"] == whole | {"runtime": 720}
    assert asked["train_finetune"] == whole | {"runtime": 1440}
    one = {"gpu": 1, "cpus_per_task": 8, "mem_mb": 64000, "runtime": 240}
    assert asked["prism_answers"] == asked["benchmarks_run"] == one
    engine = {"prism_answers", "benchmarks_run", "benchmarks_submit", "benchmarks_answers"}
    on_gpus = {rule for rule, resources in asked.items() if resources.get("gpu")}
    assert on_gpus == ({"train_pretrain", "train_finetune"} | engine) & set(asked)
