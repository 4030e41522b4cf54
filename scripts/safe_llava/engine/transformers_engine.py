"""The engine over transformers' ``generate``: greedy, batched, padded on the left."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from safe_llava.config.models import WITHOUT_ADAPTER, EvaluatedModel
from safe_llava.core.errors import EngineError, SafeLlavaError
from safe_llava.engine.adapters import ChatTemplateAdapter, adapter_for
from safe_llava.engine.base import DECODING, ENGINE_VERSION, Reply, Request, check_keys, device_type, failed, precision

logger = logging.getLogger(__name__)

# What a checkpoint of a family calls itself in its config.json.
MODEL_TYPES = {
    "llava": {"llava"},
    "llava_next": {"llava_next"},
    "llava_onevision": {"llava_onevision"},
    "llava_qwen": {"llava_qwen"},
    "gemma3": {"gemma3"},
    "qwen2_5_vl": {"qwen2_5_vl"},
    "internvl": {"internvl", "internvl_chat"},
}


class FiniteLogits(LogitsProcessor):
    """Stop a batch whose scores overflowed: the token picked from them would be noise, not an answer."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return ``scores [B, V]`` as they are.

        Raises:
            EngineError: the highest score of a row is not a finite number.
        """
        if not bool(torch.isfinite(scores.amax(dim=-1)).all()):
            raise EngineError("the model's scores are not finite numbers", "set `dtype: bfloat16` or `float32`")
        return scores


class TransformersEngine:
    """Answers through ``AutoModelForImageTextToText``.

    Args:
        model_dir: folder of the checkpoint and its processor; nothing is ever fetched.
        row: how the model is asked.
        device: ``auto`` (what the row's `accelerator` says), ``cpu``, ``cuda``, ``cuda:1``, …
        threads: CPU threads; None leaves torch's own choice.

    Raises:
        EngineError: the folder is not a checkpoint of the row's family, or does not load.
    """

    def __init__(
        self, model_dir: Path | str, row: EvaluatedModel, device: str = "auto", threads: int | None = None
    ) -> None:
        self._row = row
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(choose_device(row) if device == "auto" else device)
        self.dtype = getattr(torch, precision(row, self.device.type))
        check_family(Path(model_dir), row)
        processor, self.model = _load(Path(model_dir), row, self.dtype)
        self.model.to(self.device).eval()
        self.adapter: ChatTemplateAdapter = adapter_for(processor, row, self.dtype)
        tokenizer = self.adapter.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._ends = _end_tokens(self.model, tokenizer)
        # A fresh configuration: what a checkpoint says about sampling does not reach a greedy answer.
        self.model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=sorted(self._ends), pad_token_id=tokenizer.pad_token_id
        )

    def describe(self) -> dict[str, Any]:
        """Return back end, device, precision, batch size, way of decoding and version."""
        return {
            "backend": "transformers",
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch_size": self._row.batch_size,
            "decoding": DECODING,
            "version": ENGINE_VERSION,
        }

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Answer every request, the longest prompts first, so that memory runs out at once or never."""
        check_keys(requests)
        asked = [(request, self.adapter.prompt(request)) for request in requests]
        asked.sort(key=lambda pair: (_kind(pair[0]), len(pair[1])), reverse=True)
        for _, same_kind in groupby(asked, key=lambda pair: _kind(pair[0])):
            group = list(same_kind)
            for start in range(0, len(group), self._row.batch_size):
                yield from self._answer(group[start : start + self._row.batch_size])

    def _answer(self, batch: list[tuple[Request, str]]) -> Iterator[Reply]:
        """Answer a batch; one that fails is halved until what cannot be answered stands alone."""
        try:
            replies = self._generate(batch)
        except Exception as error:  # whatever went wrong, the other questions still get their answers
            reason = error.message if isinstance(error, SafeLlavaError) else f"{type(error).__name__}: {error}"
        else:
            yield from replies
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            request, prompt = batch[0]
            logger.warning("%s: no answer: %s", request.key, reason)
            yield failed(request.key, reason, prompt)
            return
        middle = len(batch) // 2
        yield from self._answer(batch[:middle])
        yield from self._answer(batch[middle:])

    @torch.inference_mode()
    def _generate(self, batch: list[tuple[Request, str]]) -> list[Reply]:
        requests, prompts = [request for request, _ in batch], [prompt for _, prompt in batch]
        inputs = {name: value.to(self.device) for name, value in self.adapter.tensors(requests, prompts).items()}
        output = self.model.generate(
            **inputs,
            max_new_tokens=requests[0].max_new_tokens,
            logits_processor=LogitsProcessorList([FiniteLogits()]),
        )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._reply(*pair, tokens) for pair, tokens in zip(batch, answers, strict=True)]

    def _reply(self, request: Request, prompt: str, tokens: list[int]) -> Reply:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        kept = tokens if end is None else tokens[:end]
        text = str(self.adapter.tokenizer.decode(kept, skip_special_tokens=True)).strip()
        cut = text.split("\n", 1)[0].rstrip() if self._row.cut_at_newline else text
        # A first line that is whole has not been truncated, whatever became of the lines behind it.
        truncated = end is None and cut == text
        return Reply(request.key, cut, "ok", n_tokens=len(kept), truncated=truncated, prompt=prompt)


def choose_device(row: EvaluatedModel) -> str:
    """Return what the row says that answering runs on.

    Raises:
        EngineError: that is a GPU, and there is none: a large model on a CPU would look like a job that hangs.
    """
    kind = device_type(row, "auto")
    if kind != "cuda" or torch.cuda.is_available():
        return kind
    raise EngineError("the model's row says `accelerator: gpu`, and no GPU is visible", "ask for one, or set it to cpu")


def check_family(model_dir: Path, row: EvaluatedModel) -> None:
    """Check that a folder holds a checkpoint of the row's family.

    Raises:
        EngineError: it does not.
    """
    path = model_dir / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path}: not the configuration of a model: {error!r}", "fetch or train it again") from error
    if found not in MODEL_TYPES[row.family]:
        raise EngineError(
            f"{path}: the checkpoint is of type `{found}`, its row says `family: {row.family}`",
            "set `family` of the model's row, or `weights` to another snapshot",
        )


def _load(model_dir: Path, row: EvaluatedModel, dtype: torch.dtype) -> tuple[Any, Any]:
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": row.trust_remote_code}
    try:
        processor = AutoProcessor.from_pretrained(model_dir, **common)
        model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=dtype, **common)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        remedy = "fetch or train it again"
        if row.family in WITHOUT_ADAPTER:
            remedy = "use a snapshot in transformers' own format; this family's original one is not supported yet"
        raise EngineError(f"{model_dir}: does not load: {error}", remedy) from error
    return processor, model


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise EngineError("neither the model nor its tokenizer names an end token", "add a generation_config.json")
    return set(ends) if isinstance(ends, list | tuple) else {int(ends)}


def _kind(request: Request) -> tuple[int, int]:
    """Return what the requests of a batch have in common: the budget and the number of images."""
    return request.max_new_tokens, len(request.images)
