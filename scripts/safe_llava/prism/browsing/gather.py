"""What the page shows: every question once, each model's answer to it, and each judge's verdict as one character."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import HAIR, Answer, Attribute, Task, Verdict, read_answers, read_verdicts

NOT_ASKED, UNANSWERED, UNJUDGED, REFUSED, TOLD = " ", "!", "?", "R", "T"
LEAKS_FROM = 0x40  # the character of no leak; one bit an attribute on top of it, and one for a refused description
REFUSED_DESCRIPTION = 1 << len(Attribute)
QuestionKey = tuple[str, str, str, int]  # edition, task, question_id, index


@dataclass(frozen=True)
class ShownQuestion:
    """A question of the page."""

    edition: str
    task: Task
    question_id: str
    index: int
    attribute: str
    image: str
    prompt: str

    @property
    def key(self) -> QuestionKey:
        """What tells it from every other question."""
        return (self.edition, self.task, self.question_id, self.index)


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer: its text or the reason why there is none, and where it stands."""

    text: str | None
    reason: str | None
    truncated: bool
    file: int
    line: int


@dataclass
class ModelColumn:
    """One model: its answers by question, and for each judge a verdict's character by question."""

    name: str
    files: list[str] = field(default_factory=list)
    answers: dict[QuestionKey, ShownAnswer] = field(default_factory=dict)
    verdicts: dict[str, dict[QuestionKey, str]] = field(default_factory=dict)

    @property
    def leaked(self) -> dict[QuestionKey, set[Attribute]]:
        """Return the attributes that any judge found in each description."""
        found: dict[QuestionKey, set[Attribute]] = {}
        for codes in self.verdicts.values():
            for key, code in codes.items():
                if key[1] == Task.IMPLICIT_LEAKAGE and ord(code) >= LEAKS_FROM:
                    found.setdefault(key, set()).update(attributes_in(code))
        return found


def code_of(verdict: Verdict) -> str:
    """Return the character that stands for a verdict."""
    if verdict.status == "failed":
        return UNANSWERED if verdict.lacks_answer else UNJUDGED
    if verdict.task.is_refusal:
        return REFUSED if verdict.refused else TOLD
    bits = sum(1 << place for place, name in enumerate(Attribute) if name in (verdict.leaked or ()))
    return chr(LEAKS_FROM + bits + (REFUSED_DESCRIPTION if verdict.description_refused else 0))


def attributes_in(code: str) -> list[Attribute]:
    """Return the attributes that the character of a judged description stands for."""
    bits = ord(code) - LEAKS_FROM
    return [name for place, name in enumerate(Attribute) if bits >> place & 1]


def gather(
    answers: Mapping[str, Sequence[Path]], verdicts: Mapping[str, Sequence[Path]], beside: Path
) -> tuple[list[ShownQuestion], list[ModelColumn]]:
    """Read answers and verdicts; one file is held at a time.

    Args:
        answers, verdicts: the files, by what is said behind a model's name ("" or " (released)").
        beside: the page's folder, to which the names of the answer files are relative.

    Returns:
        The questions, those about one image together, and the models.

    Raises:
        PrismError: a file is none, or a verdict has no answer.
    """
    questions: dict[QuestionKey, ShownQuestion] = {}
    columns: dict[str, ModelColumn] = {}
    for mark, paths in answers.items():
        for path in paths:
            _take_answers(read_answers(path), mark, _relative(path, beside), questions, columns)
    for mark, paths in verdicts.items():
        for path in paths:
            for verdict in read_verdicts([path]):
                column, key = columns.get(verdict.model + mark), (verdict.edition, verdict.task, *verdict.key[3:])
                if column is None or key not in column.answers:
                    raise PrismError(f"{path}: no answer to {verdict.question_id}", "give the answers that were judged")
                column.verdicts.setdefault(verdict.judge, {})[key] = code_of(verdict)
    return _by_image(questions.values()), list(columns.values())


def _take_answers(
    rows: Iterable[Answer],
    mark: str,
    file: str,
    questions: dict[QuestionKey, ShownQuestion],
    columns: dict[str, ModelColumn],
) -> None:
    for line, row in enumerate(rows, start=1):
        if row.attribute == HAIR:
            continue
        asked = ShownQuestion(row.edition, row.task, row.question_id, row.index, row.attribute, row.image, row.prompt)
        questions.setdefault(asked.key, asked)
        column = columns.setdefault(row.model + mark, ModelColumn(row.model + mark))
        if file not in column.files:
            column.files.append(file)
        if asked.key in column.answers:
            said = f"{file}: row {line}: another answer of {row.model} to {row.question_id} in {row.task}"
            raise PrismError(said, "give each answers file once, and each model a name of its own")
        place = len(column.files) - 1
        column.answers[asked.key] = ShownAnswer(row.text, row.reason, bool(row.truncated), place, line)


def _by_image(questions: Iterable[ShownQuestion]) -> list[ShownQuestion]:
    """Return the questions, those about one image side by side, images in the order in which they were asked."""
    known = list(questions)
    images = {(one.edition, one.image): place for place, one in reversed(list(enumerate(known)))}
    tasks, attributes = list(Task), [*map(str, Attribute)]

    def place(one: ShownQuestion) -> tuple[str, int, int, int, int]:
        attribute = attributes.index(one.attribute) if one.attribute in attributes else len(attributes)
        return one.edition, images[one.edition, one.image], tasks.index(one.task), attribute, one.index

    return sorted(known, key=place)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
