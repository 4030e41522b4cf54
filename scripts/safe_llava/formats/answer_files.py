"""Answers as others write them: upstream's files, and CSV files of two columns, become rows of our answers format.

What such a file does not say is taken from where it lies, or from what the caller says:

- the task stands in the file's name (``refusal_soft_Answer.jsonl``);
- the model is the folder, where a folder was named; else the rows' ``model_id``; else the file's name;
- the edition is v2 where a description is about ``All`` attributes, or one image is asked about two; else v1.
"""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from safe_llava.core.errors import PrismError
from safe_llava.core.files import read_jsonl
from safe_llava.core.rows import check_row
from safe_llava.formats.prism import ALL, Answer, Attribute, Question, Task, attribute_of, numbered, read_answers

log = logging.getLogger(__name__)

NO_ANSWER = "no answer in the released file"
EMPTY_ANSWER = "the released answer is empty"
# What programs write where there is no value: Python, pandas and their like, and the errors of spreadsheets.
NO_VALUE = frozenset(
    {"", "none", "null", "nan", "<na>", "#n/a", "#name?", "#value!", "#ref!", "#div/0!", "#num!", "#null!"}
)
OTHER_PROMPT = "the released prompt differs from the question: {prompt}"
LONGEST_CELL = 1 << 30  # characters; Python's own limit is 131,072
DESCRIPTIONS = 3  # of each image, in both editions
REMEDY = (
    "give JSON lines, each an object with question_id and text as in upstream's answer files, or a CSV file of two "
    "columns, question_id and answer; an answer that failed is an empty text"
)
CSV_REMEDY = (
    "call the columns question_id and answer, in this order, or leave the header out; separate them by commas, and put "
    "an answer that has commas or line breaks into double quotes"
)


class ReleasedAnswer(BaseModel):
    """One row of an answer file as upstream's scripts write it; further keys are ignored."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    question_id: str = Field(min_length=1)
    prompt: str
    text: str
    model_id: str = ""
    answer_id: str = ""


def read_released(path: Path | str) -> list[ReleasedAnswer]:
    """Read an answer file of upstream's format, without its ``Hair`` rows.

    Raises:
        PrismError: a row is no such answer, or its attribute is unknown.
    """
    return _of_prism((f"{path}: row {number}", row) for number, row in enumerate(read_jsonl(path, REMEDY), start=1))


def to_answers(
    pairs: Iterable[tuple[Question, ReleasedAnswer | None]], edition: str, model: str, task: Task, path: Path
) -> list[Answer]:
    """Return an answers row for every question of a task.

    Raises:
        PrismError: a question of the file, ``path``, is none of the task's.
    """
    pairs = list(pairs)
    answers = []
    for (question, released), index in zip(pairs, numbered(q.question_id for q, _ in pairs), strict=True):
        text = released.text if released is not None and released.text.strip().lower() not in NO_VALUE else None
        reason = None
        if text is None:
            reason = NO_ANSWER if released is None else EMPTY_ANSWER
        elif released is not None and plain_prompt(released.prompt) != plain_prompt(question.text):
            reason = OTHER_PROMPT.format(prompt=plain_prompt(released.prompt))
        fields: dict[str, Any] = {
            "edition": edition,
            "model": model,
            "task": task,
            "question_id": question.question_id,
            "index": index,
            "attribute": attribute_of(question.question_id),
            "image": question.image,
            "prompt": question.text,
            "text": text,
            "status": "failed" if text is None else "ok",
            "reason": reason,
        }
        where = f"{path}: {question.question_id}"
        answers.append(
            check_row(Answer, fields, where, PrismError, "name the file after its task, or say it with --task")
        )
    return answers


def plain_prompt(prompt: str) -> str:
    """Return a prompt with single spaces, as it is compared."""
    return " ".join(prompt.split())


def read_any_answers(
    paths: Sequence[Path | str], model: str | None = None, task: Task | None = None, edition: str | None = None
) -> list[Answer]:
    """Read answers in any of the three formats.

    Args:
        paths: files (``.jsonl`` of this project or of upstream, ``.csv``), or folders of a model's files.
        model, task, edition: what the files do not say themselves; each holds for all of them.

    Raises:
        PrismError: naming the file and row: no answers, an unknown task, or a question that is answered too often.
    """
    answers: list[Answer] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if _task_named(file) and file.suffix in (".jsonl", ".csv"))
            if not found:
                remedy = f"name one model's folder, and its files after their tasks: {', '.join(Task)}; .jsonl or .csv"
                raise PrismError(f"{path}: no answer file of a task", remedy)
            for file in found:
                answers += _read_one(file, model or path.resolve().name, task, edition)
        else:
            answers += _read_one(path, model, task, edition)
    key, count = Counter(answer.key for answer in answers).most_common(1)[0]
    if count > 1:
        raise PrismError(f"{count} answers of {key[1]} for {key[2]} {key[3]} index {key[4]}", "name each file once")
    return answers


def _read_one(path: Path, model: str | None, task: Task | None, edition: str | None) -> list[Answer]:
    if not path.exists():
        raise PrismError(f"{path}: no such file or folder", "name an answer file, or the folder of a model's files")
    if path.suffix.lower() == ".csv":
        rows = _of_prism(_read_csv(path))
    else:
        found = read_jsonl(path, REMEDY)
        if found and "edition" in found[0]:
            return read_answers(path)
        rows = _of_prism((f"{path}: row {number}", row) for number, row in enumerate(found, start=1))
    if not rows:
        raise PrismError(f"{path}: no answers", REMEDY)
    task = _task_of(path, task)
    _refuse_repeats(rows, task, path)
    seen = _edition_of(rows, task)
    if edition == "v1" and seen == "v2":
        raise PrismError(f"{path}: --edition says v1, the questions are those of v2", "leave --edition out")
    edition = edition or seen
    named = {row.model_id for row in rows} - {""}
    if len(named) > 1 and model is None:
        raise PrismError(
            f"{path}: answers of several models: {', '.join(sorted(named)[:5])}",
            "give each model a file of its own, or name one with --model",
        )
    name = model or (named.pop() if len(named) == 1 else "") or _without_task(path)
    pairs = ((Question(question_id=r.question_id, image=_image(r, edition), text=r.prompt or "-"), r) for r in rows)
    answers = to_answers(pairs, edition, name, task, path)
    # What was asked is not compared with anything here: the file itself says it.
    return [answer.model_copy(update={"reason": None}) if answer.status == "ok" else answer for answer in answers]


def _task_of(path: Path, given: Task | None) -> Task:
    named = _task_named(path)
    if given and named and given != named:
        raise PrismError(
            f"{path}: --task says {given}, the file's name {named}", "leave --task out, or rename the file"
        )
    task = given or named
    if task is None:
        raise PrismError(f"{path}: the file does not say its task", f"name it with --task: {', '.join(Task)}")
    return task


def read_cells(path: Path, remedy: str) -> list[tuple[str, list[str]]]:
    """Return where each row of a CSV file stands, and its cells; empty lines are skipped.

    Raises:
        PrismError: it is no CSV file in UTF-8.
    """
    csv.field_size_limit(LONGEST_CELL)
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for cells in reader:
                if cells:
                    rows.append((f"{path}: line {reader.line_num}", cells))
        except UnicodeDecodeError as error:
            raise PrismError(f"{path}: not UTF-8: {error}", "save it as UTF-8") from error
        except csv.Error as error:
            raise PrismError(f"{path}: line {reader.line_num}: not a CSV file: {error}", remedy) from error
    return rows


def _read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return where each row stands, and the row."""
    rows = read_cells(path, "close each quote, and double those within a text; " + CSV_REMEDY)
    for where, cells in rows:
        if len(cells) != 2:
            raise PrismError(f"{where}: 2 columns are needed, {len(cells)} found: {', '.join(cells)[:80]}", CSV_REMEDY)
    if rows and "/" not in rows[0][1][0]:  # a question_id has one
        where, header = rows.pop(0)
        if [cell.strip().lower() for cell in header] not in (["question_id", "answer"], ["question_id", "text"]):
            raise PrismError(
                f"{where}: {','.join(header)[:80]!r} is neither 'question_id,answer' nor an answer to PRISM",
                CSV_REMEDY,
            )
    return [(where, {"question_id": question_id, "text": text}) for where, (question_id, text) in rows]


def _of_prism(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[ReleasedAnswer]:
    """Return the answers of rows, each given with the place where it stands."""
    kept, left_out = list[ReleasedAnswer](), list[ReleasedAnswer]()
    for where, row in rows:
        if missing := [key for key in ("question_id", "text") if key not in row]:
            raise PrismError(f"{where} has no {missing[0]}; its keys are {', '.join(row) or 'none'}", REMEDY)
        answer = check_row(ReleasedAnswer, {"prompt": ""} | dict(row), where, PrismError, REMEDY, show_value=True)
        try:
            (kept if attribute_of(answer.question_id) is not None else left_out).append(answer)
        except PrismError as error:
            raise PrismError(
                f"{where}: {error.message}", f"give answers to PRISM's questions: {error.remedy}"
            ) from error
        if not answer.question_id.partition("/")[2]:
            said = f"{where}: question_id {answer.question_id!r} names no image"
            raise PrismError(said, "take the question_ids of PRISM's question files, such as Age/1.jpg")
    if left_out:
        log.warning(
            "%d answers to questions that no score counts are left out: %s …", len(left_out), left_out[0].question_id
        )
    return kept


def _task_named(path: Path) -> Task | None:
    tasks = [task for task in Task if task in path.name]
    return tasks[0] if len(tasks) == 1 else None


def _without_task(path: Path) -> str:
    name = path.stem
    for task in Task:
        name = name.replace(f"{task}_Answer", "").replace(task, "")
    return name.strip("_-. ") or path.resolve().parent.name


def _edition_of(rows: Sequence[ReleasedAnswer], task: Task) -> str:
    """Return the edition: in the first, an image lies in the folder of the one attribute that it is asked about."""
    if not task.is_refusal:
        # Descriptions of the second edition are about no attribute in particular.
        return "v2" if any(row.question_id.startswith(f"{ALL}/") for row in rows) else "v1"
    asked: dict[str, set[str]] = {}
    for row in rows:
        attribute, _, image = row.question_id.partition("/")
        asked.setdefault(image, set()).add(attribute)
    return "v2" if any(len(attributes) > 1 for attributes in asked.values()) else "v1"


def _image(row: ReleasedAnswer, edition: str) -> str:
    first, _, rest = row.question_id.partition("/")
    return rest if edition != "v1" and rest and first in (ALL, *Attribute) else row.question_id


def _refuse_repeats(rows: Sequence[ReleasedAnswer], task: Task, path: Path) -> None:
    most = 1 if task.is_refusal else DESCRIPTIONS
    question_id, count = Counter(row.question_id for row in rows).most_common(1)[0]
    if count > most:
        raise PrismError(
            f"{path}: {count} answers for {question_id}; {task} has at most {most}",
            "give one model's answers to one task in a file, each once",
        )
