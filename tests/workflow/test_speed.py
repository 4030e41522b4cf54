"""What Snakemake's process must not do before it knows the jobs: people wait for a dry-run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from workflow.conftest import ROOT

# Each takes a tenth of a second or more to import, and is for steps alone.
FOR_STEPS = {"torch", "transformers", "pandas", "matplotlib", "openai", "google.genai", "gdown", "tokenizers"}
FOR_STEPS |= {"httpx2", "huggingface_hub"}
COUNTED = f"""
import inspect, json, sys
from snakemake.cli import main
signature, asked = inspect.signature, []
inspect.signature = lambda *args, **kwargs: (asked.append(args), signature(*args, **kwargs))[1]
try:
    main(["--nolock", "--dry-run", "--quiet", "all"])
except SystemExit as end:
    assert not end.code
print(json.dumps([len(asked), sorted({FOR_STEPS!r} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def dry_run() -> tuple[int, list[str]]:
    """How often a dry-run of the paper looks for a function's parameters, and which modules of steps it imports."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    asked, imported = json.loads(done.stdout.splitlines()[-1])
    return asked, imported


def test_a_dry_run_imports_nothing_that_only_steps_need(dry_run: tuple[int, list[str]]) -> None:
    assert dry_run[1] == []


def test_parameters_of_functions_are_looked_for_once_or_twice_a_job_at_most(
    dry_run: tuple[int, list[str]], paper_jobs: dict[str, object]
) -> None:
    assert dry_run[0] < 2 * len(paper_jobs)
