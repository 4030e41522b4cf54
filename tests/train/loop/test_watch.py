"""The watch over the processes of a run, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The second of two processes stands still where the other one waits for it.
RUN = """
import sys, time
import torch
from safe_llava.train.loop.deepspeed import join_processes
from safe_llava.train.loop.watch import Watch

processes = join_processes("cpu", 1)
watch = Watch(processes, float(sys.argv[1]))
for step in range(3):
    if sys.argv[2] == "stands" and step == 2 and not processes.first:
        time.sleep(600)
    watch.sign()
    torch.distributed.all_reduce(torch.ones(1))
with watch.paused():
    time.sleep(float(sys.argv[3]))
watch.end()
torch.distributed.barrier()
print("done")
"""


def started(work: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start two processes that meet at a file."""
    meeting = {"SAFE_LLAVA_RENDEZVOUS": str(work / "meeting"), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def test_a_process_that_stands_still_is_named_and_the_run_ends(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root / "scripts"))
    processes = started(tmp_path, "6", "stands", "0")

    # Either ends first, and the launcher would end the other one: their words come into one log.
    said = "".join(process.communicate(timeout=240)[1] for process in processes)

    assert [process.returncode for process in processes] == [1, 1]
    assert "has stood still for 6 s: process 1 is missing" in said
    assert "resumes from the newest checkpoint" in said


@pytest.mark.parametrize("pause", ["0", "8"])
def test_processes_that_come_on_or_wait_for_a_disk_are_let_be(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, pause: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root / "scripts"))

    for process in started(tmp_path, "6", "moves", pause):
        assert process.communicate(timeout=240)[0] == "done\n"
        assert process.returncode == 0
