"""Run Snakemake as a user does, and read what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workflow.dag import Dag, Job, dag

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def job_counts(text: str) -> dict[str, int]:
    """Read the table of job counts that a dry-run ends with."""
    counts = {}
    for block in re.findall(r"^job +count\n-+ +-+\n((?:\S+ +\d+\n)+)", text, flags=re.MULTILINE)[-1:]:
        counts = {name: int(count) for name, count in re.findall(r"^(\S+) +(\d+)$", block, flags=re.MULTILINE)}
    return counts


def planned(text: str) -> dict[str, list[str]]:
    """Read from a dry-run what each rule would make: every output of its jobs."""
    found: dict[str, list[str]] = {}
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.+\n)+)", text, flags=re.MULTILINE):
        for outputs in re.findall(r"^ {4}output: (.+)$", block, flags=re.MULTILINE):
            found.setdefault(rule, []).extend(outputs.split(", "))
    return found


@pytest.fixture(scope="session")
def snakemake() -> Run:
    """Run Snakemake at the root of the clone; keys of judges are never in its environment unless given."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
        kept.pop("SAFE_LLAVA_MIRRORS", None)
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--nolock", *arguments],
            cwd=ROOT,
            env={**kept, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


class Finished:
    """A folder in which the demo has made some results, as files of no content: what would a changed row make again?"""

    def __init__(self, snakemake: Run, folder: Path, *targets: str) -> None:
        self._snakemake, self.results = snakemake, folder / "results"
        self._targets = [f"{self.results}/{target}" for target in targets]
        for line in self._run("--summary").splitlines()[1:]:
            self.write(line.split("\t")[0])
        self._run("--touch", "--forceall", "--cores", "1")

    def _run(self, *arguments: str, data: str = "", **sections: str) -> str:
        settings = {"data": f"{{root: {self.results}/data, ignore_space: true, {data}}}", **sections}
        config = [f"results={self.results}", *(f"{name}={value}" for name, value in settings.items())]
        done = self._snakemake(*self._targets, *arguments, "--configfile", "config/demo.yaml", "--config", *config)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, path: str) -> None:
        """Make an output, of no content."""
        file = self.results / path
        if file.name == "model":
            file.mkdir(parents=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")

    def touch(self, **sections: str) -> None:
        """Let everything that is there count as made with these settings."""
        self._run("--touch", "--cores", "1", **sections)

    def jobs(self, *profile: str, **sections: str) -> dict[str, int]:
        """Return what would be made again, and how often, with these settings."""
        counts = job_counts(self._run("-n", *profile, **sections))
        counts.pop("total", None)
        return counts


@pytest.fixture(scope="session")
def paper_dag() -> Dag:
    """The DAG of the paper's configuration."""
    return dag()


@pytest.fixture(scope="session")
def demo_dag() -> Dag:
    """The DAG of the demo."""
    return dag(files=("config/demo.yaml",))


@pytest.fixture(scope="session")
def paper_jobs(paper_dag: Dag) -> dict[str, Job]:
    """Every job of the paper's configuration."""
    return paper_dag.jobs


@pytest.fixture(scope="session")
def demo_jobs(demo_dag: Dag) -> dict[str, Job]:
    """Every job of the demo."""
    return demo_dag.jobs
