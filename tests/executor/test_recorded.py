"""What two versions of SLURM printed of jobs whose fates are known (tests/slurm_cluster/record.py), read as it stands.

Forms that no emulated node shows stand in test_fates.py and tests/cluster/test_accounting.py, as the manuals have them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from safe_llava.cluster.accounting import parse_usages
from snakemake_executor_plugin_slurm_steady.fates import (
    Fate,
    Record,
    Sight,
    fate_of,
    parse_given,
    parse_sacct,
    parse_squeue,
)

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = ["22.05", "26.05"]
FATES = {
    "done": Fate.DONE,
    "failed": Fate.FAILED,
    "memory": Fate.OUT_OF_MEMORY,
    "time": Fate.OUT_OF_TIME,
    "cancelled": Fate.CANCELLED,
    "preempted": Fate.PREEMPTED,
    "node": Fate.NODE_LOST,
    "requeued": Fate.ACTIVE,
    "runs": Fate.ACTIVE,
    "held": Fate.ACTIVE,
    "limit": Fate.IMPOSSIBLE,
    "partitions": Fate.DONE,
}
# What the shell of a rule would have written: only that which was killed for its memory had no time to say its code.
RECORDS = {"memory": Record(1, (), None)}


def text(version: str, question: str) -> str:
    return (RECORDED / version / f"{question}.txt").read_text()


def names(version: str) -> dict[str, str]:
    """The names of the jobs, by their numbers."""
    return dict(parse_usages(text(version, "accounting")).keys())


def fates(version: str, sights: dict[str, Sight]) -> dict[str, Fate]:
    known = names(version)
    return {name: fate_of(sights[job], RECORDS.get(name, Record(1, (1,), 1)), "") for job, name in known.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_controller_showed(version: str) -> None:
    sights = parse_squeue(text(version, "squeue"))
    assert fates(version, sights) == FATES
    assert all(sight.partition for sight in sights.values())
    assert not any(sight.unclear for sight in sights.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_accounting_showed(version: str) -> None:
    """It gives no reason of a pending job, so that none is impossible."""
    sights = parse_sacct(text(version, "sacct"))
    assert fates(version, sights) == {**FATES, "limit": Fate.ACTIVE}
    assert {sight.nodes for sight in sights.values()} <= {"", "n1", "n2", "n4", "n6"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_job_was_given(version: str) -> None:
    assert parse_given(text(version, "scontrol")) == {"mem_mb_per_cpu": 100, "runtime": 10}
    # Four GPUs on two nodes of a partition with `DefMemPerGPU=300`: of each node the half of 1200 MB.
    assert parse_given(text(version, "scontrol_gpus")) == {"mem_mb": 600, "runtime": 10}


# 26.05 starts no job that asks for GPUs which are not consumed.
SITES = [(version, site) for version in VERSIONS for site in ("counted", "mig", "uncounted")] + [
    ("22.05", "no_consume")
]


@pytest.mark.parametrize(("version", "site"), SITES)
def test_every_way_to_ask_for_gpus_is_counted_or_unknown(version: str, site: str) -> None:
    """A job's name ends in its number of GPUs; of `no_consume` SLURM counts none, and an uncounted site none at all."""
    usages = parse_usages(text(version, f"{site}/accounting"))
    found = {(name, usage.gpu if usage.gpu is None else usage.gpu / usage.wall) for (_, name), usage in usages.items()}
    counts = {name: int(name.removeprefix("gpus-")) for _, name in usages}
    assert set(counts.values()) == {0, 2, 4, 6}
    counted = site in ("counted", "mig")
    assert found == {(name, float(count) if counted or not count else None) for name, count in counts.items()}
