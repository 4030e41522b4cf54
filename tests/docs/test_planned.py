"""The commands of the pages that need data or a cluster, as far as their plan."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from workflow.conftest import Run, snakemake  # noqa: F401  (a fixture)

PLANNED = yaml.safe_load((Path(__file__).parent / "commands.yaml").read_text(encoding="utf-8"))["planned"]


@pytest.mark.parametrize("command", PLANNED)
def test_snakemake_plans_it(snakemake: Run, command: str) -> None:  # noqa: F811
    done = snakemake("-n", *(word for word in shlex.split(command)[1:] if word != "-n"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
