"""Which rules run on the login node, and why; tests/slurm_cluster/test_demo.py shows that no other needs a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow.conftest import demo_dag, paper_dag
from workflow.dag import Dag

__all__ = ["demo_dag", "paper_dag"]


@pytest.fixture
def local(paper_dag: Dag, demo_dag: Dag) -> set[str]:
    return paper_dag.local_rules | demo_dag.local_rules


def test_the_page_says_of_every_local_rule_why(local: set[str], root: Path) -> None:
    page = (root / "docs/cluster.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert {rule for rule in local if sum(f"`{rule}`" in line.split("|")[1] for line in lines) != 1} == set()


def test_whatever_downloads_or_asks_a_judge_is_local(local: set[str]) -> None:
    assert {"data_fetch", "data_snapshot", "data_covers", "prism_judge", "benchmarks_judged"} <= local


def test_whatever_takes_a_gpu_is_a_job(paper_dag: Dag) -> None:
    on_gpus = {job.rule for job in paper_dag.jobs.values() if job.resources.get("gpu")}
    assert on_gpus
    assert on_gpus.isdisjoint(paper_dag.local_rules)
