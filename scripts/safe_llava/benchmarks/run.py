"""Ask one model one general benchmark and score it, with lmms-eval's own code.

Run: ``python -m safe_llava.benchmarks.run --model DIR --row ROW.json --task TASKROW.json --name NAME --data DIR
--partial FILE.jsonl --results RESULTS.json --samples SAMPLES.jsonl --units UNITS.csv [--limit N]``.

Every good answer lies in ``--partial`` as soon as it is there, under a key made of everything that it depends on: a run
that was killed, or that left failures, goes on from there. Where a question has no answer, or a judge's call failed,
the results hold no score, and say so; where no question at all was answered, or more lack in a server's file than may,
nothing is written.

Where a judge reads the answers, a machine without network can ask for them (``--answers-only RECEIPT.json``: no judge
is called), and one without GPU can have them judged (``--answered RECEIPT.json``: no engine is opened).
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_llava.benchmarks.lmms.evaluate import EvaluationRequest, EvaluationResult, evaluate, go_offline
from safe_llava.benchmarks.scoring.answers import AnswersReceipt, NotAsked, question_facts, read_receipt, scored_of
from safe_llava.benchmarks.scoring.submission import PARTIAL
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.models import EvaluatedModel
from safe_llava.config.prism import Judge
from safe_llava.config.secrets import read_key
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import write_json, write_jsonl
from safe_llava.core.provenance import record
from safe_llava.core.retry import outcome
from safe_llava.core.rows import REMEDY, check_row, read_row
from safe_llava.engine import open_engine
from safe_llava.engine.base import Engine
from safe_llava.engine.facts import engine_facts
from safe_llava.engine.store import ReplyStore, folder_digest

if TYPE_CHECKING:
    from safe_llava.benchmarks.lmms.judging import Judging

logger = logging.getLogger(__name__)
LEFT_OUT = "another question of its unit failed"


@dataclass(frozen=True)
class Ended:
    """How a run ended; ``found`` is None where questions without an answer kept a score from being made."""

    failures: dict[int, str]
    n: int
    found: EvaluationResult | None = None

    @property
    def engine(self) -> list[dict[str, Any]]:
        """What is known of the engine, if one was opened."""
        return self.found.engine if self.found else []


def _resolved(path: str) -> Path:
    return Path(path).resolve()  # lmms-eval runs in a folder of its own


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m safe_llava.benchmarks.run", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=_resolved, help="folder of the checkpoint")
    source.add_argument(
        "--answered", type=_resolved, help="receipt of answers in --partial: score these, and ask nothing"
    )
    parser.add_argument("--row", type=Path, required=True, help="JSON of the model's row")
    parser.add_argument("--task", type=Path, required=True, help="JSON of the benchmark's row")
    parser.add_argument("--name", required=True, help="the model's name in the results")
    parser.add_argument("--benchmark", help="the benchmark's name in the results; else the task file's, without suffix")
    parser.add_argument("--data", type=_resolved, required=True, help="the data root")
    parser.add_argument("--partial", type=_resolved, required=True, help="file for answers as they come; keep it")
    parser.add_argument("--answers-only", type=_resolved, help="ask only, and write the receipt of the answers, JSON")
    parser.add_argument("--results", type=_resolved, help="results to write, JSON")
    parser.add_argument("--samples", type=_resolved, help="questions, answers and scores to write, JSONL")
    parser.add_argument("--units", type=_resolved, help="what every score is made of, CSV to write")
    parser.add_argument(
        "--submission", type=_resolved, help="file for the server to write, where one scores the benchmark"
    )
    parser.add_argument("--judge", help="name of the judge, where the benchmark is judged")
    parser.add_argument("--judge-row", help="the judge's row, as JSON")
    parser.add_argument("--judge-store", type=_resolved, help="folder of what the judge said; keep it")
    parser.add_argument("--limit", type=int, help="ask the first so many questions only")
    parser.add_argument("--allow-failed", type=float, default=0.0, help="fraction that may lack an answer")
    parser.add_argument("--retry", default="", help="stamp of the run; kept in the results")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    if (args.answers_only is None) == (None in (args.results, args.samples, args.units)):
        parser.error("give --results, --samples and --units, or else --answers-only")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark with one model."""
    args = _arguments(argv)
    go_offline()
    from safe_llava.benchmarks.lmms.plugin import benchmark_row

    task = read_row(args.task, BenchmarkTask, BenchmarkError)
    row = benchmark_row(read_row(args.row, EvaluatedModel, BenchmarkError))
    _check(args, task)
    answers = read_receipt(args.answered, args.name, _name(args)) if args.answered else None
    with ReplyStore(args.partial) as store:
        asked = _asked(args, task, row, store, answers)
        ended = _run(task, asked, answers)
    if args.answers_only:
        _write_answers(args, task, row, asked, ended)
    else:
        _write(args, task, row, asked, ended, answers)


def _run(task: BenchmarkTask, asked: EvaluationRequest, answers: AnswersReceipt | None) -> Ended:
    from safe_llava.benchmarks.lmms.plugin import MissingAnswersError

    try:
        found = evaluate(task, asked)
    except MissingAnswersError as error:
        missing = error.explained(answers.reasons) if answers else error
        if len(missing.failures) == missing.total or (task.submission and asked.keep is not None):
            raise missing from None  # a rule that writes the server's file has to fail where there is none
        logger.warning("%s", missing)
        return Ended(missing.failures, missing.total - len(missing.failures))
    known = answers.reasons if answers else {}
    failures = {number: known.get(number, reason) for number, reason in found.failures.items()}
    return Ended(failures, len(found.raw["samples"][task.lmms_task]), found)


def _check(args: argparse.Namespace, task: BenchmarkTask) -> None:
    if args.limit is not None and args.limit < 1:
        raise BenchmarkError(f"--limit {args.limit}: asks nothing", "give a number from 1 on, or leave it out")
    whole = task.submission and args.submission is not None and not args.submission.name.endswith(PARTIAL)
    if whole and (args.limit is not None or args.allow_failed):
        raise BenchmarkError(
            f"{args.submission}: with --limit or --allow-failed questions may be missing from the server's file",
            f"let its name end in {PARTIAL}, or leave them out",
        )


def _asked(
    args: argparse.Namespace,
    task: BenchmarkTask,
    row: EvaluatedModel,
    store: ReplyStore,
    answers: AnswersReceipt | None,
) -> EvaluationRequest:
    def engine() -> Engine:
        return NotAsked() if answers else open_engine(args.model, row, device=args.device, threads=args.threads)

    # What an answer depends on is known where it was asked for; this machine may have another device.
    facts = answers.facts if answers else {"model": folder_digest(args.model), "engine": engine_facts(row, args.device)}
    return EvaluationRequest(
        engine=engine,
        data=args.data,
        work=(args.answers_only or args.results).parent,
        store=store,
        facts=facts,
        limit=args.limit,
        allow_failed=args.allow_failed,
        ask_only=args.answers_only is not None,
        judging=_judging(args, task) if task.judged and not args.answers_only else None,
        keep=args.submission,
    )


def _judging(args: argparse.Namespace, task: BenchmarkTask) -> Judging:
    if not (args.judge and args.judge_row and args.judge_store):
        raise BenchmarkError(f"{task.lmms_task} is read by a judge", "give --judge, --judge-row and --judge-store")
    from safe_llava.benchmarks.lmms.judging import Judging

    judge = check_row(Judge, args.judge_row, "--judge-row", BenchmarkError, REMEDY, is_json=True)
    secret = read_key(judge, os.environ)
    return Judging(judge, args.judge, _name(args), task.judge_reply or "", args.judge_store, secret)


def _name(args: argparse.Namespace) -> str:
    return str(args.benchmark or args.task.stem)


def _write_answers(
    args: argparse.Namespace, task: BenchmarkTask, row: EvaluatedModel, asked: EvaluationRequest, ended: Ended
) -> None:
    answers = AnswersReceipt(
        model=args.name,
        benchmark=_name(args),
        n=ended.n,
        n_failed=len(ended.failures),
        reasons=ended.failures,
        facts=dict(asked.facts),
        limit=args.limit,
        task=question_facts(task),
        provenance=_provenance(asked, row, engine=ended.engine),
    )
    write_json(args.answers_only, {**answers.model_dump(mode="json"), **outcome(answers.n_failed, args.retry)})


def _provenance(asked: EvaluationRequest, row: EvaluatedModel, **more: Any) -> dict[str, Any]:
    return record(model_sha256=asked.facts["model"], row=row.model_dump(mode="json"), **more)


def _unscored(args: argparse.Namespace, ended: Ended) -> list[dict[str, Any]]:
    """Return a row for each question that failed, or was left out with one that did."""
    found = dict.fromkeys(ended.found.left_out if ended.found else (), ("left out", LEFT_OUT))
    found |= {number: ("failed", reason) for number, reason in ended.failures.items()}
    asked = {"model": args.name, "benchmark": _name(args)}
    return [
        {**asked, "doc_id": number, "status": status, "reason": reason}
        for number, (status, reason) in sorted(found.items())
    ]


def _write(
    args: argparse.Namespace,
    task: BenchmarkTask,
    row: EvaluatedModel,
    asked: EvaluationRequest,
    ended: Ended,
    answers: AnswersReceipt | None,
) -> None:
    from safe_llava.benchmarks.lmms.results import sample_rows
    from safe_llava.benchmarks.scoring.units import write_units

    benchmark, failures, found = _name(args), ended.failures, ended.found
    judge_failures = found.judge_failures if found else []
    if judge_failures:
        logger.warning(
            "%d calls of the judge have failed, so there is no score; the next run asks them again. The first: %s",
            len(judge_failures),
            judge_failures[0],
        )
    rows = sample_rows(found.raw, task, args.name, benchmark, judged_all=not judge_failures) if found else []
    write_jsonl(args.samples, [*rows, *_unscored(args, ended)])
    write_units(args.units, found.units if found else {})
    results: dict[str, Any] = {
        "model": args.name,
        "benchmark": benchmark,
        "metrics": found.metrics if found else {},
        "n": ended.n,
        "n_failed": len(failures),
        "n_judge_failed": len(judge_failures),
        "submitted": found.submitted if found else None,
        "limit": args.limit,
        "task": scored_of(task),
        "judging": asked.judging.describe() if asked.judging else None,
        **outcome(len(failures) + len(judge_failures), args.retry),
    }
    facts = {"answers": answers.provenance} if answers else {"engine": ended.engine}
    write_json(args.results, {**results, "provenance": _provenance(asked, row, **facts)})


if __name__ == "__main__":
    cli.run(main)
