"""The receipt of answers that a judge reads later: whose they are, what they depend on, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.rows import read_row
from safe_llava.engine.base import Reply, Request, failed

AGAIN = "run the answers again (`snakemake benchmarks -R benchmarks_answers`)"
ASKED_BY = {"lmms_task", "overrides", "pictures", "dataset"}  # what of a task's row its questions depend on

# What of it the score depends on beside them.
SCORED_BY = {
    *("metric", "more_metrics", "scale", "group_by", "group_modulo", "group_size"),
    *("judged", "judge_reply", "submission", "submission_fields"),
}


class AnswersReceipt(BaseModel):
    """The receipt; the answers themselves lie in the store.

    Attributes:
        model: who was asked.
        benchmark: what.
        n: questions with an answer.
        n_failed: questions without one.
        reasons: why, by the number of the document.
        facts: what every answer depends on beside the question: part of its key in the store.
        limit: the first so many questions only.
        task: what the questions depend on.
        provenance: of the run that asked.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    benchmark: str
    n: int
    n_failed: int
    reasons: dict[int, str]
    facts: dict[str, Any]
    limit: int | None
    task: dict[str, Any]
    provenance: dict[str, Any]


def read_receipt(path: Path, model: str, benchmark: str) -> AnswersReceipt:
    """Read a receipt.

    Raises:
        BenchmarkError: it is none, or that of another model or benchmark.
    """
    answers = read_row(path, AnswersReceipt, BenchmarkError, remedy=AGAIN)
    if (answers.model, answers.benchmark) != (model, benchmark):
        raise BenchmarkError(
            f"{path}: the answers of {answers.model} to {answers.benchmark}, not of {model} to {benchmark}", AGAIN
        )
    return answers


def question_facts(task: BenchmarkTask) -> dict[str, Any]:
    """Return what of a benchmark's row its questions depend on."""
    return task.model_dump(mode="json", include=ASKED_BY)


def scored_of(task: BenchmarkTask) -> dict[str, Any]:
    """Return what of a benchmark's row its score depends on: without what stands beside it in the table."""
    return task.model_dump(mode="json", include=ASKED_BY | SCORED_BY)


class NotAsked:
    """Stands in for the engine where only stored answers are scored: a question without one has failed."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Yield a failure for each request."""
        for request in requests:
            yield failed(request.key, f"not answered: {AGAIN}")

    def describe(self) -> dict[str, Any]:
        """Return nothing: nothing was loaded."""
        return {}
