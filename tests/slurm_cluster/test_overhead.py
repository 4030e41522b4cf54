"""What the executor costs beside the jobs themselves."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from slurm_cluster.conftest import Work, accounted

pytestmark = pytest.mark.cluster


def test_a_chain_costs_little_beside_its_jobs(work: Work) -> None:
    """(Wall time - the sum of the jobs' Submit-to-End) / jobs, from the accounting: at most 5 s."""
    jobs = 6
    begun = time.time()
    assert work.run(f"link.{jobs - 1}") == 0, work.log
    wall = time.time() - begun
    numbers = [one["job"] for one in work.ended]
    mine = [row.split("|") for row in accounted(work.cluster, numbers, "Submit,End")]
    spans = [(datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() for start, end in mine]
    assert len(spans) == jobs
    overhead = (wall - sum(spans)) / jobs
    print(f"{overhead:.2f} s a job beside Submit-to-End ({wall:.0f} s for {jobs} jobs)")
    assert overhead <= 5
