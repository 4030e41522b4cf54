"""One job of two nodes with two processes each trains what four processes of one machine train."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from slurm_cluster.conftest import FOR_EVER, Built, Work, until
from train.tiny import Tiny, launch_command, make_row, tiny

__all__ = ["tiny"]
pytestmark = [pytest.mark.cluster, pytest.mark.newest]

ROW = make_row(finetune={"max_steps": 6, "global_batch": 8}, processes=4)
SAYS = """
import os, signal, sys, time
from pathlib import Path
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_PORT SLURMD_NODENAME CUDA_VISIBLE_DEVICES SLURM_JOB_ID"
line = " ".join(os.environ[name] for name in names.split())
with open(sys.argv[1], "a") as file:
    file.write(line + "\\n")
if sys.argv[2:] == ["faulty"] and len(Path(sys.argv[1]).read_text().split(chr(10))) <= 5:
    if os.environ["LOCAL_RANK"] == "1":
        print("CUDA error: uncorrectable ECC error encountered", flush=True)
    gone = Path(sys.argv[1] + ".gone")
    if os.environ["RANK"] == "3":
        while len(Path(sys.argv[1]).read_text().split(chr(10))) < 5:
            time.sleep(0.1)
        gone.touch()
    else:
        while not gone.exists():
            time.sleep(0.1)
        time.sleep(5)
    sys.exit(1)
if sys.argv[2:] == ["break"]:
    time.sleep(2)
    sys.exit(3) if os.environ["RANK"] == "3" else time.sleep(3600)
if sys.argv[2:] and len(Path(sys.argv[1]).read_text().split(chr(10))) <= 5:
    while not told:
        time.sleep(0.1)
    time.sleep(float(os.environ["RANK"]))
    sys.exit(75)
"""


def losses(folder: Path) -> list[tuple[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [(row["loss"], row["grad_norm"]) for row in csv.DictReader(stream)]


def launch(work: Work, module: str, *arguments: object) -> list[str]:
    return ["spread", "--config", f"module={module}", f"arguments={' '.join(map(str, arguments))}"]


def test_ranks_and_gpus_over_two_nodes(work: Work) -> None:
    (work.folder / "says.py").write_text(SAYS)
    path = f"{work.cluster.environment['PYTHONPATH']}:{work.folder}"
    assert work.run(*launch(work, "says", work.folder / "said"), PYTHONPATH=path) == 0, work.log
    rows = sorted(line.split() for line in (work.folder / "said").read_text().splitlines())
    port = str(20000 + int(work.runs("spread")[0]) % 20000)
    assert [row[:5] for row in rows] == [[str(rank), str(rank % 2), "4", "2", port] for rank in range(4)]
    assert rows[0][5] == rows[1][5] != rows[2][5] == rows[3][5]
    assert {row[6].count(",") for row in rows} == {1}, "two GPUs of each node"


def test_all_processes_of_both_nodes_may_save_before_they_are_run_again(work: Work) -> None:
    """Told to stop, they end one after the other with 75: none is killed, and the job is submitted again."""
    (work.folder / "says.py").write_text(SAYS)
    path = f"{work.cluster.environment['PYTHONPATH']}:{work.folder}"
    process = work.start(*launch(work, "says", work.folder / "said", "wait"), PYTHONPATH=path)
    job = work.running("spread")
    said = work.folder / "said"
    until(
        lambda: process.poll() is not None or (said.exists() and len(said.read_text().splitlines()) == 4),
        "the start of four processes",
    )
    work.cluster.ask("scancel", "--signal=TERM", job)
    assert process.wait(timeout=FOR_EVER) == 0, work.log
    assert work.fates == ["AGAIN", "DONE"]


def test_a_process_that_fails_ends_the_job_on_both_nodes(work: Work) -> None:
    """The others would wait for it, and their GPUs be idle, until the time limit."""
    (work.folder / "says.py").write_text(SAYS)
    path = f"{work.cluster.environment['PYTHONPATH']}:{work.folder}"
    assert work.run(*launch(work, "says", work.folder / "said", "break"), PYTHONPATH=path) == 1
    assert work.fates == ["FAILED"]
    assert work.unfinished == []


def test_of_two_nodes_the_one_with_a_hardware_fault_is_excluded(work: Work) -> None:
    """The processes of the other one fail a moment later, for their peers are gone."""
    (work.folder / "says.py").write_text(SAYS)
    path = f"{work.cluster.environment['PYTHONPATH']}:{work.folder}"
    command = [*launch(work, "says", work.folder / "said", "faulty"), "--slurm-steady-gpu-partition", "wide"]
    assert work.run(*command, PYTHONPATH=path) == 0, work.log
    assert work.fates == ["NODE_FAULTY", "DONE"]
    rows = [line.split() for line in (work.folder / "said").read_text().splitlines()]
    (faulty,) = {row[5] for row in rows[:4] if row[0] == "3"}
    assert f"Node {faulty} is excluded" in work.log
    assert work.log.count(" is excluded") == 1
    (healthy,) = {row[5] for row in rows[:4]} - {faulty}
    assert faulty not in {row[5] for row in rows[4:]}
    assert healthy in {row[5] for row in rows[4:]}


def test_two_nodes_train_in_images_what_one_trains_without(work: Work, tiny: Tiny, images: Built) -> None:
    environment = {**work.cluster.environment, "TRANSFORMERS_OFFLINE": "1"}
    alone, spread = work.folder / "alone", work.folder / "both"
    one = launch_command(4, "safe_llava.train.run", tiny.arguments(alone, ROW, "finetune"))
    subprocess.run(one, env=environment, check=True, timeout=FOR_EVER, stdout=subprocess.DEVNULL)
    command = launch(work, "safe_llava.train.run", *tiny.arguments(spread, ROW, "finetune"))
    assert work.run(*command, f"image={images.path('train')}") == 0, work.log
    assert losses(spread) == losses(alone)
    assert len(losses(alone)) == 6
    for file in sorted((alone / "model").glob("*.safetensors")):
        assert file.read_bytes() == (spread / "model" / file.name).read_bytes(), file.name
