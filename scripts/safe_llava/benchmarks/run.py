"""Ask one model one general benchmark and score it, with lmms-eval's own code.

Run: ``python -m safe_llava.benchmarks.run --model DIR --row ROW.json --task TASKROW.json --name NAME --data DIR
--out RESULTS.json --samples SAMPLES.jsonl [--limit N]``.

Nothing is written unless every question has an answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from safe_llava.benchmarks.evaluate import benchmark_row, evaluate, go_offline
from safe_llava.benchmarks.results import normalise, sample_rows
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.models import EvaluatedModel
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import write_json, write_jsonl
from safe_llava.core.provenance import record
from safe_llava.core.rows import read_row
from safe_llava.engine import open_engine
from safe_llava.engine.store import folder_digest


def check_scorable(task: BenchmarkTask, benchmark: str) -> None:
    """Refuse a benchmark whose score somebody else makes.

    Raises:
        BenchmarkError: it needs a judge or a server.
    """
    if task.scored_elsewhere:
        raise BenchmarkError(
            f"{benchmark}: {task.scored_elsewhere}", f"take `{benchmark}` out of benchmarks.select.tasks"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m safe_llava.benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--row", type=Path, required=True, help="JSON of the model's row")
    parser.add_argument("--task", type=Path, required=True, help="JSON of the benchmark's row")
    parser.add_argument("--name", required=True, help="the model's name in the results")
    parser.add_argument("--benchmark", help="the benchmark's name in the results; else the task file's, without suffix")
    parser.add_argument("--data", type=Path, required=True, help="the data root")
    parser.add_argument("--out", type=Path, required=True, help="results to write, JSON")
    parser.add_argument("--samples", type=Path, required=True, help="questions, answers and scores to write, JSONL")
    parser.add_argument("--limit", type=int, help="ask the first so many questions only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark with one model."""
    args = _arguments(argv)
    go_offline()
    task = read_row(args.task, BenchmarkTask, BenchmarkError)
    row = read_row(args.row, EvaluatedModel, BenchmarkError)
    benchmark = args.benchmark or args.task.stem
    check_scorable(task, benchmark)
    if args.limit is not None and args.limit < 1:
        raise BenchmarkError(f"--limit {args.limit}: asks nothing", "give a number from 1 on, or leave it out")
    model, data, out, samples = (path.resolve() for path in (args.model, args.data, args.out, args.samples))
    engine = open_engine(model, benchmark_row(row), device=args.device, threads=args.threads)
    raw = evaluate(task, engine, data, out.parent, args.limit)
    rows = sample_rows(raw, task, args.name, benchmark)
    results = {
        "model": args.name,
        "benchmark": benchmark,
        "metrics": normalise(raw, task),
        "n": len(rows),
        "n_failed": 0,  # with one failed answer there are no results
        "limit": args.limit,
        "task": task.model_dump(mode="json"),
        "provenance": record(
            model_sha256=folder_digest(model), row=row.model_dump(mode="json"), engine=engine.describe()
        ),
    }
    write_jsonl(samples, rows)
    write_json(out, results)


if __name__ == "__main__":
    cli.run(main)
