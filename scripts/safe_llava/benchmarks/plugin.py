"""The engine as a model of lmms-eval: it asks, and refuses to pass a failure on as an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from safe_llava.benchmarks.evaluate import benchmark_row
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.progress import Progress
from safe_llava.engine import open_engine
from safe_llava.engine.base import Engine, Reply, Request, failed

DEFAULT_NEW_TOKENS = 1024  # lmms-eval's own models take this where a task names no budget
WINDOW = 512  # questions whose pictures are in memory at once
NAMED = 5  # failed questions that an error names


class SafeLlava(lmms):
    """lmms-eval's model over our engine.

    Args:
        pretrained: folder of the checkpoint.
        row: JSON file of the model's row.
        device: as for the engine.
        threads: CPU threads.
        engine: an engine that is open already, in place of the four above.
        ignored: what lmms-eval passes to every model (batch sizes); the row has its own.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        row: str = "",
        device: str = "auto",
        threads: int | None = None,
        engine: Engine | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        if engine is None:
            asked = benchmark_row(EvaluatedModel.model_validate_json(Path(row).read_text(encoding="utf-8")))
            engine = open_engine(pretrained, asked, device=device, threads=threads)
        self.engine = engine

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request, in the order given.

        Raises:
            BenchmarkError: a question has no answer; no score may be made of the rest.
        """
        replies: list[Reply] = []
        progress = Progress(len(requests), "benchmark", "answers")
        for start in range(0, len(requests), WINDOW):
            window = [self._request(start + place, one) for place, one in enumerate(requests[start : start + WINDOW])]
            replies += self._answer(window)
            progress.update(len(window))
        progress.close()
        faults = [(one, reply) for one, reply in zip(requests, replies, strict=True) if reply.status != "ok"]
        if faults:
            raise BenchmarkError(_explain(faults, len(requests)), "see each reason, then run the same command again")
        return [
            GenerationResult(until(reply.text or "", one.args[1]), TokenCounts(output_tokens=reply.n_tokens))
            for one, reply in zip(requests, replies, strict=True)
        ]

    def _answer(self, window: Sequence[Request | Reply]) -> list[Reply]:
        asked = [one for one in window if isinstance(one, Request)]
        replies = {reply.key: reply for reply in self.engine.generate(asked)}
        lost = "the engine gave no reply"
        return [replies.get(one.key, failed(one.key, lost)) if isinstance(one, Request) else one for one in window]

    def _request(self, place: int, instance: Instance) -> Request | Reply:
        """Return the engine's request, or the failed reply of a document whose pictures do not read."""
        context, settings, doc_to_visual, doc_id, task, split = instance.args
        key = f"{place}"
        try:
            images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        except Exception as error:  # whatever a task's own code meets in a broken document
            return failed(key, f"unreadable document: {type(error).__name__}: {error}")
        budget = int(settings.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
        return Request(key, context, tuple(images), budget)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: none of the configured benchmarks scores continuations."""
        raise BenchmarkError("the task scores continuations, which the engine does not do", "choose another lmms_task")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: none of the configured benchmarks has several rounds."""
        raise BenchmarkError("the task has several rounds, which the engine does not do", "choose another lmms_task")


def until(text: str, settings: dict[str, Any]) -> str:
    """Return what stands before the first of a task's stop strings."""
    stops: str | Iterable[str] | None = settings.get("until")
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.split(stop, 1)[0]
    return text


def _explain(faults: Sequence[tuple[Instance, Reply]], total: int) -> str:
    lines = [f"{one.task_name} document {one.doc_id}: {reply.reason}" for one, reply in faults[:NAMED]]
    more = [f"and {len(faults) - NAMED} more"] if len(faults) > NAMED else []
    return "\n  ".join([f"{len(faults)} of {total} questions have no answer, so there is no score", *lines, *more])
