"""Ask one model all questions of one edition of PRISM.

Run: ``python -m safe_llava.prism.answers --model DIR --row ROW.json --name NAME --edition EDITION.json --root DIR
--out-refusal-soft F --out-refusal-hard F --out-implicit-leakage F --partial DIR``.

A killed run resumes: every good answer is written to ``--partial`` at once, under a key made of everything that it
depends on. A rerun asks only what is missing or failed.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from safe_llava.config.models import EvaluatedModel
from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import read_json, write_json, write_jsonl
from safe_llava.core.progress import Progress
from safe_llava.core.provenance import record
from safe_llava.core.retry import outcome
from safe_llava.core.rows import read_row
from safe_llava.engine import open_engine
from safe_llava.engine.base import DECODING, ENGINE_VERSION, Engine, Reply, Request
from safe_llava.engine.facts import engine_facts
from safe_llava.engine.store import ReplyStore, content_key, folder_digest
from safe_llava.formats.prism import ALL, Answer, Question, Task, attribute_of, numbered, read_questions
from safe_llava.images import store as imagefiles

logger = logging.getLogger(__name__)


class EditionFiles(BaseModel):
    """What is asked in an edition: for each task its question files, and for each of those its image folder.

    Also reads a row of ``prism.editions``, whose ``parts`` hold the same by split; all paths are under the data root.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    questions: dict[Task, list[str]]
    images: list[str]

    @model_validator(mode="before")
    @classmethod
    def _from_parts(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("parts"), list):
            parts = value["parts"]
            questions = {task: [part.get(task) for part in parts] for task in Task}
            return {**value, "questions": questions, "images": [part.get("images") for part in parts]}
        return value

    @model_validator(mode="after")
    def _complete(self) -> EditionFiles:
        for task in Task:
            if len(self.questions.get(task, [])) != len(self.images) or not self.images:
                raise ValueError(
                    f"task {task} needs one question file for each of the {len(self.images)} image folders"
                )
        return self


@dataclass(frozen=True)
class AskedQuestion:
    """One question as the model is asked it: its image, the key of its reply, and its budget of new tokens."""

    task: Task
    question: Question
    index: int
    image: Path
    key: str
    max_new_tokens: int


def edition_questions(
    edition: EditionFiles,
    root: Path,
    row: EvaluatedModel,
    model_digest: str,
    facts: Mapping[str, Any],
    new_tokens: int | None = None,
) -> list[AskedQuestion]:
    """Return every question of an edition in the order of its files, keyed by all that its answer depends on.

    Args:
        edition: what is asked.
        root: the data root.
        row: how the model is asked.
        model_digest: digest of the checkpoint.
        facts: what ``engine_facts`` returns.
        new_tokens: one budget for every question; None: as published for the model, the edition and the task.

    Raises:
        PrismError: a question names an image outside its folder or, asked directly, no attribute of its own; or a
            question file is not one.
    """
    published = row.budget(edition.name)

    @cache
    def digest(image: Path) -> str:
        try:
            return imagefiles.image_digest(image) if imagefiles.exists(image) else "missing"
        except imagefiles.BrokenMemberError:
            return "broken"

    asked = []
    for task in Task:
        budget = new_tokens or int(getattr(published, task))
        files = zip(edition.questions[task], edition.images, strict=True)
        found = [(question, root / folder) for name, folder in files for question in read_questions(root / name)]
        for (question, folder), index in zip(found, numbered(q.question_id for q, _ in found), strict=True):
            if task.is_refusal and attribute_of(question.question_id) == ALL:
                raise PrismError(
                    f"{task}: a direct question asks about one attribute, {question.question_id} about {ALL}",
                    "set prism.editions to the question files of the task",
                )
            image = _image_path(question, folder)
            key = content_key(
                model=model_digest,
                engine=dict(facts),
                budget=budget,
                edition=edition.name,
                task=task,
                question_id=question.question_id,
                index=index,
                prompt=question.text,
                image=digest(image),
            )
            asked.append(AskedQuestion(task, question, index, image, key, budget))
    return asked


def _image_path(question: Question, folder: Path) -> Path:
    name = PurePosixPath(question.image)
    if name.is_absolute() or ".." in name.parts:
        raise PrismError(
            f"question {question.question_id}: image {question.image!r} lies outside its folder",
            "download the question file of the edition again",
        )
    return folder / name


def answer_all(asked: Sequence[AskedQuestion], store: ReplyStore, engine: Callable[[], Engine]) -> None:
    """Put to the model what the store does not hold yet; the model is loaded only if something is left.

    Raises:
        PrismError: the engine left a question without a reply.
    """
    missing = [one for one in asked if one.key not in store]
    logger.info("%d questions, %d of them answered before", len(asked), len(asked) - len(missing))
    if not missing:
        return
    requests = [Request(one.key, one.question.text, (one.image,), one.max_new_tokens) for one in missing]
    opened = engine()
    progress = Progress(len(requests), "answers", "answers")
    for reply in opened.generate(requests):
        store.add(reply)
        progress.update()
    progress.close()
    if lost := [one for one in missing if one.key not in store]:
        raise PrismError(
            f"{len(lost)} questions got no reply, the first is {lost[0].question.question_id}",
            "run the same command again",
        )


def prompts_sent(asked: Sequence[AskedQuestion], engines: Sequence[Engine], path: Path) -> dict[str, Any] | None:
    """Return what the model's template makes of a question of each task; kept in ``path`` from the first use on.

    Args:
        asked: every question.
        engines: the engine that was opened in this run, if one was.
        path: file of what was sent; None is returned where it is missing and no engine was opened.
    """
    adapter = getattr(engines[-1], "adapter", None) if engines else None
    if adapter is not None:
        from safe_llava.engine.prompts import template_facts

        first = {one.task.value: one.question.text for one in reversed(asked)}
        write_json(path, template_facts(adapter, first))
    return dict(read_json(path)) if path.exists() else None


def answer_row(one: AskedQuestion, reply: Reply, edition: str, model: str) -> dict[str, Any]:
    """Return a row of the answers file."""
    return Answer(
        edition=edition,
        model=model,
        task=one.task,
        question_id=one.question.question_id,
        index=one.index,
        attribute=one.question.question_id.split("/", 1)[0],
        image=one.question.image,
        prompt=one.question.text,
        text=reply.text,
        status=reply.status,
        reason=reply.reason,
        n_tokens=reply.n_tokens,
        truncated=reply.truncated,
    ).model_dump(mode="json")


def write_answers(rows: Mapping[Task, Sequence[dict[str, Any]]], outputs: Mapping[Task, Path]) -> None:
    """Write one answers file for each task, and say what could not be answered.

    Raises:
        PrismError: not one question was answered; nothing is written.
    """
    every = [row for task in Task for row in rows[task]]
    reasons = Counter(row["reason"] for row in every if row["status"] == "failed")
    if reasons.total() == len(every):
        raise PrismError(f"no question was answered: {reasons.most_common(1)[0][0]}", "see the log for each reason")
    if reasons:
        logger.warning(
            "%d of %d questions have no answer and get no score, most often: %s; the next run asks them again, and "
            "keeps the answers that are there",
            reasons.total(),
            len(every),
            reasons.most_common(1)[0][0],
        )
    for task in Task:
        write_jsonl(outputs[task], rows[task])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m safe_llava.prism.answers", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--row", type=Path, required=True, help="JSON of the model's row")
    parser.add_argument("--name", required=True, help="the model's name in the answers files")
    parser.add_argument("--edition", type=Path, required=True, help="JSON of the edition's row")
    parser.add_argument("--edition-name", help="the edition's name, where its JSON does not hold it")
    parser.add_argument("--root", type=Path, required=True, help="the data root")
    for task in Task:
        parser.add_argument(f"--out-{task.replace('_', '-')}", type=Path, required=True, help="answers file to write")
    parser.add_argument("--partial", type=Path, required=True, help="folder for answers as they come; keep it")
    parser.add_argument("--new-tokens", type=int, help="one budget for every question; by default as published")
    parser.add_argument("--retry", default="", help="stamp of the run; kept in the record")
    parser.add_argument("--record", type=Path, help="JSON to write: versions, settings, counts")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Answer all tasks of one edition with one model."""
    args = _arguments(argv)
    row = read_row(args.row, EvaluatedModel, PrismError)
    edition = read_row(args.edition, EditionFiles, PrismError, name=args.edition_name)
    if not (args.model / "config.json").is_file():
        raise PrismError(f"{args.model}: no config.json: not a checkpoint", "fetch or train the model first")
    digest = folder_digest(args.model)
    asked = edition_questions(edition, args.root, row, digest, engine_facts(row, args.device), args.new_tokens)
    engines: list[Engine] = []
    prompts = args.partial / f"{edition.name}.prompts.json"

    def engine() -> Engine:
        engines.append(open_engine(args.model, row, device=args.device, threads=args.threads))
        prompts_sent(asked, engines, prompts)  # at once: a run that is killed may leave nothing to be asked
        return engines[-1]

    rows: dict[Task, list[dict[str, Any]]] = {task: [] for task in Task}
    with ReplyStore(args.partial / f"{edition.name}.jsonl") as store:
        answer_all(asked, store, engine)
        for one in asked:
            rows[one.task].append(answer_row(one, store[one.key], edition.name, args.name))
    write_answers(rows, {task: getattr(args, f"out_{task}") for task in Task})
    if args.record is not None:
        counts = {task: dict(Counter(row["status"] for row in rows[task])) for task in Task}
        described = [one.describe() for one in engines]  # none where every answer was there already
        facts = record(
            model_sha256=digest,
            row=row.model_dump(mode="json"),
            counts=counts,
            new_tokens=args.new_tokens or "published",
            **outcome(sum(found.get("failed", 0) for found in counts.values()), args.retry),
            decoding={"published": row.published_decoding, "used": DECODING},
            engine_version=ENGINE_VERSION,
            engine=described,
            template=prompts_sent(asked, engines, prompts),
        )
        write_json(args.record, facts)


if __name__ == "__main__":
    cli.run(main)
