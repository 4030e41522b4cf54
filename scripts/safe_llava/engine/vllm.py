"""The engine over vLLM: batched as memory allows, each image read once for all its questions."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from safe_llava.checkpoints.families import check_family
from safe_llava.checkpoints.processors import load_processor
from safe_llava.checkpoints.whole import weight_files
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import EngineError, SafeLlavaError
from safe_llava.engine.adapters import ChatTemplateAdapter, adapter_for
from safe_llava.engine.ahead import ahead, open_with_digest
from safe_llava.engine.base import DECODING, ENGINE_VERSION, Reply, Request, check_keys, device_type, failed, precision
from safe_llava.engine.cleaning import clean_reply, end_tokens, saved_generation_config
from safe_llava.engine.prompts import check_template

logger = logging.getLogger(__name__)

WINDOW = 3072  # requests that vLLM knows of: more than it runs at once, so that it never waits for the next image
READERS = 8  # threads that open images
AHEAD = 64  # groups of requests whose images are opened beforehand
IMAGES_PER_PROMPT = 4
# Environment variables of vLLM, where the caller has not set them: nothing leaves the machine, and no sampler is
# compiled that greedy answers do not use.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}

Opened = list[tuple[PIL.Image.Image, str]]


class VllmEngine:
    """Answers through ``vllm.LLM``, with the prompts, token budgets and cleaning of the transformers back end.

    Args:
        model_dir: folder of the checkpoint and its processor; nothing is ever fetched.
        row: how the model is asked.
        device: ``auto`` (what the row's `accelerator` says), ``cuda``, ``cuda:1``, …; ``cpu`` for a vLLM built for it.
        options: further arguments of ``vllm.LLM``, for measurements.

    Raises:
        EngineError: the folder is not a checkpoint of the row's family, or vLLM cannot be had or does not load it.
    """

    def __init__(
        self,
        model_dir: Path | str,
        row: EvaluatedModel,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        folder = Path(model_dir)
        self._row, self._kind = row, device_type(row, device)
        self._dtype = precision(row, self._kind)
        check_family(folder, row)
        if (options or {}).get("load_format") != "dummy":  # with which vLLM makes random weights
            weight_files(folder)
        processor = load_processor(folder, local_files_only=True, trust_remote_code=row.trust_remote_code)
        try:
            configuration = saved_generation_config(folder, row.trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise EngineError(f"{folder}: does not load: {error}", "fetch or train it again") from error
        self.adapter: ChatTemplateAdapter = adapter_for(processor, row, getattr(torch, self._dtype))
        check_template(self.adapter, row)
        self.ends = end_tokens(configuration, self.adapter.tokenizer)
        self._markers = image_markers(processor)
        _choose_gpu(device)
        self._vllm = _import_vllm()
        self._llm = self._load(folder, dict(options or {}))
        self._stopped: str | None = None  # why vLLM answers no more

    def describe(self) -> dict[str, Any]:
        """Return back end, its version, device, precision, way of decoding and version."""
        return {
            "backend": "vllm",
            "backend_version": str(self._vllm.__version__),
            "device": self._kind,
            "dtype": self._dtype,
            "decoding": DECODING,
            "version": ENGINE_VERSION,
        }

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Answer every request, those of an image one after the other, each reply as soon as it is there."""
        check_keys(requests)
        waiting: dict[str, tuple[Request, str]] = {}
        with ThreadPoolExecutor(READERS, thread_name_prefix="images") as readers:
            try:
                for group, images in ahead(readers, self._open, by_images(requests), AHEAD):
                    yield from self._submit(group, images, waiting)
                    while len(waiting) >= WINDOW:
                        yield from self._step(waiting)
                while waiting:
                    yield from self._step(waiting)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                if waiting and self._stopped is None:  # whoever asked has left
                    self._llm.llm_engine.abort_request(list(waiting))

    def _open(self, group: Sequence[Request]) -> Opened:
        return [open_with_digest(source, self._row.image_size) for source in group[0].images]

    def _submit(
        self, group: Sequence[Request], images: Future[Opened], waiting: dict[str, tuple[Request, str]]
    ) -> Iterator[Reply]:
        """Hand requests about the same images to vLLM; yield the replies of those that cannot be asked."""
        for request in group:
            prompt = ""
            try:
                prompt = self.adapter.prompt(request)
                self._check(request)
                (inputs,) = self._llm.renderer.render_cmpl([self._inputs(prompt, images.result())])
                self._llm.llm_engine.add_request(request.key, inputs, self._params(request))
            except Exception as error:  # whatever went wrong, the other questions still get their answers
                reason = error.message if isinstance(error, SafeLlavaError) else f"{type(error).__name__}: {error}"
                yield _no_answer(request, reason, prompt)
            else:
                waiting[request.key] = (request, prompt)

    def _check(self, request: Request) -> None:
        if self._stopped is not None:
            raise EngineError(self._stopped, "run it again")
        if len(request.images) > IMAGES_PER_PROMPT:
            raise EngineError(
                f"{len(request.images)} images in one question, vLLM expects {IMAGES_PER_PROMPT}",
                "set `backend: transformers`",
            )
        if found := [marker for marker in self._markers if marker in request.text]:
            raise EngineError(
                f"the question holds the image placeholder {found[0]}", "a question may not hold it itself"
            )

    def _inputs(self, prompt: str, images: Opened) -> dict[str, Any]:
        """Return vLLM's prompt: our token ids, so that it adds none, and images known by their content."""
        encoded = self.adapter.tokenizer(prompt, add_special_tokens=self.adapter.adds_special_tokens([prompt]))
        inputs: dict[str, Any] = {"prompt_token_ids": list(encoded["input_ids"])}
        if images:
            inputs["multi_modal_data"] = {"image": [image for image, _ in images]}
            inputs["multi_modal_uuids"] = {"image": [digest for _, digest in images]}
        return inputs

    def _params(self, request: Request) -> Any:
        return self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=request.max_new_tokens,
            # The tokens that end an answer are ours to name, as in the other back end; vLLM adds none.
            ignore_eos=True,
            stop_token_ids=sorted(self.ends),
            detokenize=False,
            logprobs=0,  # of the chosen token alone: not a number where the model's scores overflowed
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _step(self, waiting: dict[str, tuple[Request, str]]) -> list[Reply]:
        """Wait for vLLM's next step, and return the replies of the requests that it finished."""
        try:
            outputs = self._llm.llm_engine.step()
        except Exception as error:  # vLLM does not go on after this: what it was asked is asked again by the next run
            self._stopped = f"vLLM stopped: {type(error).__name__}: {error}"
            replies = [_no_answer(request, self._stopped, prompt) for request, prompt in waiting.values()]
            waiting.clear()
            return replies
        done = [output for output in outputs if output.finished and output.request_id in waiting]
        return [self._reply(*waiting.pop(output.request_id), output) for output in done]

    def _reply(self, request: Request, prompt: str, output: Any) -> Reply:
        completion = output.outputs[0]
        tokens = list(completion.token_ids)
        if completion.finish_reason not in ("stop", "length"):
            return _no_answer(request, f"vLLM ended it: {completion.finish_reason}", prompt)
        if not math.isfinite(completion.cumulative_logprob):
            return _no_answer(request, "the model's scores are not finite numbers", prompt)
        if completion.finish_reason == "length" and len(tokens) < request.max_new_tokens:
            return _no_answer(request, "prompt and answer are longer than the row's `max_model_len`", prompt)
        return clean_reply(
            request,
            prompt,
            tokens,
            ends=self.ends,
            decode=self.adapter.tokenizer.decode,
            cut_at_newline=self._row.cut_at_newline,
        )

    def _load(self, folder: Path, options: dict[str, Any]) -> Any:
        platform = self._vllm.platforms.current_platform
        if platform.is_cpu() != (self._kind == "cpu"):
            raise EngineError(
                f"this vLLM runs on {'a CPU' if platform.is_cpu() else 'a GPU'}, the model is asked on {self._kind}",
                "set `backend: transformers` in the model's row, or its `accelerator`",
            )
        arguments = {
            "model": str(folder),
            "dtype": self._dtype,
            "seed": 0,
            "trust_remote_code": self._row.trust_remote_code,
            "max_model_len": self._row.max_model_len,
            "gpu_memory_utilization": self._row.gpu_memory,
            "enable_prefix_caching": True,
            "limit_mm_per_prompt": {"image": IMAGES_PER_PROMPT, "video": 0},
            # Images are resized by Pillow, as in the other back end. The name's successor, `backend`, would reach the
            # video processors too, and they refuse it.
            "mm_processor_kwargs": {"use_fast": False},
            "generation_config": "vllm",  # what a checkpoint says about sampling does not reach a greedy answer
            "disable_log_stats": True,
        }
        try:
            return self._vllm.LLM(**{**arguments, **options})
        except Exception as error:
            raise EngineError(
                f"{folder}: vLLM does not load it: {type(error).__name__}: {error}",
                "see the log above; lower the row's `gpu_memory` or `max_model_len`, or set `backend: transformers`",
            ) from error


def by_images(requests: Sequence[Request]) -> list[list[Request]]:
    """Return the requests in groups that show the same images, the longest answers of a group first."""
    groups: dict[tuple[str | int, ...], list[Request]] = {}
    for request in requests:
        shown = tuple(str(source) if isinstance(source, Path) else id(source) for source in request.images)
        groups.setdefault(shown, []).append(request)
    return [sorted(group, key=lambda request: -request.max_new_tokens) for group in groups.values()]


def image_markers(processor: Any) -> list[str]:
    """Return the texts that stand for an image in a family's prompts."""
    found = (getattr(processor, name, None) for name in ("image_token", "boi_token"))
    return [marker for marker in found if isinstance(marker, str) and marker]


def _no_answer(request: Request, reason: str, prompt: str) -> Reply:
    logger.warning("%s: no answer: %s", request.key, reason)
    return failed(request.key, reason, prompt)


def _choose_gpu(device: str) -> None:
    """Show vLLM the one GPU that ``device`` names, before it looks for GPUs."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = shown[int(number)] if shown else number


def _import_vllm() -> Any:
    """Import vLLM.

    Raises:
        EngineError: it is not installed, or does not go with the libraries that are.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.platforms
        import vllm.sampling_params
    except Exception as error:
        raise EngineError(
            f"vLLM does not import: {type(error).__name__}: {error}",
            "install vLLM in the version that goes with torch and transformers here, or set `backend: transformers`",
        ) from error
    return vllm
