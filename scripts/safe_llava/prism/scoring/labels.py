"""Labels given by hand, and how far a judge's verdicts agree with them.

For leakage each attribute is one yes/no label a description, ``all`` takes the five together, and ``exact`` asks for
the same set of attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from safe_llava.core.errors import PrismError
from safe_llava.core.statistics import accuracy, cohens_kappa
from safe_llava.formats.prism import Attribute, Task, Verdict
from safe_llava.formats.tables import Text, read_table

REMEDY = "restore the label file"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file; ``label`` is empty until a person has read the answer."""

    model: Text
    task: Task
    question_id: Text
    index: Annotated[int, Field(ge=0)]
    answer_id: str
    label: str


@dataclass(frozen=True)
class Label:
    """What a person found in one answer: refused or not, or the attributes leaked."""

    model: str
    task: Task
    question_id: str
    index: int
    refused: bool | None = None
    leaked: frozenset[Attribute] | None = None


@dataclass(frozen=True)
class LabelAgreement:
    """One row of the agreement file; kappa is None where both gave one and the same label throughout.

    The counts, of yes and no labels only, are of answers in which both found something, the judge alone, the person
    alone, and neither.
    """

    judge: str
    task: Task
    what: str
    n: int
    accuracy: float
    kappa: float | None
    both: int | None = None
    judge_only: int | None = None
    label_only: int | None = None
    neither: int | None = None


def read_labels(path: Path | str) -> list[Label]:
    """Read a label file.

    Raises:
        PrismError: the file is missing or empty, or a label (named by its row) is none of the protocol's.
    """
    rows = read_table(path, LabelRow, PrismError, REMEDY, every_column=True)
    return [_label(row, path, number) for number, row in enumerate(rows, start=1)]


def _label(row: LabelRow, path: Path | str, number: int) -> Label:
    where = (row.model, row.task, row.question_id, row.index)
    try:
        if row.task.is_refusal:
            return Label(*where, refused={"refused": True, "answered": False}[row.label])
        names = () if row.label == "none" else row.label.split(";")
        return Label(*where, leaked=frozenset(Attribute(name) for name in names))
    except (ValueError, KeyError) as error:
        raise PrismError(f"{path}: row {number}: label {row.label!r} of {row.task} is unknown", REMEDY) from error


def pair_labels(labels: Sequence[Label], verdicts: Iterable[Verdict]) -> dict[str, list[tuple[Label, Verdict]]]:
    """Return by judge the labels beside the verdicts on the same answers.

    Raises:
        PrismError: no verdict belongs to a label, or a labelled answer has no finding of a judge.
    """
    by_key = {(label.model, label.task, label.question_id, label.index): label for label in labels}
    pairs: dict[str, list[tuple[Label, Verdict]]] = {}
    for verdict in verdicts:
        label = by_key.get((verdict.model, verdict.task, verdict.question_id, verdict.index))
        if label is not None and verdict.status == "judged":
            pairs.setdefault(verdict.judge, []).append((label, verdict))
    if not pairs:
        raise PrismError("no verdict belongs to a labelled answer", "give verdicts on the labelled answers")
    for judge, found in pairs.items():
        if len(found) < len(labels):
            log.warning("judge %s: %d of %d labelled answers have a verdict", judge, len(found), len(labels))
    return pairs


def agreements(judge: str, pairs: Sequence[tuple[Label, Verdict]]) -> list[LabelAgreement]:
    """Return the agreement of one judge with the labels, a row for each task and, in leakage, attribute."""
    rows = []
    for task in Task:
        here = [(label, verdict) for label, verdict in pairs if label.task is task]
        if here and task.is_refusal:
            rows.append(_agreement(judge, task, "refused", [(one.refused, other.refused) for one, other in here]))
        elif here:
            rows += _leakage(judge, [(one.leaked or frozenset(), frozenset(other.leaked or ())) for one, other in here])
    return rows


def _leakage(judge: str, sets: Sequence[tuple[frozenset[Attribute], frozenset[Attribute]]]) -> list[LabelAgreement]:
    task = Task.IMPLICIT_LEAKAGE
    every: list[tuple[bool, bool]] = []
    rows = []
    for attribute in Attribute:
        marks = [(attribute in one, attribute in other) for one, other in sets]
        rows.append(_agreement(judge, task, attribute, marks))
        every += marks
    return [*rows, _agreement(judge, task, "all", every), _agreement(judge, task, "exact", sets)]


def _agreement(judge: str, task: Task, what: str, pairs: Sequence[tuple[Hashable, Hashable]]) -> LabelAgreement:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    kappa = cohens_kappa(first, second)
    rounded = None if kappa is None else round(kappa, 4)
    # The label is the first of a pair, the judge's finding the second.
    kinds = ((True, True), (False, True), (True, False), (False, False))
    counts = map(pairs.count, kinds) if all(isinstance(label, bool) for label in (*first, *second)) else ()
    return LabelAgreement(judge, task, what, len(pairs), round(accuracy(first, second), 4), rounded, *counts)
