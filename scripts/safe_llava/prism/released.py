"""Turn one released answer file into our answers format, with a row for every question that was asked.

What was asked is taken from the edition's question files, or else from the files released for other models: a
question counts as asked as often as the file that asks it most often. A question without an answer is ``failed``.
A prompt that differs from the question asked (Gemma's one soft answer names another attribute than its id) does not
change what the row is scored for; it is noted in ``reason``.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import read_jsonl, write_jsonl
from safe_llava.formats.prism import Answer, Question, Task, attribute_of, numbered, parse_rows, read_questions

NO_ANSWER = "no answer in the released file"
EMPTY_ANSWER = "the released answer is empty"
OTHER_PROMPT = "the released prompt differs from the question: {prompt}"
log = logging.getLogger(__name__)


class ReleasedAnswer(BaseModel):
    """One row of an answer file as upstream released it; what it says about itself beyond this is passed over."""

    model_config = ConfigDict(frozen=True)

    question_id: str = Field(min_length=1)
    prompt: str
    text: str


def read_released(path: Path | str) -> list[ReleasedAnswer]:
    """Read a released answer file, without its ``Hair`` rows.

    Raises:
        PrismError: a row is not a released answer, or its attribute is unknown.
    """
    remedy = "download the released answers again"
    rows = parse_rows(ReleasedAnswer, read_jsonl(path, remedy), path, remedy)
    return [row for row in rows if attribute_of(row.question_id) is not None]


def asked_by(files: Sequence[Sequence[ReleasedAnswer]]) -> list[Question]:
    """Return the union of what some released files asked, each question as often as the file that asks it most.

    The text of a question is that of the first file that asks it as often.
    """
    by_id: dict[str, list[Question]] = {}
    for rows in files:
        here: dict[str, list[Question]] = defaultdict(list)
        for row in rows:
            question = Question(question_id=row.question_id, image=row.question_id, text=row.prompt)
            here[row.question_id].append(question)
        for question_id, questions in here.items():
            if len(questions) > len(by_id.get(question_id, [])):
                by_id[question_id] = questions
    return [question for questions in by_id.values() for question in questions]


def align(
    questions: Sequence[Question], released: Sequence[ReleasedAnswer], path: Path | str
) -> list[tuple[Question, ReleasedAnswer | None]]:
    """Pair every question with its answer or None: rows of one id by equal prompts first, then in their order.

    Raises:
        PrismError: an answer to what was not asked, or more answers than questions.
    """
    waiting: dict[str, list[ReleasedAnswer]] = defaultdict(list)
    for row in released:
        waiting[row.question_id].append(row)
    asked: dict[str, int] = defaultdict(int)
    for question in questions:
        asked[question.question_id] += 1
    for question_id, rows in waiting.items():
        if len(rows) > asked[question_id]:
            raise PrismError(
                f"{path}: {len(rows)} answers for {question_id}, which was asked {asked[question_id]} times",
                "give the question file of the same edition and task, and an answer file without repeats",
            )
    pairs: list[ReleasedAnswer | None] = [_take(waiting[q.question_id], q.text) for q in questions]
    for place, question in enumerate(questions):
        if pairs[place] is None and waiting[question.question_id]:
            pairs[place] = waiting[question.question_id].pop(0)
    return list(zip(questions, pairs, strict=True))


def to_answers(
    pairs: Iterable[tuple[Question, ReleasedAnswer | None]], edition: str, model: str, task: Task
) -> list[Answer]:
    """Return an answers row for every question of a task."""
    pairs = list(pairs)
    answers = []
    for (question, released), index in zip(pairs, numbered(q.question_id for q, _ in pairs), strict=True):
        text = released.text if released is not None and released.text.strip() else None
        reason = None
        if text is None:
            reason = NO_ANSWER if released is None else EMPTY_ANSWER
        elif released is not None and _plain(released.prompt) != _plain(question.text):
            reason = OTHER_PROMPT.format(prompt=_plain(released.prompt))
        attribute = attribute_of(question.question_id)
        fields: dict[str, Any] = {
            "edition": edition,
            "model": model,
            "task": task,
            "question_id": question.question_id,
            "index": index,
            "attribute": attribute,
            "image": question.image,
            "prompt": question.text,
            "text": text,
            "status": "failed" if text is None else "ok",
            "reason": reason,
        }
        answers.append(Answer.model_validate(fields))
    return answers


def _take(rows: list[ReleasedAnswer], text: str) -> ReleasedAnswer | None:
    for place, row in enumerate(rows):
        if _plain(row.prompt) == _plain(text):
            return rows.pop(place)
    return None


def _plain(prompt: str) -> str:
    return " ".join(prompt.split())


def _asked(options: argparse.Namespace) -> list[Question]:
    """Return the questions of the command line's files; the answer file itself is the last to be asked."""
    if options.questions:
        return [question for path in options.questions for question in read_questions(path)]
    own = options.answers.resolve()
    others = [path for path in options.reference_answers if path.resolve() != own]
    # Files of the same task first: their prompts are the ones that were asked.
    same_task_first = sorted(others, key=lambda path: not path.name.startswith(options.task))
    questions = asked_by([read_released(path) for path in same_task_first or options.reference_answers])
    if not questions:
        raise PrismError(f"{', '.join(map(str, options.reference_answers))}: no questions", "give files with answers")
    return questions


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read a released answer file and write our answers file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="the released answer file")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--questions", type=Path, nargs="+", help="question files of the edition and task")
    asked.add_argument("--reference-answers", type=Path, nargs="+", help="released files, where there are none")
    parser.add_argument("--edition", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", type=Task, required=True, choices=list(Task))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    released = read_released(options.answers)
    pairs = align(_asked(options), released, options.answers)
    answers = to_answers(pairs, options.edition, options.model, options.task)
    write_jsonl(options.out, (answer.model_dump(mode="json") for answer in answers))
    failed = sum(answer.status == "failed" for answer in answers)
    log.info("%s %s: %d asked, %d without an answer", options.model, options.task, len(answers), failed)
    return None


if __name__ == "__main__":
    cli.run(main)
