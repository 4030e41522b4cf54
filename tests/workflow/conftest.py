"""Run Snakemake as a user does, and read what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workflow.dag import Job, jobs

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def job_counts(text: str) -> dict[str, int]:
    """Read the table of job counts that a dry-run ends with."""
    counts = {}
    for block in re.findall(r"^job +count\n-+ +-+\n((?:\S+ +\d+\n)+)", text, flags=re.MULTILINE)[-1:]:
        counts = {name: int(count) for name, count in re.findall(r"^(\S+) +(\d+)$", block, flags=re.MULTILINE)}
    return counts


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


@pytest.fixture(scope="session")
def paper_jobs() -> dict[str, Job]:
    """Every job of the paper's configuration."""
    return jobs()


@pytest.fixture(scope="session")
def demo_jobs() -> dict[str, Job]:
    """Every job of the demo."""
    return jobs(files=("config/demo.yaml",))
