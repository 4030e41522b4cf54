"""The scores of all models and benchmarks in one tidy table, beside the published ones.

Run: ``python -m safe_llava.benchmarks.table --results FILE… --published FILE.yaml --out FILE.csv``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.rows import check_row, read_row
from safe_llava.formats.benchmark_scores import NOT_COMPARABLE, NOTHING_PUBLISHED, BenchmarkScore
from safe_llava.formats.tables import write_table

SUBMITTED = "submission written"
UNCOUNTED = "no score: no question counts for it"  # with a limit, or questions left out
ERRORS = 2.0  # standard errors within which a difference says nothing


class Metric(BaseModel):
    """A score on the published scale."""

    model_config = ConfigDict(extra="forbid")

    score: FiniteFloat
    stderr: FiniteFloat | None = None


class JudgedBy(BaseModel):
    """Who read the answers: the judge's name, the models that replied, and how many calls it took."""

    model_config = ConfigDict(extra="ignore")

    judge: str
    models: list[str] = []
    calls: int = 0


class Results(BaseModel):
    """What ``safe_llava.benchmarks.run`` wrote about one model and one benchmark.

    There are no metrics where answers are missing, where a judge's calls have failed, or where a server scores.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    benchmark: str
    metrics: dict[str, Metric]
    n: int
    n_failed: int
    n_judge_failed: int = 0
    submitted: int | None = None
    limit: int | None = None
    judging: JudgedBy | None = None


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        BenchmarkError: it is not one.
    """
    return read_row(path, Results, BenchmarkError, remedy="run the benchmark again")


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
    return {
        name: check_row(BenchmarkTask, row, f"{path}: {name}", BenchmarkError, remedy) for name, row in found.items()
    }


def table(
    results: Sequence[Results], tasks: Mapping[str, BenchmarkTask], compare: Sequence[str] | None
) -> list[BenchmarkScore]:
    """Return the rows of the table in the order of the results, each benchmark's own metric first.

    A metric that the results have not is a row without a score.

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
        if without := no_score(result):
            rows.append(_row(result, task, task.metric, beside, without))
            continue
        rows += [_row(result, task, name, beside, "" if name in result.metrics else UNCOUNTED) for name in task.metrics]
    return rows


def no_score(result: Results) -> str:
    """Return why there is no score; empty where there is one."""
    if result.metrics:
        return ""
    if result.n_failed:
        return f"no score: {result.n_failed} of {result.n + result.n_failed} questions have no answer"
    if result.n_judge_failed:
        return f"no score: {result.n_judge_failed} calls of the judge have failed"
    if result.submitted is not None:
        return SUBMITTED
    return ""


def score_verdict(result: Results, task: BenchmarkTask, name: str, beside: bool) -> str:
    """Return what a score says about the published one: as it, apart from it, or nothing, and then why."""
    metric, published = result.metrics[name], task.published.get(name)
    if published is None or not beside:
        return NOTHING_PUBLISHED if published is None else ""
    if why := not_comparable(result, task, name):
        return f"{NOT_COMPARABLE}{why}"
    difference = abs(metric.score - published)
    if metric.stderr is not None and difference <= ERRORS * metric.stderr:
        return "within two standard errors"
    noise = task.noise.get(name)
    if noise is not None and difference <= noise:
        return f"within the known noise (±{noise:g})"
    return "outside" if metric.stderr is not None or noise is not None else "no standard error known"


def not_comparable(result: Results, task: BenchmarkTask, name: str) -> str:
    """Return why a score and the published one were not measured the same way; empty where they were."""
    if result.limit is not None:
        return f"the first {result.limit} questions only"
    if not task.comparable:
        return task.note.rstrip(".")
    if name in task.not_comparable:
        return task.not_comparable[name]
    judging = result.judging
    if judging and judging.calls and task.published_judge and not same_judge(judging.models, task.published_judge):
        return f"judged by {', '.join(judging.models) or judging.judge}, published with {task.published_judge}"
    return ""


def same_judge(models: Sequence[str], published: str) -> bool:
    """Return whether all replies came from the published judge: the model of that name, or a dated snapshot of it."""
    snapshot = re.compile(re.escape(published) + r"(-\d{4}(-\d{2}-\d{2})?)?")
    return bool(models) and all(snapshot.fullmatch(model) for model in models)


def _row(result: Results, task: BenchmarkTask, name: str, beside: bool, without: str) -> BenchmarkScore:
    metric = None if without else result.metrics[name]
    published = task.published.get(name) if beside else None
    compared = metric is not None and published is not None and not not_comparable(result, task, name)
    limited = f"The first {result.limit} questions only." if result.limit is not None else ""
    judging = result.judging
    return BenchmarkScore(
        model=result.model,
        benchmark=result.benchmark,
        metric=name,
        score=None if metric is None else metric.score,
        stderr=None if metric is None else metric.stderr,
        n=result.n,
        n_failed=result.n_failed,
        limit=result.limit,
        published=published,
        difference=metric.score - published if compared and metric and published is not None else None,
        verdict=without or score_verdict(result, task, name, beside),
        judge=", ".join(judging.models or [judging.judge]) if judging else "",
        published_judge=(task.published_judge or "") if task.judged else "",
        source="computed",
        note=" ".join(part for part in (limited, task.note) if part),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="*", required=True, help="results of safe_llava.benchmarks.run")
    parser.add_argument("--published", type=Path, required=True, help="the benchmarks' rows, YAML or JSON")
    parser.add_argument("--compare", nargs="*", help="models to set beside the published scores; all by default")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV")
    args = parser.parse_args(argv)
    rows = table([read_results(path) for path in args.results], read_tasks(args.published), args.compare)
    write_table(args.out, BenchmarkScore, rows)


if __name__ == "__main__":
    cli.run(main)
