"""What tasks, attributes, judges and metrics are called in tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from safe_llava.formats import scores
from safe_llava.formats.prism import Task
from safe_llava.formats.tables import unique

AnyRate = TypeVar("AnyRate", scores.Score, scores.RateDifference, scores.PairedDifference)

ATTRIBUTE_TITLES = {
    "Eye_Color": "Eye colour",
    scores.MACRO: "Macro",
    scores.SENTENCE: "Sentence",
    scores.OVER_REFUSAL: "Refused",
}
TASK_TITLES: dict[str, str] = {
    Task.REFUSAL_SOFT: "soft refusal",
    Task.REFUSAL_HARD: "hard refusal",
    Task.IMPLICIT_LEAKAGE: "implicit leakage",
}
RATE_TITLES: dict[str, str] = {
    Task.REFUSAL_SOFT: "refused (%)",
    Task.REFUSAL_HARD: "refused (%)",
    Task.IMPLICIT_LEAKAGE: "not leaked (%)",
}
FAILED_NOTE = "†k: k questions without an answer or a verdict; they count in no %s."


def by_edition_and_task(rows: Sequence[AnyRate]) -> Iterator[tuple[str, Task, list[AnyRate]]]:
    """Yield the rows of each edition, in their order, and task, in the protocol's."""
    for edition in unique(row.edition for row in rows):
        for task in Task:
            if here := [row for row in rows if (row.edition, row.task) == (edition, task)]:
                yield edition, task, here


def attribute_title(attribute: str) -> str:
    """Return an attribute's name for people; it is the same over the descriptions that were not refused."""
    name = attribute.removeprefix(scores.ANSWERED)
    return ATTRIBUTE_TITLES.get(name, name)


def metric_title(benchmark: str, metric: str) -> str:
    """Return a metric's name without that of its benchmark, which stands next to it."""
    return metric.removeprefix(f"{benchmark}_")


def judge_title(judge: str, source: str) -> str:
    """Return a judge's name for people, marked where its numbers are the published ones."""
    return f"{judge} (published)" if source == "published" else judge
