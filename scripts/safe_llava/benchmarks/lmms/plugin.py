"""The engine as a model of lmms-eval: it asks what has no answer yet, and refuses to pass a failure on as an answer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from safe_llava.config.benchmarks import ImagesShown
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.progress import Progress
from safe_llava.engine import open_engine
from safe_llava.engine.base import Engine, ImageSource, Reply, Request, failed
from safe_llava.engine.store import ReplyStore, content_key

logger = logging.getLogger(__name__)
DEFAULT_NEW_TOKENS = 1024  # lmms-eval's own models take this where a task names no budget
WINDOW = 2048  # questions whose images are in memory at once
READERS = 4  # threads that decode the images of the next window
NAMED = 5  # failed questions that an error names


class MissingAnswersError(BenchmarkError):
    """Questions have no answer, and more of them than may be missing.

    Args:
        failures: reasons, by the number of the document.
        total: questions that were asked.
    """

    def __init__(self, failures: Mapping[int, str], total: int, task: str) -> None:
        self.failures, self.total, self.task = dict(failures), total, task
        lines = [f"{task} document {number}: {reason}" for number, reason in list(failures.items())[:NAMED]]
        more = [f"and {len(failures) - NAMED} more"] if len(failures) > NAMED else []
        what = f"{len(failures)} of {total} questions have no answer, so there is no score"
        super().__init__(
            "\n  ".join([what, *lines, *more]), "see each reason, then run again: what was answered is kept"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failures, self.total, self.task)

    def explained(self, reasons: Mapping[int, str]) -> MissingAnswersError:
        """Return the same with the reasons that somebody else knows for some of the documents."""
        known = {number: reasons.get(number, reason) for number, reason in self.failures.items()}
        return MissingAnswersError(known, self.total, self.task)


@dataclass(frozen=True)
class Asking:
    """What an answer depends on beside the question, and what may be missing.

    Attributes:
        facts: of the model, the engine and the task; part of every key in the store.
        pictures: which of a question's images are shown.
        allow_failed: share of the questions that may lack an answer.
        leave_out: gets the reasons why documents have no answer, by number, before any is scored.
    """

    facts: Mapping[str, Any]
    pictures: ImagesShown = "all"
    allow_failed: float = 0.0
    leave_out: Callable[[Mapping[int, str]], None] = lambda _: None


class SafeLlava(lmms):
    """lmms-eval's model over our engine.

    Args:
        pretrained: folder of the checkpoint.
        row: JSON file of the model's row.
        device: as for the engine.
        threads: CPU threads.
        engine: opens an engine when the first question needs it, in place of the four above.
        store: keeps answers as they come; None: they are not kept.
        asking: what answers depend on.
        ignored: what lmms-eval passes to every model (batch sizes); the row has its own.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        row: str = "",
        device: str = "auto",
        threads: int | None = None,
        engine: Callable[[], Engine] | None = None,
        store: ReplyStore | None = None,
        asking: Asking | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        self._open = engine or (lambda: _open(pretrained, row, device, threads))
        self._engine: Engine | None = None
        self._store, self._asking = store, asking or Asking({})

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request, in the order given.

        Raises:
            MissingAnswersError: questions have no answer; no score may be made of the rest.
        """
        replies: list[Reply] = []
        progress = Progress(len(requests), "benchmark", "answers")
        for window in self._windows(requests):
            replies += self._answer(window)
            progress.update(len(window))
        progress.close()
        faults = {
            int(one.doc_id): str(reply.reason)
            for one, reply in zip(requests, replies, strict=True)
            if reply.status != "ok"
        }
        if faults and (len(faults) == len(requests) or len(faults) > self._asking.allow_failed * len(requests)):
            raise MissingAnswersError(faults, len(requests), str(requests[0].task_name))
        self._asking.leave_out(faults)
        return [
            GenerationResult(until(reply.text or "", one.args[1]), TokenCounts(output_tokens=reply.n_tokens))
            for one, reply in zip(requests, replies, strict=True)
        ]

    def _windows(self, requests: Sequence[Instance]) -> Iterator[list[Request | Reply]]:
        """Yield the engine's requests window by window; the images of the next one are read meanwhile."""
        starts = range(0, len(requests), WINDOW)
        with ThreadPoolExecutor(READERS, "images") as pool, ThreadPoolExecutor(1) as ahead:

            def read(start: int) -> list[Request | Reply]:
                part = requests[start : start + WINDOW]
                return share_images(pool.map(self._request, range(start, start + len(part)), part))

            coming = ahead.submit(read, 0) if requests else None
            for start in starts:
                assert coming is not None
                window = coming.result()
                coming = ahead.submit(read, start + WINDOW) if start + WINDOW < len(requests) else None
                yield window

    def _answer(self, window: Sequence[Request | Reply]) -> list[Reply]:
        store = self._store
        known = {one.key: store[one.key] for one in window if store is not None and one.key in store}
        asked = {one.key: one for one in window if isinstance(one, Request) and one.key not in known}
        if asked:
            self._engine = self._engine or self._open()
            for reply in self._engine.generate(list(asked.values())):
                known[reply.key] = reply
                if store is not None:
                    store.add(reply)
        lost = "the engine gave no reply"
        return [one if isinstance(one, Reply) else known.get(one.key, failed(one.key, lost)) for one in window]

    def _request(self, place: int, instance: Instance) -> Request | Reply:
        """Return the engine's request, or the failed reply of a document whose images cannot be had."""
        context, settings, doc_to_visual, doc_id, task, split = instance.args
        images = []
        if self._asking.pictures != "none":
            try:
                images = doc_to_visual(self.task_dict[task][split][doc_id])
            except Exception as error:  # whatever a task's own code meets in a broken document
                return failed(f"{place}", f"unreadable document: {type(error).__name__}: {error}")
            if not images or any(image is None for image in images):
                return failed(f"{place}", "the document has no image")
        if self._asking.pictures == "middle":
            images = [images[len(images) // 2]]
        budget = int(settings.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
        key = content_key(
            **self._asking.facts,
            task=task,
            doc_id=doc_id,
            prompt=context,
            images=[pixels_digest(image) for image in images],
            budget=budget,
        )
        return Request(key, context, tuple(images), budget)

    @property
    def engines(self) -> list[Engine]:
        """The engine, if a question needed it."""
        return [self._engine] if self._engine is not None else []

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: none of the configured benchmarks scores continuations."""
        raise BenchmarkError("the task scores continuations, which the engine does not do", "choose another lmms_task")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: none of the configured benchmarks has several rounds."""
        raise BenchmarkError("the task has several rounds, which the engine does not do", "choose another lmms_task")


def benchmark_row(row: EvaluatedModel) -> EvaluatedModel:
    """Return a model's row without what belongs to PRISM's protocol: the cut of answers and the size of images.

    A system message stays: only Gemma 3 has one, and lmms-eval's own model of it sends the same. LLaVA-1.5's opening
    sentence is of its template.
    """
    return row.model_copy(update={"cut_at_newline": False, "image_size": None})


def pixels_digest(image: PIL.Image.Image) -> str:
    """Return a digest of what the engine is shown of an image: its size, and its pixels in RGB."""
    digest = hashlib.sha256(f"{image.size}".encode())
    # Without the palette, the pixels of an image that has one say nothing of its colours.
    digest.update((image if image.mode == "RGB" else image.convert("RGB")).tobytes())
    return digest.hexdigest()


def share_images(window: Iterable[Request | Reply]) -> list[Request | Reply]:
    """Return requests in which equal images are one object: the engine reads such an image once for all questions.

    Two requests with equal keys are one question asked twice, and stay so.
    """
    known: dict[str, ImageSource] = {}
    shared: list[Request | Reply] = []
    for one in window:
        if isinstance(one, Request):
            images = tuple(known.setdefault(_identity(image), image) for image in one.images)
            one = Request(one.key, one.text, images, one.max_new_tokens)
        shared.append(one)
    return shared


def _identity(image: ImageSource) -> str:
    return pixels_digest(image) if isinstance(image, PIL.Image.Image) else str(image)


def until(text: str, settings: dict[str, Any]) -> str:
    """Return what stands before the first of a task's stop strings."""
    stops: str | Iterable[str] | None = settings.get("until")
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.split(stop, 1)[0]
    return text


def _open(pretrained: str, row: str, device: str, threads: int | None) -> Engine:
    asked = benchmark_row(EvaluatedModel.model_validate_json(Path(row).read_text(encoding="utf-8")))
    return open_engine(pretrained, asked, device=device, threads=threads)
