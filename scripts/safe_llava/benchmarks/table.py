"""The scores of all models and benchmarks in one tidy table, beside the published ones.

Run: ``python -m safe_llava.benchmarks.table --results FILE… --published FILE.yaml --out FILE.csv``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import atomic_path, read_json

COLUMNS = (
    "model",
    "benchmark",
    "metric",
    "score",
    "stderr",
    "n",
    "n_failed",
    "published",
    "difference",
    "source",
    "note",
)


class Metric(BaseModel):
    """A score on the published scale."""

    model_config = ConfigDict(extra="forbid")

    score: FiniteFloat
    stderr: FiniteFloat | None = None


class Results(BaseModel):
    """What ``safe_llava.benchmarks.run`` wrote about one model and one benchmark."""

    model_config = ConfigDict(extra="ignore")

    model: str
    benchmark: str
    metrics: dict[str, Metric]
    n: int
    n_failed: int
    limit: int | None = None


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        BenchmarkError: it is not one.
    """
    remedy = "run the benchmark again"
    try:
        return Results.model_validate(read_json(path, remedy))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise BenchmarkError(f"{path}: {key}: {fault['msg']}", remedy) from error


def read_tasks(path: Path) -> dict[str, BenchmarkTask]:
    """Read the benchmarks' rows from YAML or JSON: bare, under ``tasks``, or under ``benchmarks.tasks``.

    Raises:
        BenchmarkError: a row is not one.
    """
    remedy = "give the `benchmarks` section of the configuration"
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{path}: not YAML: {error}", remedy) from error
    for key in ("benchmarks", "tasks"):
        found = found.get(key, found) if isinstance(found, dict) else found
    if not isinstance(found, dict):
        raise BenchmarkError(f"{path}: no mapping of benchmarks", remedy)
    tasks = {}
    for name, row in found.items():
        try:
            tasks[name] = BenchmarkTask.model_validate(row)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])
            raise BenchmarkError(f"{path}: {name}.{key}: {fault['msg']}", remedy) from error
    return tasks


def table(results: Sequence[Results], tasks: Mapping[str, BenchmarkTask], compare: Sequence[str] | None) -> list[dict]:
    """Return the rows of the table in the order of the results, each benchmark's own metric first.

    Args:
        results: one for each model and benchmark.
        tasks: the benchmarks' rows, by name.
        compare: models whose scores stand beside the published ones; None: all of them.

    Raises:
        BenchmarkError: a benchmark has no row, or two results are of the same model and benchmark.
    """
    seen: set[tuple[str, str]] = set()
    rows = []
    for result in results:
        pair = (result.model, result.benchmark)
        if pair in seen:
            raise BenchmarkError(f"two results of {' on '.join(pair)}", "name each results file once")
        if result.benchmark not in tasks:
            raise BenchmarkError(f"no row for benchmark `{result.benchmark}`", "add it to benchmarks.tasks")
        seen.add(pair)
        task = tasks[result.benchmark]
        beside = compare is None or result.model in compare
        rows += [_row(result, task, name, beside) for name in task.metrics if name in result.metrics]
        if task.metric not in result.metrics:
            raise BenchmarkError(f"{' on '.join(pair)}: no metric `{task.metric}`", "run the benchmark again")
    return rows


def _row(result: Results, task: BenchmarkTask, name: str, beside: bool) -> dict[str, Any]:
    metric = result.metrics[name]
    published = task.published.get(name) if beside else None
    comparable = task.comparable and result.limit is None
    limited = f"The first {result.limit} questions only." if result.limit is not None else ""
    return {
        "model": result.model,
        "benchmark": result.benchmark,
        "metric": name,
        "score": f"{metric.score:.2f}",
        "stderr": "" if metric.stderr is None else f"{metric.stderr:.2f}",
        "n": result.n,
        "n_failed": result.n_failed,
        "published": "" if published is None else published,
        "difference": "" if published is None or not comparable else f"{metric.score - published:.2f}",
        "source": "computed",
        "note": " ".join(part for part in (limited, task.note) if part),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="results of safe_llava.benchmarks.run")
    parser.add_argument("--published", type=Path, required=True, help="the benchmarks' rows, YAML or JSON")
    parser.add_argument("--compare", nargs="*", help="models to set beside the published scores; all by default")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV")
    args = parser.parse_args(argv)
    rows = table([read_results(path) for path in args.results], read_tasks(args.published), args.compare)
    with atomic_path(args.out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    cli.run(main)
