"""Measure what a dry-run of the paper costs, and how that grows with the number of models.

``python -m safe_llava.speed.plan --clones /tmp/old . --models 10 50 100 200 --out plan.json`` runs ``snakemake -n`` in
each clone in turn, with the clone's own environment (``.venv``) where it has one, and counts the processor time of the
whole process tree.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safe_llava.config.load import over_defaults
from safe_llava.core import cli
from safe_llava.core.files import write_json

SELECTED = ("prism", "benchmarks")


def configuration(models: int) -> dict[str, object]:
    """Return what selects so many models: the paper's, and others with repositories of their own."""
    paper = over_defaults({})["prism"]["select"]["models"]
    added = [f"model-{number:03d}" for number in range(models - len(paper))]
    rows = {name: {"inherits": "LLaVA", "hub": f"org/{name}", "published_as": None} for name in added}
    return {"models": rows, **{stage: {"select": {"models": [*paper, *added]}} for stage in SELECTED}}


def seconds(clone: Path, config: Path) -> float:
    """Return the processor seconds of one dry-run, with Snakemake and every process that it starts."""
    env = {**os.environ, "PYTHONPATH": str(clone.resolve() / "scripts")}
    own = clone.resolve() / ".venv" / "bin" / "python"
    python = str(own) if own.is_file() else sys.executable
    command = [python, "-m", "snakemake", "--nolock", "-n", "--configfile", str(config)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=clone, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write a row for every clone, number of models and round."""
    parser = argparse.ArgumentParser(description="Measure a dry-run of the paper.")
    parser.add_argument("--clones", nargs="+", type=Path, required=True)
    parser.add_argument("--models", nargs="+", type=int, default=[10, 50, 100, 200])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for models in arguments.models:
            config = Path(folder) / f"{models}.json"  # JSON is YAML
            write_json(config, configuration(models))
            for _ in range(arguments.rounds):
                for clone in arguments.clones:
                    rows.append({"clone": str(clone), "models": models, "cpu_s": round(seconds(clone, config), 3)})
    write_json(arguments.out, rows)
    return 0


if __name__ == "__main__":
    cli.run(main)
