"""Write what Snakemake knows of every job and of the rules, as JSON: `python dag.py CLONE CONFIG FILE…`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "/nonexistent/results"
RESOURCES = ("gpu", "cpus_per_task", "mem_mb", "runtime", "judge_api")


@dataclass(frozen=True)
class Job:
    """A job of the DAG: what decides whether it runs again, and what it would run."""

    rule: str
    output: list[str]
    input: list[str]
    compared: dict[str, str]
    command: str
    resources: dict[str, int]


@dataclass(frozen=True)
class Dag:
    """Every job that makes files, by its first output, and the rules that run where Snakemake does."""

    jobs: dict[str, Job]
    local_rules: set[str]


def dag(config: dict[str, Any] | str = "", files: tuple[str, ...] = (), root: Path = ROOT) -> Dag:
    """Return the DAG of a configuration laid over that of the clone."""
    tree = yaml.safe_load(config) if isinstance(config, str) else config
    command = [sys.executable, __file__, str(root), json.dumps({"results": RESULTS, **(tree or {})}), *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return Dag({row["output"][0]: Job(**row) for row in found["jobs"]}, set(found["local_rules"]))


def jobs(config: dict[str, Any] | str = "", files: tuple[str, ...] = (), root: Path = ROOT) -> dict[str, Job]:
    """Return the jobs of a configuration."""
    return dag(config, files, root).jobs


def _found(root: Path, config: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DeploymentSettings,
        OutputSettings,
        ResourceSettings,
        StorageSettings,
        WorkflowSettings,
    )

    with SnakemakeApi(OutputSettings()) as api:
        made = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=config, configfiles=files),
            storage_settings=StorageSettings(),
            workflow_settings=WorkflowSettings(),
            deployment_settings=DeploymentSettings(),
            snakefile=root / "workflow/Snakefile",
        )
        made.dag()
        workflow = made._workflow
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True, nolock=True)
        workflow._build_dag()
        local = [rule.name for rule in workflow.rules if rule.name in workflow._localrules or rule.norun]
        jobs = [
            {
                "rule": job.rule.name,
                "output": sorted(map(str, job.output)),
                "input": sorted(map(str, job.input)),
                # Snakemake keeps no parameter that its function makes of inputs or outputs, nor one of another type.
                "compared": {
                    name: repr(value)
                    for name, value in job.params.items()
                    if any(value is kept for kept in job.non_derived_params) and not isinstance(value, Path)
                },
                "command": job.shellcmd,
                "resources": {name: value for name, value in job.resources.items() if name in RESOURCES},
            }
            for job in workflow.dag.jobs
            if job.output
        ]
        return {"jobs": jobs, "local_rules": local}


if __name__ == "__main__":
    print(json.dumps(_found(Path(sys.argv[1]), json.loads(sys.argv[2]), [Path(file) for file in sys.argv[3:]])))
