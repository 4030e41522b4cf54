"""The engine over transformers: greedy, batched, each image read once for all its questions where the model allows it.

Images are made ready by threads, and answered in blocks as large as memory allows. Models that share nothing go through
``generate``, batch by batch, padded on the left; so do questions that have no image or several, and what fails in a
block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import PIL.Image
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, LogitsProcessor, LogitsProcessorList

from safe_llava.checkpoints.families import check_family
from safe_llava.checkpoints.processors import load_processor
from safe_llava.checkpoints.tower import load_pretrained
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import CheckpointError, EngineError, SafeLlavaError
from safe_llava.engine.adapters import ChatTemplateAdapter, adapter_for
from safe_llava.engine.ahead import ahead
from safe_llava.engine.base import DECODING, ENGINE_VERSION, Reply, Request, check_keys, device_type, failed, precision
from safe_llava.engine.cleaning import clean_reply, end_tokens
from safe_llava.engine.images import open_image
from safe_llava.engine.prompts import EXAMPLES, check_template
from safe_llava.engine.transformers.asked import RequestPrompt, SharedImage, by_image, prepared
from safe_llava.engine.transformers.prefix import PrefixDecoder, can_share

logger = logging.getLogger(__name__)

READERS = 8  # threads that open images
AHEAD = 160  # images that are made ready while the model is busy
MEMORY_SHARE = 0.8  # of a GPU's free memory that a block is planned for
MOST_ROWS = 1024  # questions of a block, each of which holds its image's keys and values once more


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
        share: read an image once for all its questions, where the model allows it.

    Raises:
        EngineError: the folder is not a checkpoint of the row's family, or does not load.
    """

    def __init__(
        self,
        model_dir: Path | str,
        row: EvaluatedModel,
        device: str = "auto",
        threads: int | None = None,
        share: bool = True,
    ) -> None:
        self.row = row
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(choose_device(row) if device == "auto" else device)
        self.dtype = getattr(torch, precision(row, self.device.type))
        check_family(Path(model_dir), row)
        processor = load_processor(Path(model_dir), local_files_only=True, trust_remote_code=row.trust_remote_code)
        self.model = self._load(Path(model_dir)).to(self.device).eval()
        self.adapter: ChatTemplateAdapter = adapter_for(processor, row, self.dtype)
        check_template(self.adapter, row)
        tokenizer = self.adapter.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._ends = set(end_tokens(self.model.generation_config, tokenizer))
        # A fresh configuration: what a checkpoint says about sampling does not reach a greedy answer.
        self.model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=sorted(self._ends), pad_token_id=tokenizer.pad_token_id
        )
        self._processing = Lock()  # a processor keeps settings, padding among them, between its calls
        self._part = 1.0  # of the planned memory that turned out to be enough
        self.decoder: PrefixDecoder | None = None
        if share and can_share(self.model):
            self.decoder = PrefixDecoder(self.model, self._ends, self.stop, tokenizer.pad_token_id)
        self._check(Path(model_dir))

    def _load(self, folder: Path) -> Any:
        """Return the model in a folder."""
        options = {"trust_remote_code": self.row.trust_remote_code}
        try:
            return load_pretrained(AutoModelForImageTextToText, folder, self.dtype, **options)
        except CheckpointError as error:
            raise EngineError(f"{folder}: does not load: {error.message}", error.remedy) from error

    def _check(self, folder: Path) -> None:
        """Answer an example with one token: what fails every question fails now.

        Raises:
            EngineError: it has no answer.
        """
        image = PIL.Image.new("RGB", (64, 64), "grey")
        request = Request("example", EXAMPLES["refusal_soft"], (image,), 1)
        [reply] = self.plain([(request, self.adapter.prompt(request))])
        if reply.status != "ok":
            raise EngineError(
                f"{folder}: an example question has no answer: {reply.reason}",
                "compare its config.json, processor and tokenizer files with those of the model it was made from",
            )

    def describe(self) -> dict[str, Any]:
        """Return back end, device, precision, batch size, way of decoding and version."""
        return {
            "backend": "transformers",
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch_size": self.row.batch_size,
            "reads_an_image_once": self.decoder is not None,
            "decoding": DECODING,
            "version": ENGINE_VERSION,
        }

    def stop(self, request: Request) -> int:
        """Return how many tokens the answer to a request may have."""
        return request.max_new_tokens

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Answer every request, in whatever order is fastest."""
        check_keys(requests)
        pairs = []
        for request in requests:
            try:
                self.adapter.check(request)
                pairs.append((request, self.adapter.prompt(request)))
            except Exception as error:  # whatever is wrong with a question, the others still get their answers
                yield _no_answer(request, "", _reason(error))
        alone = [pair for pair in pairs if self.decoder is not None and len(pair[0].images) == 1]
        if self.decoder is not None and alone:
            yield from self._shared(self.decoder, alone)
        yield from self.plain([pair for pair in pairs if self.decoder is None or len(pair[0].images) != 1])

    def _shared(self, decoder: PrefixDecoder, pairs: Sequence[RequestPrompt]) -> Iterator[Reply]:
        """Answer requests of one image each in blocks; an image that does not open fails all of its questions."""
        others: list[RequestPrompt] = []
        block: list[SharedImage] = []
        spent, limit = 0, self._limit()
        with ThreadPoolExecutor(READERS) as readers:
            for group, made in ahead(readers, self._prepare, by_image(pairs), AHEAD):
                try:
                    asked = made.result()
                except EngineError as error:
                    yield from (_no_answer(*pair, error.message) for pair in group)
                    continue
                except Exception as error:
                    logger.info("asked one by one: %s", _reason(error))
                    others.extend(group)
                    continue
                cost = decoder.cost(asked) if self.device.type == "cuda" else len(group)
                if block and (spent + cost > limit or sum(len(one.pairs) for one in block) >= MOST_ROWS):
                    yield from self._answer_block(decoder, block)
                    block, spent, limit = [], 0, self._limit()
                block.append(asked)
                spent += cost
        if block:
            yield from self._answer_block(decoder, block)
        yield from self.plain(others)

    def _prepare(self, group: list[RequestPrompt]) -> SharedImage:
        image = open_image(group[0][0].images[0], self.row.image_size)
        with self._processing:
            return prepared(group, image, self.adapter, self.model.config.image_token_id)

    def _limit(self) -> float:
        """Return what a block may cost: bytes on a GPU, questions elsewhere."""
        if self.device.type != "cuda":
            return self.row.batch_size
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0] * MEMORY_SHARE * self._part

    def _answer_block(self, decoder: PrefixDecoder, block: list[SharedImage]) -> Iterator[Reply]:
        """Answer a block; what is left of one that fails is halved, and an image that fails alone asked plainly."""
        done: set[str] = set()
        alone: list[RequestPrompt] = []
        reason = None
        try:
            for pair, tokens in decoder.answers(block):
                done.add(pair[0].key)
                if tokens is None:
                    alone.append(pair)
                else:
                    yield self.reply(*pair, tokens)
        except Exception as error:  # whatever went wrong, the other questions still get their answers
            reason = _reason(error)
            if isinstance(error, torch.OutOfMemoryError) and len(block) > 1:
                self._part /= 2
        for pair in alone:  # by itself it shows whether its scores are at fault or those of a row beside it
            yield from self.plain([pair])
        if reason is None:
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        left = [rest for asked in block if (rest := asked.without(done))]
        logger.info("a block of %d images failed, %d are left: %s", len(block), len(left), reason)
        if len(left) <= 1:
            yield from self.plain([pair for asked in left for pair in asked.pairs])
            return
        middle = len(left) // 2
        yield from self._answer_block(decoder, left[:middle])
        yield from self._answer_block(decoder, left[middle:])

    def plain(self, pairs: list[RequestPrompt]) -> Iterator[Reply]:
        """Answer through ``generate``, the longest prompts first, so that memory runs out at once or never."""
        pairs.sort(key=lambda pair: (_kind(pair[0]), len(pair[1])), reverse=True)
        batches = []
        for _, same_kind in groupby(pairs, key=lambda pair: _kind(pair[0])):
            group = list(same_kind)
            size = self.row.batch_size
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        with ThreadPoolExecutor(1) as reader:
            for batch, inputs in ahead(reader, self._inputs, batches, 1):
                yield from self._answer(batch, inputs)

    def _inputs(self, batch: list[RequestPrompt]) -> dict[str, torch.Tensor]:
        with self._processing:
            return self.adapter.tensors([request for request, _ in batch], [prompt for _, prompt in batch])

    def _answer(
        self, batch: list[RequestPrompt], made: Future[dict[str, torch.Tensor]] | None = None
    ) -> Iterator[Reply]:
        """Answer a batch; one that fails is halved until what cannot be answered stands alone."""
        try:
            replies = self._generate(batch, made.result() if made else self._inputs(batch))
        except Exception as error:  # whatever went wrong, the other questions still get their answers
            reason = _reason(error)
        else:
            yield from replies
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            yield _no_answer(*batch[0], reason)
            return
        middle = len(batch) // 2
        yield from self._answer(batch[:middle])
        yield from self._answer(batch[middle:])

    @torch.inference_mode()
    def _generate(self, batch: list[RequestPrompt], made: dict[str, torch.Tensor]) -> list[Reply]:
        inputs = {name: value.to(self.device) for name, value in made.items()}
        output = self.model.generate(
            **inputs,
            max_new_tokens=batch[0][0].max_new_tokens,
            logits_processor=LogitsProcessorList([FiniteLogits()]),
        )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self.reply(*pair, tokens) for pair, tokens in zip(batch, answers, strict=True)]

    def reply(self, request: Request, prompt: str, tokens: list[int]) -> Reply:
        """Return the reply that generated tokens stand for."""
        return clean_reply(
            request,
            prompt,
            tokens,
            ends=self._ends,
            decode=self.adapter.tokenizer.decode,
            cut_at_newline=self.row.cut_at_newline,
        )


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, SafeLlavaError) else f"{type(error).__name__}: {error}"


def _no_answer(request: Request, prompt: str, reason: str) -> Reply:
    logger.warning("%s: no answer: %s", request.key, reason)
    return failed(request.key, reason, prompt)


def choose_device(row: EvaluatedModel) -> str:
    """Return what the row says that answering runs on.

    Raises:
        EngineError: that is a GPU, and there is none: a large model on a CPU would look like a job that hangs.
    """
    kind = device_type(row, "auto")
    if kind != "cuda" or torch.cuda.is_available():
        return kind
    remedy = "ask for one, or set it to cpu"
    if torch.version.cuda is None:
        remedy = f"this is torch's CPU build: `export TORCH_INDEX=` and `make env` bring CUDA's; or {remedy}"
    raise EngineError("the model's row says `accelerator: gpu`, and no GPU is visible", remedy)


def _kind(request: Request) -> tuple[int, int]:
    """Return what the requests of a batch have in common: the budget and the number of images."""
    return request.max_new_tokens, len(request.images)
