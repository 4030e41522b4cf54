"""What goes into an engine and what comes out of it; nothing here knows any back end."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import PIL.Image

from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import EngineError

# Part of what a stored answer is known by. Raise it by hand with every change of the adapters, of the decoding or of
# the cleaning of answers that changes what is generated from the same checkpoint, image and question.
ENGINE_VERSION = 2
DECODING = "greedy"  # whatever a checkpoint says: a rerun gives the same answers
ImageSource = Path | PIL.Image.Image
Backend = Literal["vllm", "transformers"]
# Families that were seen to answer through vLLM as they do through transformers.
VLLM_FAMILIES = frozenset(
    {"llava", "llava_next", "llava_onevision", "llava_qwen", "gemma3", "qwen2_5_vl", "internvl", "internvl_chat"}
)


@dataclass(frozen=True)
class Request:
    """One question: its images (most often one, none for text alone) come before its text.

    Attributes:
        key: what the reply is known by; no two requests of a call share one.
        text: the question as it is written, without any template.
        images: files, or images in memory.
        max_new_tokens: the budget of the answer.
    """

    key: str
    text: str
    images: tuple[ImageSource, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Reply:
    """What became of one request; every request gets exactly one.

    Attributes:
        text: the answer without special tokens and outer white space; None where it failed. An empty
            string is an answer: the model ended at once.
        reason: why it failed.
        n_tokens: generated tokens, the end token not counted, before any cut.
        truncated: the budget ran out before the answer ended.
        prompt: what the model was given, its template around the question, each image one placeholder.
    """

    key: str
    text: str | None
    status: Literal["ok", "failed"]
    reason: str | None = None
    n_tokens: int | None = None
    truncated: bool | None = None
    prompt: str = ""


def failed(key: str, reason: str, prompt: str = "") -> Reply:
    """Return the reply of a request that could not be answered."""
    return Reply(key=key, text=None, status="failed", reason=reason, prompt=prompt)


class Engine(Protocol):
    """Anything that answers requests."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Answer every request, in whatever order is fastest, each reply as soon as it is there."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what is worth keeping beside a result: back end, device, precision."""
        ...


def device_type(row: EvaluatedModel, device: str) -> str:
    """Return the kind of device that ``device`` stands for; ``auto`` is what the row says, there or not."""
    if device == "auto":
        return "cpu" if row.accelerator == "cpu" else "cuda"
    return device.partition(":")[0]


def backend_of(row: EvaluatedModel, device: str) -> Backend:
    """Return what generates the answers of a row; nothing heavy is loaded to find out.

    The two compute the same with other kernels, so an answer may differ: the back end is part of what it depends on.

    Args:
        device: as for ``open_engine``.
    """
    if row.backend != "auto":
        return row.backend
    there = importlib.util.find_spec("vllm") is not None
    return "vllm" if there and device_type(row, device) == "cuda" and row.family in VLLM_FAMILIES else "transformers"


def precision(row: EvaluatedModel, kind: str) -> str:
    """Return the precision that a model's weights have on a kind of device.

    Half precision on a CPU is slow, and its rounding is not that of a GPU's.
    """
    return "float32" if kind == "cpu" else row.dtype


def check_keys(requests: Iterable[Request]) -> None:
    """Refuse requests that their replies could not be distinguished by.

    Raises:
        EngineError: two requests share a key.
    """
    seen: set[str] = set()
    for request in requests:
        if request.key in seen:
            raise EngineError(f"two requests share the key {request.key}", "give every request a key of its own")
        seen.add(request.key)
