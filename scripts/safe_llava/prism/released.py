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
from collections.abc import Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_jsonl
from safe_llava.formats.answer_files import ReleasedAnswer, plain_prompt, read_released, to_answers
from safe_llava.formats.prism import Question, Task, read_questions

log = logging.getLogger(__name__)


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


def _take(rows: list[ReleasedAnswer], text: str) -> ReleasedAnswer | None:
    for place, row in enumerate(rows):
        if plain_prompt(row.prompt) == plain_prompt(text):
            return rows.pop(place)
    return None


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
    answers = to_answers(pairs, options.edition, options.model, options.task, options.answers)
    write_jsonl(options.out, (answer.model_dump(mode="json") for answer in answers))
    failed = sum(answer.status == "failed" for answer in answers)
    log.info("%s %s: %d asked, %d without an answer", options.model, options.task, len(answers), failed)
    return None


if __name__ == "__main__":
    cli.run(main)
