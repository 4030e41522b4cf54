"""Ask one model one general benchmark and score it, with lmms-eval's own code.

Run: ``python -m safe_llava.benchmarks.run --model DIR --row ROW.json --task TASKROW.json --name NAME --data DIR
--partial FILE.jsonl --out RESULTS.json --samples SAMPLES.jsonl --units UNITS.csv [--limit N]``.

Every good answer lies in ``--partial`` as soon as it is there, under a key made of everything that it depends on: a run
that was killed, or that left failures, goes on from there. Where a question has no answer, or a judge's call failed,
the results hold no score, and say so; where no question at all was answered, nothing is written.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safe_llava.benchmarks.evaluate import Asked, Found, evaluate, go_offline
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.models import EvaluatedModel
from safe_llava.config.prism import Judge
from safe_llava.config.secrets import read_key
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import write_json, write_jsonl
from safe_llava.core.provenance import record
from safe_llava.core.retry import outcome
from safe_llava.core.rows import read_row
from safe_llava.engine import open_engine
from safe_llava.engine.base import Engine
from safe_llava.engine.store import ReplyStore, folder_digest
from safe_llava.prism.answers import engine_facts

logger = logging.getLogger(__name__)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m safe_llava.benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--row", type=Path, required=True, help="JSON of the model's row")
    parser.add_argument("--task", type=Path, required=True, help="JSON of the benchmark's row")
    parser.add_argument("--name", required=True, help="the model's name in the results")
    parser.add_argument("--benchmark", help="the benchmark's name in the results; else the task file's, without suffix")
    parser.add_argument("--data", type=Path, required=True, help="the data root")
    parser.add_argument("--partial", type=Path, required=True, help="file for answers as they come; keep it")
    parser.add_argument("--out", type=Path, required=True, help="results to write, JSON")
    parser.add_argument("--samples", type=Path, required=True, help="questions, answers and scores to write, JSONL")
    parser.add_argument("--units", type=Path, required=True, help="what every score is made of, CSV to write")
    parser.add_argument("--submission", type=Path, help="file for the server to write, where one scores the benchmark")
    parser.add_argument("--judge", help="name of the judge, where the benchmark is judged")
    parser.add_argument("--judge-row", help="the judge's row, as JSON")
    parser.add_argument("--judge-store", type=Path, help="folder of what the judge said; keep it")
    parser.add_argument("--limit", type=int, help="ask the first so many questions only")
    parser.add_argument("--allow-failed", type=float, default=0.0, help="fraction that may lack an answer")
    parser.add_argument("--retry", default="", help="stamp of the run; kept in the results")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark with one model."""
    args = _arguments(argv)
    go_offline()
    from safe_llava.benchmarks.plugin import MissingAnswersError, benchmark_row

    task = read_row(args.task, BenchmarkTask, BenchmarkError)
    row = benchmark_row(read_row(args.row, EvaluatedModel, BenchmarkError))
    if args.limit is not None and args.limit < 1:
        raise BenchmarkError(f"--limit {args.limit}: asks nothing", "give a number from 1 on, or leave it out")
    for name in ("model", "data", "out", "samples", "units", "partial", "submission", "judge_store"):
        if getattr(args, name) is not None:  # lmms-eval runs in a folder of its own
            setattr(args, name, getattr(args, name).resolve())
    digest = folder_digest(args.model)
    with ReplyStore(args.partial) as store:
        asked = _asked(args, task, row, store, digest)
        try:
            found = evaluate(task, asked)
        except MissingAnswersError as missing:
            if len(missing.failures) == missing.total:
                raise
            logger.warning("%s", missing)
            _write(args, task, row, digest, asked, missing.failures, missing.total - len(missing.failures), None)
            return
    failures = dict.fromkeys(sorted(found.left_out), "left out")
    _write(args, task, row, digest, asked, failures, len(found.raw["samples"][task.lmms_task]), found)


def _asked(args: argparse.Namespace, task: BenchmarkTask, row: EvaluatedModel, store: ReplyStore, digest: str) -> Asked:
    def engine() -> Engine:
        return open_engine(args.model, row, device=args.device, threads=args.threads)

    judging = None
    if task.judged:
        if not (args.judge and args.judge_row and args.judge_store):
            raise BenchmarkError(f"{task.lmms_task} is read by a judge", "give --judge, --judge-row and --judge-store")
        from safe_llava.benchmarks.judging import Judging

        try:
            judge = Judge.model_validate_json(args.judge_row)
        except ValidationError as error:
            raise BenchmarkError(
                f"--judge-row is no judge: {error.errors()[0]['msg']}", "let the workflow write it"
            ) from error
        secret = read_key(judge, os.environ)
        judging = Judging(judge, args.judge, _name(args), task.judge_reply or "", args.judge_store, secret)
    return Asked(
        engine=engine,
        data=args.data,
        work=args.out.parent,
        store=store,
        facts={"model": digest, "engine": engine_facts(row, args.device)},
        limit=args.limit,
        allow_failed=args.allow_failed,
        judging=judging,
        keep=args.submission,
    )


def _name(args: argparse.Namespace) -> str:
    return str(args.benchmark or args.task.stem)


def _write(
    args: argparse.Namespace,
    task: BenchmarkTask,
    row: EvaluatedModel,
    digest: str,
    asked: Asked,
    failures: dict[int, str],
    n: int,
    found: Found | None,
) -> None:
    """Write what there is; ``found`` is None where questions without an answer kept a score from being made."""
    from safe_llava.benchmarks.results import sample_rows
    from safe_llava.benchmarks.units import write_units

    benchmark, judge_failures = _name(args), found.judge_failures if found else []
    if judge_failures:
        logger.warning(
            "%d calls of the judge have failed, so there is no score; the next run asks them again. The first: %s",
            len(judge_failures),
            judge_failures[0],
        )
    rows = sample_rows(found.raw, task, args.name, benchmark) if found else []
    lost = [
        {"model": args.name, "benchmark": benchmark, "doc_id": number, "status": "failed", "reason": reason}
        for number, reason in failures.items()
    ]
    write_jsonl(args.samples, [*rows, *lost])
    write_units(args.units, found.units if found else {})
    results: dict[str, Any] = {
        "model": args.name,
        "benchmark": benchmark,
        "metrics": found.metrics if found else {},
        "n": n,
        "n_failed": len(failures),
        "n_judge_failed": len(judge_failures),
        "submitted": found.submitted if found else None,
        "limit": args.limit,
        "task": task.model_dump(mode="json"),
        "judging": asked.judging.describe() if asked.judging else None,
        **outcome(len(failures) + len(judge_failures), args.retry),
    }
    facts = record(model_sha256=digest, row=row.model_dump(mode="json"), engine=found.engine if found else [])
    write_json(args.out, {**results, "provenance": facts})


if __name__ == "__main__":
    cli.run(main)
