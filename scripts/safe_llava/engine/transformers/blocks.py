"""Blocks of pictures: made ready by threads, as large as memory allows, halved when something goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

import torch

from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import EngineError
from safe_llava.engine.adapters import ChatTemplateAdapter
from safe_llava.engine.ahead import ahead
from safe_llava.engine.base import Reply, Request, failed
from safe_llava.engine.transformers.asked import Asked, Pair, by_picture, prepared, read_picture
from safe_llava.engine.transformers.prefix import PrefixDecoder

logger = logging.getLogger(__name__)

READERS = 8  # threads that open pictures
AHEAD = 160  # pictures that are made ready while the model is busy
MEMORY_SHARE = 0.8  # of a GPU's free memory that a block is planned for
MOST_ROWS = 4096  # questions of a block; more makes a GPU no faster


class Asker(Protocol):
    """What blocks need of an engine.

    Attributes:
        decoder: of its model.
        processing: held by whoever uses the adapter's processor.
    """

    decoder: PrefixDecoder | None
    adapter: ChatTemplateAdapter
    model: Any
    device: torch.device
    row: EvaluatedModel
    processing: Lock

    def reply(self, request: Request, prompt: str, tokens: list[int]) -> Reply:
        """Return the reply that generated tokens stand for."""
        ...

    def plain(self, pairs: list[Pair]) -> Iterator[Reply]:
        """Answer in another way."""
        ...


class PictureBlocks:
    """Answers questions about one picture each, all questions about a picture together.

    Args:
        asker: the model; it answers in another way what shares nothing here, or fails here.
    """

    def __init__(self, asker: Asker) -> None:
        assert asker.decoder is not None
        self._asker, self._decoder, self._device = asker, asker.decoder, asker.device
        self._part = 1.0  # of the planned memory that turned out to be enough

    def replies(self, pairs: Sequence[Pair]) -> Iterator[Reply]:
        """Answer requests with one picture each; a picture that does not open fails all of its questions."""
        others: list[Pair] = []
        block: list[Asked] = []
        spent, limit = 0, self._limit()
        with ThreadPoolExecutor(READERS) as readers:
            for group, made in ahead(readers, self._prepare, by_picture(pairs), AHEAD):
                asked = _result(made)
                if isinstance(asked, EngineError):
                    logger.warning("%d questions have no answer: %s", len(group), asked.message)
                    yield from (failed(request.key, asked.message, prompt) for request, prompt in group)
                    continue
                if asked is None:
                    others.extend(group)
                    continue
                cost = self._cost(asked)
                if block and (spent + cost > limit or sum(len(one.pairs) for one in block) >= MOST_ROWS):
                    yield from self._answer(block)
                    block, spent, limit = [], 0, self._limit()
                block.append(asked)
                spent += cost
        if block:
            yield from self._answer(block)
        yield from self._asker.plain(others)

    def _prepare(self, group: list[Pair]) -> Asked:
        adapter = self._asker.adapter
        picture = read_picture(group, adapter)
        with self._asker.processing:
            return prepared(group, picture, adapter, self._asker.model.config.image_token_id)

    def _cost(self, asked: Asked) -> int:
        return self._decoder.cost(asked) if self._device.type == "cuda" else len(asked.pairs)

    def _limit(self) -> float:
        """Return what a block may cost: bytes on a GPU, questions elsewhere."""
        if self._device.type != "cuda":
            return self._asker.row.batch_size
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0] * MEMORY_SHARE * self._part

    def _answer(self, block: list[Asked]) -> Iterator[Reply]:
        """Answer a block; what is left of one that fails is halved, and a picture that fails alone asked plainly."""
        done: set[str] = set()
        alone: list[Pair] = []
        reason = None
        try:
            for pair, tokens in self._decoder.answers(block):
                done.add(pair[0].key)
                if tokens is None:
                    alone.append(pair)
                else:
                    yield self._asker.reply(*pair, tokens)
        except Exception as error:  # whatever went wrong, the other questions still get their answers
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, torch.OutOfMemoryError) and len(block) > 1:
                self._part /= 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        for pair in alone:  # by itself it shows whether its scores are at fault or those of a row beside it
            yield from self._asker.plain([pair])
        if reason is None:
            return
        left = [rest for asked in block if (rest := asked.without(done))]
        logger.info("a block of %d pictures failed, %d are left: %s", len(block), len(left), reason)
        if len(left) <= 1:
            yield from self._asker.plain([pair for asked in left for pair in asked.pairs])
            return
        middle = len(left) // 2
        yield from self._answer(left[:middle])
        yield from self._answer(left[middle:])


def _result(made: Future[Asked]) -> Asked | EngineError | None:
    """Return a group made ready; None where its questions have to be asked in another way."""
    try:
        return made.result()
    except EngineError as error:
        return error
    except Exception as error:
        logger.info("asked one by one: %s: %s", type(error).__name__, error)
        return None
