"""A training that the cluster stops, by a notice and by preemption, ends with the bytes of one that nobody stopped."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from safe_llava.core.cli import NOTICE
from slurm_cluster.conftest import FOR_EVER, Built, Work, processes_of_job, until
from snakemake_executor_plugin_slurm_steady.script import PASS_ON
from train.tiny import Tiny, launch_command, make_row, tiny

__all__ = ["tiny"]
pytestmark = [pytest.mark.cluster, pytest.mark.newest]

# 240 steps; checkpoints by the clock never, by steps often.
ROW = make_row(finetune={"epochs": 40}, checkpoints={"every_steps": 7, "every_minutes": 60, "keep": 2})


def steps(folder: Path) -> int:
    """Steps that a running training has written down."""
    file = folder / "checkpoints/metrics.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


def first_process(job: str) -> int:
    """The process that slurmstepd started for a job's step; its children come later, and may be its copies at first."""
    found = []
    for process in processes_of_job(job):
        with suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{process}/cmdline").read_text().split("\0")[1:3] == ["-c", PASS_ON]:
                started = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
                found.append((int(started), process))
    return min(found)[1]


def test_stopped_twice_in_its_image_it_ends_with_the_same_bytes(work: Work, tiny: Tiny, images: Built) -> None:
    environment = {**work.cluster.environment, "TRANSFORMERS_OFFLINE": "1"}
    alone, stopped = work.folder / "alone", work.folder / "stopped"
    command = launch_command(2, "safe_llava.train.run", tiny.arguments(alone, ROW, "finetune"))
    undisturbed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    arguments = ["train", "--config", f"arguments={' '.join(tiny.arguments(stopped, ROW, 'finetune'))}"]
    arguments.append(f"image={images.path('train')}")
    process = work.start(*arguments, "--set-resources", "train:slurm_extra='-w n7'", partition="low")
    job = work.running("train")
    until(lambda: steps(stopped) >= 20 or process.poll() is not None, "the first steps")
    # Before the time limit SLURM signals, where it keeps jobs apart by cgroups, this process alone.
    os.kill(first_process(job), NOTICE)
    job = work.running("train", 2)
    saved = max((stopped / "checkpoints").glob("step-*")).name
    begun = int(saved.removeprefix("step-"))
    until(lambda: steps(stopped) >= begun + 20 or process.poll() is not None, "steps after the notice")
    work.preempt(job, "n7")

    assert process.wait(timeout=FOR_EVER) == 0, work.log
    assert work.fates[0] == "AGAIN"
    assert set(work.fates[1:-1]) == {"PREEMPTED"}
    assert work.fates[-1] == "DONE"
    assert undisturbed.wait(timeout=FOR_EVER) == 0
    names = {file.name for file in (alone / "model").iterdir()}
    assert names == {file.name for file in (stopped / "model").iterdir()}
    for name in names:
        assert (alone / "model" / name).read_bytes() == (stopped / "model" / name).read_bytes(), name
    logs = "".join(file.read_text() for file in (work.folder / "results/logs/slurm").rglob("*.log"))
    assert f"resuming after step {begun} of 240" in logs
