"""PRISM's tasks in lmms-eval: the workflow's questions, judge and scores, with lmms-eval's models and prompts.

The group ``prism`` has both editions: ``prism_refusal_soft``, ``prism_refusal_hard`` and ``prism_implicit_leakage``
(also group ``prism_v2``) are of the second, ``prism_v1_…`` (also group ``prism_v1``) of the first. The environment
says where things are:

- ``PRISM_ROOT``: the folder of the edition's question files and image folders, named as in the data set
  kyh9191/Safe-LLaVA.
- ``PRISM_JUDGE``: a JSON file with a row of ``prism.judges``, for a judge that is asked in place of the rules; its
  replies are kept in ``PRISM_STORE``.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableMessagesTask

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.core.rows import read_row
from safe_llava.formats.prism import Answer, Attribute, Task, Verdict, attribute_of, numbered, read_questions
from safe_llava.formats.scores import ANSWERED, MACRO, OVER_REFUSAL, SENTENCE, Score
from safe_llava.images import store
from safe_llava.images.reader import read_rgb
from safe_llava.prism.judge import RULES_JUDGE, judge_answers
from safe_llava.prism.scoring.rates import score_verdicts

# Question file and image folder of each part of an edition, as the data set has them.
PARTS = {
    "v1": (("PRISM_{task}.jsonl", "biometric_images"),),
    "v2": tuple((f"{part}_PRISM_{{task}}.jsonl", f"{part}_images") for part in ("small", "large")),
}
NEW_TOKENS = 200  # the published budget of LLaVA; --gen_kwargs max_new_tokens=N takes another
log = logging.getLogger(__name__)


def read_documents(root: Path, edition: str, task: Task) -> list[dict[str, Any]]:
    """Return the questions of a task, each with its place in the edition and the path of its image.

    Raises:
        SafeLlavaError: a question file is missing or is none, or an image is not there.
    """
    found = [
        (question, root / images)
        for name, images in PARTS[edition]
        for question in read_questions(root / name.format(task=task))
    ]
    documents = []
    for (question, folder), index in zip(found, numbered(q.question_id for q, _ in found), strict=True):
        path = folder / question.image
        if not store.exists(path):
            raise PrismError(f"{path}: no such image", f"unpack the edition's images in {root} (PRISM_ROOT)")
        documents.append(question.model_dump() | {"index": index, "path": str(path)})
    return documents


def metrics_of(task: Task, edition: str) -> list[str]:
    """Return the cells of a task that become metrics."""
    cells = [*map(str, Attribute), MACRO]
    if task.is_refusal:
        return cells
    every = [SENTENCE] if edition != "v1" else []
    return [*cells, *every, OVER_REFUSAL, *(ANSWERED + name for name in (*cells, *every))]


class Settings(dict[str, Any]):
    """Generation settings that can be called as a function of a document.

    lmms-eval's simple models take settings and a function from a request, its chat models a function and settings. A
    task with a class of its own is not told which of them will ask, so both find here what they look for.
    """

    def __init__(self, settings: Mapping[str, Any], function: Callable[..., Any]) -> None:
        super().__init__(settings)
        self.function = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.function(*args, **named)

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        return Settings(copy.deepcopy(dict(self), memo), self.function)


class PrismTask(ConfigurableMessagesTask):
    """One task of one edition; its name says which. Simple and chat models can be asked it.

    Args:
        config: the YAML file's content, of which ``task`` is the name.
    """

    def __init__(self, config: dict[str, Any] | None = None, **more: Any) -> None:
        name = str((config or {})["task"])
        self.edition = "v1" if name.startswith("prism_v1_") else "v2"
        self.prism_task = Task(name.removeprefix("prism_").removeprefix("v1_"))
        self.judge, self.judge_name, self.store = _chosen_judge()
        self._judged: tuple[list[Any], dict[str, Score]] | None = None
        metrics = metrics_of(self.prism_task, self.edition)
        whole: dict[str, Any] = {
            "task": name,
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_visual": _images,
            "doc_to_text": "text",
            "doc_to_target": "question_id",
            "process_results": self.judged,
            "generation_kwargs": {"max_new_tokens": NEW_TOKENS, "do_sample": False, "temperature": 0},
            "metric_list": [
                {
                    "metric": metric,
                    "aggregation": partial(self.rate, metric=metric),
                    "higher_is_better": metric != OVER_REFUSAL,
                }
                for metric in metrics
            ],
            "metadata": {"version": 1.0, "edition": self.edition, "judge": self.judge_name},
        }
        super().__init__(config=whole, **more)

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Read the question files below ``PRISM_ROOT``; nothing is downloaded."""
        root = os.environ.get("PRISM_ROOT")
        if not root:
            raise PrismError("PRISM_ROOT is not set", "name the folder of PRISM's question files and images with it")
        rows = datasets.Dataset.from_list(read_documents(Path(root), self.edition, self.prism_task))
        self.dataset = datasets.DatasetDict({"test": rows})
        self.dataset_no_image = self.dataset.copy()

    def construct_requests(self, doc_id: int, ctx: str, **more: Any) -> Instance:
        """Return a request that simple and chat models can read."""
        made = super().construct_requests(doc_id, ctx, **more)
        _, messages, settings, *rest = made.arguments
        made.arguments = (ctx, Settings(settings, messages), Settings(settings, self.doc_to_visual), *rest)
        return made

    def judged(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """Return what each metric is made of: the rules' verdict, or the answer, which another judge is asked later."""
        answer = self.answer(doc, results[0] if results else "")
        row: Answer | Verdict = (
            judge_answers([answer], RULES_JUDGE, self.judge_name).verdicts[0] if self.by_rules else answer
        )
        item = row.model_dump(mode="json", exclude_none=True)
        return dict.fromkeys(metrics_of(self.prism_task, self.edition), item)

    @property
    def by_rules(self) -> bool:
        """Whether the rules are the judge."""
        return self.judge.kind == "rules"

    def answer(self, doc: Mapping[str, Any], text: str) -> Answer:
        """Return an answer as the workflow has it; an empty one has failed."""
        answered = text.strip() != ""
        fields = {"edition": self.edition, "model": "lmms-eval", "task": self.prism_task, "image": doc["image"]}
        fields |= {"question_id": doc["question_id"], "index": doc["index"], "prompt": doc["text"]}
        fields |= {"attribute": attribute_of(doc["question_id"]), "text": text if answered else None}
        return Answer.model_validate(fields | {"status": "ok" if answered else "failed"})

    def rate(self, items: Sequence[Mapping[str, Any]], metric: str) -> float:
        """Return a cell's rate in percent; not a number where nothing was judged.

        Raises:
            SafeLlavaError: the judge cannot be asked.
        """
        if self._judged is None or self._judged[0] != list(items):
            if self.by_rules:
                verdicts = [Verdict.model_validate(item) for item in items]
            else:
                answers = [Answer.model_validate({"text": None} | dict(item)) for item in items]
                verdicts = judge_answers(answers, self.judge, self.judge_name, self.store).verdicts
            scores = {score.attribute: score for score in score_verdicts(verdicts)}
            self._judged = list(items), scores
            if failed := sum(verdict.status == "failed" for verdict in verdicts):
                message = "%s: %d of %d answers have no verdict, and count in no rate"
                log.warning(message, self.config.task, failed, len(items))
        found = self._judged[1].get(metric)
        return float("nan") if found is None or found.rate is None else found.rate


def _images(doc: Mapping[str, Any], _: Any = None) -> list[Any]:
    return [read_rgb(Path(doc["path"]))]


def _chosen_judge() -> tuple[Judge, str, Path | None]:
    row = os.environ.get("PRISM_JUDGE")
    if not row:
        return RULES_JUDGE, "rules", None
    store = os.environ.get("PRISM_STORE")
    judge = read_row(Path(row), Judge, PrismError, remedy="write a row of prism.judges as JSON")
    return judge, Path(row).stem, Path(store) if store else None
