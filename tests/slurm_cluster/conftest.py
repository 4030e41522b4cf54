"""The test cluster, and Snakemake on it as a user runs it.

`make test-cluster` starts one cluster for many test processes and names its folder in SAFE_LLAVA_CLUSTER_FOLDER.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from safe_llava.config.images import Images
from safe_llava.containers.tag import image_path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Every test ends by itself; this is what "waits for ever" means here.
FOR_EVER = 540


@dataclass
class Cluster:
    """A running cluster and its daemons."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user of the cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SNAKEMAKE"))}
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}:/usr/sbin:/sbin"
        # Tests run in folders of /tmp, so that images have to be shown the clone.
        clone = {"PYTHONPATH": str(ROOT / "scripts"), "APPTAINER_BIND": str(ROOT)}
        return {**kept, **clone, "PATH": path, "OMP_NUM_THREADS": "1"}

    def ask(self, *command: str) -> str:
        """Run a client of SLURM; a daemon may be away for another test's sake, the accounting for three jobs' time."""
        deadline = time.monotonic() + FOR_EVER
        while True:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
            assert time.monotonic() < deadline, f"{' '.join(command)}: {done.stderr}"
            time.sleep(1)

    def stop(self, daemon: str) -> None:
        """End a daemon by the process id that it wrote."""
        pid = int((self.folder / "run" / f"{daemon}.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of {daemon}")

    def start(self, *command: str) -> None:
        """Start a daemon again."""
        environment = {**self.environment, "SLURM_CONF": str(self.folder / "etc/slurm.conf")}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def lose_node(self, node: str, job: str) -> None:
        """Take a node away, with the job's processes: what a power failure does."""
        daemon = int((self.folder / "run" / f"slurmd_{node}.pid").read_text())
        os.kill(daemon, signal.SIGKILL)
        for process in processes_of_job(job):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def processes_of_job(job: str) -> list[int]:
    """Processes of a SLURM job: its step daemons, and whatever has its number in the environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if f"\0SLURM_JOB_ID={job}\0".encode() in b"\0" + environment or f"slurmstepd: [{job}.".encode() in title:
            found.append(int(folder.name))
    return found


def until(done: Callable[[], object], what: str, seconds: float = FOR_EVER) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.2)


def accounted(cluster: Cluster, jobs: list[str], what: str) -> list[str]:
    """What the accounting has of jobs that have ended, in their order.

    The controller tells it of starts and ends in its own time, and in any order where it was away: a row is read when
    it has both, an end and, from the start, the line of the submission.
    """
    found: dict[str, str] = {}

    def complete() -> bool:
        for job in jobs:
            answer = cluster.ask("sacct", "-X", "-n", "-P", "-j", job, "-o", f"End,{what},SubmitLine")
            end, *said = answer.split("|", what.count(",") + 2)
            if end[:1].isdigit() and all(said):
                found[job] = "|".join(said[:-1])
        return found.keys() == set(jobs)

    until(complete, "the end of the jobs in the accounting")
    return [found[job] for job in jobs]


@dataclass
class Work:
    """A folder in which Snakemake runs rules of faults.smk on the cluster."""

    cluster: Cluster
    folder: Path
    path: str = ""
    profile: Path = ROOT / "workflow/profiles/slurm"
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, partition: str = "cpu", **environment: str) -> subprocess.Popen[str]:
        """Start `snakemake --profile slurm` for a target."""
        site = ["--slurm-steady-account", "lab", "--slurm-steady-partition", partition]
        site += ["--slurm-steady-gpu-partition", "gpu"]
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "faults.smk")]
        command += [
            "--profile",
            str(self.profile),
            "--default-resources",
            "mem_mb=700",
            "runtime=5",
        ]
        env = {**self.cluster.environment, **environment}
        env["PATH"] = f"{self.path}:{env['PATH']}" if self.path else env["PATH"]
        with (self.folder / "snakemake.log").open("a") as log:
            process = subprocess.Popen(
                [*command, "nodes=1", *site, "--rerun-incomplete", "--latency-wait", "10", *arguments],
                cwd=self.folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                # Its own session, so that a signal to the group reaches nobody else.
                start_new_session=True,
                preexec_fn=_as_from_a_terminal,
            )
        self.started.append(process)
        return process

    def run(self, *arguments: str, partition: str = "cpu", **environment: str) -> int:
        """Run Snakemake to its end."""
        return self.start(*arguments, partition=partition, **environment).wait(timeout=FOR_EVER)

    @property
    def log(self) -> str:
        """What Snakemake has said so far."""
        return (self.folder / "snakemake.log").read_text()

    def runs(self, rule: str) -> list[str]:
        """SLURM's numbers of the jobs in which a rule's shell has begun, one a start."""
        file = self.folder / f"runs.{rule}"
        return file.read_text().split() if file.exists() else []

    def running(self, rule: str, times: int = 1) -> str:
        """Wait until a rule's shell has begun so many times; return SLURM's number of the last."""
        until(lambda: len(self.runs(rule)) >= times or self.started[-1].poll() is not None, f"start {times} of {rule}")
        assert len(self.runs(rule)) >= times, self.log
        return self.runs(rule)[-1]

    def preempt(self, job: str, node: str) -> str:
        """Have a job of a preferred partition take the node away from another; return its number."""
        command = ["sbatch", "-A", "lab", "-p", "high", "--parsable", "-w", node, "-c8", "-o", "/dev/null"]
        other = self.cluster.ask(*command, "-D", "/", "--wrap", "sleep 5")
        until(lambda: job not in self.unfinished, "preemption")
        return other

    def controlled(self, job: str) -> dict[str, str]:
        """What the controller says of a job of the last two minutes."""
        words = self.cluster.ask("scontrol", "show", "job", "-o", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def ended(self) -> list[dict[str, Any]]:
        """The submissions that ended, in order."""
        file = self.folder / ".snakemake/slurm-steady/jobs.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def fates(self) -> list[str]:
        """How they ended."""
        return [one["fate"] for one in self.ended]

    @property
    def unfinished(self) -> list[str]:
        """SLURM jobs of this folder that are queued or run."""
        lines = self.cluster.ask("squeue", "-h", "-o", "%i %Z").splitlines()
        return [line.split()[0] for line in lines if line.split()[1] == str(self.folder)]


def _own_cluster(folder: Path) -> Iterator[Cluster]:
    subprocess.run([HERE / "up.sh", folder], check=True, timeout=900)
    try:
        yield Cluster(folder)
    finally:
        subprocess.run([HERE / "down.sh", folder], check=False, timeout=120)


def _as_from_a_terminal() -> None:
    """Whoever runs the tests in the background, or under nohup, has these ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster; it writes outside the clone, so it is there only where that was asked for."""
    if folder := os.environ.get("SAFE_LLAVA_CLUSTER_FOLDER"):
        yield Cluster(Path(folder))
    elif os.environ.get("SAFE_LLAVA_CLUSTER"):
        yield from _own_cluster(tmp_path_factory.mktemp("cluster"))
    else:
        reason = "no test cluster: `make test-cluster` with SAFE_LLAVA_CLUSTER=1 starts one, as root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@dataclass(frozen=True)
class Built:
    """Images that were built for CPUs, and the `images:` section that names them."""

    settings: Path

    def path(self, name: str) -> str:
        """The file of an image."""
        return image_path(name, Images.model_validate(yaml.safe_load(self.settings.read_text())["images"]), ROOT)


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Built:
    """The images, as `make test-cluster` builds them."""
    settings = os.environ.get("SAFE_LLAVA_CLUSTER_IMAGES")
    if settings is None:
        reason = "no images: `make test-cluster` builds them, and names them in SAFE_LLAVA_CLUSTER_IMAGES"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Built(Path(settings))


@pytest.fixture
def work(cluster: Cluster, tmp_path: Path) -> Iterator[Work]:
    """A folder of its own for a test; when its Snakemakes have ended, none of their jobs is left."""
    made = Work(cluster, tmp_path)
    yield made
    ended = all(process.poll() is not None for process in made.started)
    for process in made.started:
        process.kill()
        process.wait()
    # A job that has just been cancelled is completing for a moment.
    until(lambda: not made.unfinished or not ended, "the end of all jobs")
    if left := made.unfinished:
        cluster.ask("scancel", *left)


@pytest.fixture(params=["squeue", "sacct", "record"])
def view(request: pytest.FixtureRequest, work: Work) -> str:
    """Who knows of a job that has ended: the controller, only the accounting, or only what the job wrote itself."""
    folder = work.folder / "bin"
    folder.mkdir()
    if request.param != "squeue":
        (folder / "squeue").write_text(
            f'#!/bin/bash\nexec {work.cluster.folder}/bin/squeue "${{@/all/PD,R,CG,CF,S}}"\n'
        )
    if request.param == "record":
        (folder / "sacct").write_text("#!/bin/sh\necho 'sacct: error: no slurmdbd' >&2\nexit 1\n")
    for file in folder.iterdir():
        file.chmod(0o755)
    work.path = str(folder)
    return str(request.param)
