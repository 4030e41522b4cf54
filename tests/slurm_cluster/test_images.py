"""Jobs in real images: what goes in, what comes out."""

from __future__ import annotations

import pytest

from slurm_cluster.conftest import Built, Work

pytestmark = [pytest.mark.cluster, pytest.mark.newest]
WANTED = ("SAFE_LLAVA_JOB_RECORD", "OMP_NUM_THREADS", "SLURM_JOB_ID", "KEPT")


def test_a_job_runs_in_its_image_with_its_environment_and_no_key(work: Work, images: Built) -> None:
    image = images.path("paper")
    config = ("--config", f"image={image}")
    assert work.run("works", *config, JUDGE_API_KEY="sk-hush", HF_TOKEN="hf_hush", KEPT="yes") == 0, work.log
    lines = (work.folder / "environment").read_text()
    environment = dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)
    assert environment["APPTAINER_CONTAINER"] == image
    assert set(WANTED) <= set(environment)
    assert "hush" not in lines
    assert [(one["fate"], one["image"]) for one in work.ended] == [("DONE", image)]


def test_with_and_without_an_image_nothing_is_made_twice(work: Work, images: Built) -> None:
    assert work.run("works", "--config", f"image={images.path('paper')}") == 0, work.log
    triggers = ("--rerun-triggers", "mtime", "params", "input")
    for times, arguments in enumerate((["--config", "image=/another.sif"], []), start=1):
        assert work.run("works", *arguments, *triggers) == 0, work.log
        assert work.log.count("Nothing to be done") == times
    assert len(work.runs("works")) == 1
