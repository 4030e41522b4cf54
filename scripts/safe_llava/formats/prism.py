"""PRISM's attributes, tasks and files: what was asked, what was answered, what was judged.

The rules of the protocol that everything else relies on:

- The attribute a row asks about is the first part of its question_id, in both editions, whatever its prompt says. In
  v2's descriptions, which are about no attribute in particular, that part is ``All``.
- A ``Hair`` part is accepted and left out: it is neither required nor scored.
- ``index`` counts the rows of one question_id from 0 (an image is described three times).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safe_llava.core.errors import PrismError
from safe_llava.core.files import read_jsonl
from safe_llava.core.rows import check_row

HAIR = "Hair"  # a seventh folder that was dropped before the release, still in some files
ALL = "All"  # where another attribute's name would stand: v2's descriptions, each scored for all five
EDITIONS = ("v1", "v2")
AGAIN = "make the verdicts file again, and name each file once"


class Attribute(StrEnum):
    """A biometric attribute that PRISM asks about; the value is the name in files and tables."""

    AGE = "Age"
    GENDER = "Gender"
    RACE = "Race"
    EYE_COLOR = "Eye_Color"
    WEIGHT = "Weight"


class Task(StrEnum):
    """A task of PRISM; the value is the name in files and tables."""

    REFUSAL_SOFT = "refusal_soft"
    REFUSAL_HARD = "refusal_hard"
    IMPLICIT_LEAKAGE = "implicit_leakage"

    @property
    def is_refusal(self) -> bool:
        """Whether the task asks about one attribute (else it asks for a description)."""
        return self is not Task.IMPLICIT_LEAKAGE


def attribute_of(question_id: str) -> Attribute | Literal["All"] | None:
    """Return the attribute that a question_id asks about, ``All``, or None for the ``Hair`` part.

    Raises:
        PrismError: the first part is no attribute of PRISM.
    """
    part = question_id.split("/", 1)[0]
    if part == HAIR:
        return None
    if part == ALL:
        return "All"
    try:
        return Attribute(part)
    except ValueError as error:
        raise PrismError(
            f"question_id {question_id!r}: {part!r} is no attribute of PRISM",
            f"question_ids start with one of {', '.join(Attribute)}, or {ALL}",
        ) from error


class Question(BaseModel):
    """One row of an edition's question file."""

    model_config = ConfigDict(frozen=True)  # a later edition may carry keys of its own

    question_id: str = Field(min_length=1)
    image: str = Field(min_length=1)
    text: str = Field(min_length=1)


class QuestionRow(BaseModel):
    """What an answer and a verdict have in common: which question, put to which model, the row belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edition: str = Field(min_length=1)
    model: str = Field(min_length=1)
    task: Task
    question_id: str = Field(min_length=1)
    index: int = Field(ge=0)
    attribute: Attribute | Literal["Hair", "All"]
    reason: str | None = None

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What tells a row from every other row of the same file."""
        return (self.edition, self.model, self.task, self.question_id, self.index)

    @model_validator(mode="after")
    def _attribute_is_of_the_id(self) -> Self:
        if self.question_id.split("/", 1)[0] != self.attribute:
            raise ValueError(f"attribute {self.attribute} is not the first part of {self.question_id}")
        if self.task.is_refusal and self.attribute == ALL:
            raise ValueError(f"a direct question asks about one attribute, {self.question_id} about {ALL}")
        return self


class Answer(QuestionRow):
    """One row of an answers file: one question asked of one model, answered or not."""

    image: str
    prompt: str
    text: str | None
    status: Literal["ok", "failed"]
    n_tokens: int | None = None
    truncated: bool | None = None

    @model_validator(mode="after")
    def _text_where_ok(self) -> Self:
        if (self.status == "ok") != (self.text is not None):
            raise ValueError("text is null where and only where status is failed")
        return self


class Verdict(QuestionRow):
    """One row of a verdicts file: what one judge found in one answer."""

    judge: str = Field(min_length=1)
    status: Literal["judged", "failed"]
    refused: bool | None = None
    leaked: tuple[Attribute, ...] | None = None
    description_refused: bool | None = None
    rules_version: str | None = None  # of the rules, where they are the judge, or say what was refused
    # Of a judge that was asked: its model as its server names it, and the prompts with their digest.
    judge_model: str | None = None
    prompts: str | None = None
    # Of the answer, for the scores; None in older files.
    image: str | None = None
    truncated: bool | None = None
    unanswered: bool | None = None  # True where there was no answer to judge

    @model_validator(mode="after")
    def _finding_where_judged(self) -> Self:
        found = (self.refused is not None) if self.task.is_refusal else (self.leaked is not None)
        if found != (self.status == "judged"):
            raise ValueError("a finding (refused or leaked) stands where and only where status is judged")
        return self

    @property
    def photo(self) -> str:
        """The photo that was asked about; older files do not name it, but end their question_id with it."""
        return self.image if self.image is not None else self.question_id.split("/", 1)[-1]

    @property
    def lacks_answer(self) -> bool:
        """Whether the failure is that of the model (no answer), not that of the judge."""
        if self.unanswered is not None:
            return self.unanswered
        return self.status == "failed" and (self.reason or "").startswith("no answer")


AnyRow = TypeVar("AnyRow", bound=BaseModel)


def parse_rows(kind: type[AnyRow], rows: Iterable[dict[str, Any]], path: Path | str, remedy: str) -> list[AnyRow]:
    """Check rows against their type.

    Raises:
        PrismError: naming the file, the row's number and its first fault.
    """
    return [check_row(kind, row, f"{path}: row {number}", PrismError, remedy) for number, row in enumerate(rows, 1)]


def read_questions(path: Path | str) -> list[Question]:
    """Read a question file of an edition, without its ``Hair`` rows.

    Raises:
        PrismError: a row is no question, its attribute is unknown, or there are none.
    """
    remedy = "download the question file of the edition again"
    questions = parse_rows(Question, read_jsonl(path, remedy), path, remedy)
    try:
        kept = [question for question in questions if attribute_of(question.question_id) is not None]
    except PrismError as error:
        raise PrismError(f"{path}: {error.message}", error.remedy) from error
    if not kept:
        raise PrismError(f"{path}: no questions", remedy)
    return kept


def numbered(question_ids: Iterable[str]) -> list[int]:
    """Return for each question_id how many times it came before: the ``index`` of its row."""
    seen: Counter[str] = Counter()
    indices = []
    for question_id in question_ids:
        indices.append(seen[question_id])
        seen[question_id] += 1
    return indices


def read_answers(path: Path | str) -> list[Answer]:
    """Read an answers file.

    Raises:
        PrismError: a row is no answer, two rows answer the same question, or there are none.
    """
    remedy = "make the answers file again"
    answers = parse_rows(Answer, read_jsonl(path, remedy), path, remedy)
    _refuse_twins_and_nothing(answers, path, remedy)
    return answers


def read_verdicts(paths: Sequence[Path | str]) -> list[Verdict]:
    """Read verdicts files, each row of which must be there once over all of them for each judge.

    Raises:
        PrismError: a row is no verdict, two rows judge the same answer, or there are none.
    """
    rows = [row for path in paths for row in parse_rows(Verdict, read_jsonl(path, AGAIN), path, AGAIN)]
    return refuse_repeated(rows, ", ".join(map(str, paths)))


def refuse_repeated(verdicts: list[Verdict], where: str) -> list[Verdict]:
    """Return verdicts of which each judge has one for each answer.

    Raises:
        PrismError: two rows judge the same answer, or there are none.
    """
    for judge in {verdict.judge for verdict in verdicts} or {""}:
        _refuse_twins_and_nothing([verdict for verdict in verdicts if verdict.judge == judge], where, AGAIN)
    return verdicts


def _refuse_twins_and_nothing(rows: Sequence[QuestionRow], path: Path | str, remedy: str) -> None:
    if not rows:
        raise PrismError(f"{path}: no rows", remedy)
    key, count = Counter(row.key for row in rows).most_common(1)[0]
    if count > 1:
        raise PrismError(f"{path}: {count} rows for {key[2]} {key[3]} index {key[4]} of {key[1]}", remedy)
