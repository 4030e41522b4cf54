"""Write down what a SLURM prints of jobs whose fates are known: `python -m slurm_cluster.record CLUSTER FOLDER [TYPE]`.

CLUSTER is a folder of up.sh, FOLDER gets a file for each question that this project asks. With a type of GPU, the jobs
are those that ask for GPUs in every way. tests/executor/recorded holds what was printed (test_recorded.py reads it).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from safe_llava.cluster.accounting import FORMAT
from slurm_cluster.conftest import Cluster, until
from snakemake_executor_plugin_slurm_steady.fates import SACCT_FORMAT, SQUEUE_FORMAT

MEMORY = "x = bytearray(b'x') * (300 << 20); import time; time.sleep(60)"
# By the name of the job: what sbatch is told, and what runs.
FATES = {
    "done": ("-p cpu", "true"),
    "failed": ("-p cpu", "exit 3"),
    "memory": ("-p cpu --mem=50", f'srun python3 -c "{MEMORY}"'),
    "time": ("-p cpu -t 1", "sleep 300"),
    "cancelled": ("-p cpu", "sleep 300"),
    "preempted": ("-p lowcancel -w n6 -c 8", "sleep 300"),
    "node": ("-p frail -w n4 --no-requeue", "sleep 300"),
    "requeued": ("-p cpu --requeue", "sleep 300"),
    "runs": ("-p cpu", "sleep 300"),
    "held": ("-p cpu -H", "true"),
    "limit": ("-p short -t 600", "true"),
    "partitions": ("-p short,cpu -t 600 -d singleton", "true"),
}
# By the number of GPUs that are given: every way to ask for them. A type stands for TYPE.
GPUS = {
    0: ["", "--gres=none", "--gpus=0"],
    2: [
        *["--gpus=2", "-G 2", "-G2", "--gpus=TYPE:2", "--gpus-per-node=2", "--gpus-per-node=TYPE:2", "--gres=gpu:2"],
        *["--gres=gpu:TYPE:2", "--gpus-per-task=1 -n 2", "--gpus-per-socket=2 --sockets-per-node=1"],
        *["--tres-per-task=gres/gpu:1 -n 2", "--tres-per-task=gres/gpu=1 -n 2"],
    ],
    4: ["--gpus-per-node=2 -N 2 -n 2", "--gres=gpu:TYPE:2 -N 2 -n 2", "--gpus=4 -N 2 -n 2"],
    6: ["--exclusive", "--exclusive --gres=gpu:1"],
}


def submit(cluster: Cluster, name: str, options: str, command: str) -> str | None:
    """Submit a job; None where this version does not know an option."""
    call = ["sbatch", "--parsable", "-A", "lab", "-o", "/dev/null", "-D", "/", "-J", name, *options.split(), "--wrap"]
    done = subprocess.run([*call, command], env=cluster.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: {options}: {done.stderr.strip()}")
    return done.stdout.strip() if done.returncode == 0 else None


def states(cluster: Cluster, jobs: list[str]) -> dict[str, str]:
    """What the controller says of jobs."""
    lines = cluster.ask("squeue", "-h", "-a", "-t", "all", "-j", ",".join(jobs), "-o", "%i %T").splitlines()
    return dict(line.split() for line in lines)


def known_fates(cluster: Cluster) -> list[str]:
    """Submit the jobs of ``FATES`` and let happen to them what their names say."""
    jobs = {name: submit(cluster, name, *what) or "" for name, what in FATES.items()}
    every = [*jobs.values()]
    until(lambda: list(states(cluster, every).values()).count("RUNNING") >= 6, "the start of the jobs", 60)
    cluster.ask("scancel", jobs["cancelled"])
    cluster.ask("scontrol", "requeue", jobs["requeued"])
    cluster.ask("scontrol", "update", "nodename=n4", "state=down", "reason=recorded")
    submit(cluster, "other", "-p high -w n6 -c 8", "sleep 5")
    until(lambda: states(cluster, every)[jobs["time"]] == "TIMEOUT", "the time limit", 240)
    return every


def every_way_to_ask(cluster: Cluster, kind: str) -> list[str]:
    """Submit a job for each way to ask for GPUs; its name ends in their number."""
    asked = [(count, way.replace("TYPE", kind)) for count, ways in GPUS.items() for way in ways]
    found = [submit(cluster, f"gpus-{count}", f"-p cpu -t 5 --mem=20 {way}", "sleep 1") for count, way in asked]
    jobs = [job for job in found if job]
    seen: dict[str, str] = {}
    # Where GPUs are not consumed, some never start.
    while seen != (now := states(cluster, jobs)) or "RUNNING" in now.values():
        seen = now
        time.sleep(20)
    cluster.ask("scancel", *jobs)
    return [job for job, state in states(cluster, jobs).items() if state == "COMPLETED"]


def main() -> None:
    """Record."""
    cluster, folder, kind = Cluster(Path(sys.argv[1])), Path(sys.argv[2]), "".join(sys.argv[3:4])
    folder.mkdir(parents=True, exist_ok=True)
    jobs = every_way_to_ask(cluster, kind) if kind else known_fates(cluster)
    numbers = ",".join(jobs)
    time.sleep(10)  # the accounting hears of the last ends
    questions = {
        "accounting": ["sacct", "--duplicates", "--parsable2", "--noheader", "-j", numbers, f"--format={FORMAT}"]
    }
    if not kind:
        questions["squeue"] = ["squeue", "-h", "-a", "-t", "all", "-j", numbers, "-o", SQUEUE_FORMAT]
        questions["sacct"] = ["sacct", "-X", "-P", "-n", "-j", numbers, "-o", SACCT_FORMAT]
        questions["scontrol"] = ["scontrol", "show", "job", "-o", jobs[0]]
    for name, question in questions.items():
        (folder / f"{name}.txt").write_text(cluster.ask(*question) + "\n")
    cluster.ask("scancel", *jobs)


if __name__ == "__main__":
    main()
