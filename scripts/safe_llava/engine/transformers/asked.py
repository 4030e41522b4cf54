"""Questions grouped by their image: what all of them begin with, and how each goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import PIL.Image
import torch

from safe_llava.engine.adapters import ChatTemplateAdapter
from safe_llava.engine.base import Request

RequestPrompt = tuple[Request, str]  # a request and its prompt


class NotSharedError(Exception):
    """The questions about an image do not begin alike, or not in a way that is understood."""


@dataclass
class SharedImage:
    """All questions about one image.

    Attributes:
        pairs: the requests with their prompts.
        prefix: tokens up to the image's last position, the same for every question.
        suffixes: the tokens behind it, of each question.
        tensors: the image, as the model takes it, and what it takes of each token of the prefix.
    """

    pairs: list[RequestPrompt]
    prefix: list[int]
    suffixes: list[list[int]]
    tensors: dict[str, torch.Tensor]

    def without(self, done: set[str]) -> SharedImage | None:
        """Return the questions whose keys are not in ``done``; None if there is none left."""
        left = [place for place, (request, _) in enumerate(self.pairs) if request.key not in done]
        if not left:
            return None
        return replace(
            self, pairs=[self.pairs[place] for place in left], suffixes=[self.suffixes[place] for place in left]
        )

    def shape(self) -> tuple[object, ...]:
        """Return what images have in common that are read in one pass."""
        return len(self.prefix), *((name, tensor.shape[1:]) for name, tensor in sorted(self.tensors.items()))


def by_image(pairs: Iterable[RequestPrompt]) -> list[list[RequestPrompt]]:
    """Return requests of one image each, those of the same image together, in the order of its first question."""
    groups: dict[object, list[RequestPrompt]] = {}
    for request, prompt in pairs:
        (source,) = request.images
        groups.setdefault(source if isinstance(source, Path) else id(source), []).append((request, prompt))
    return list(groups.values())


def prepared(
    pairs: list[RequestPrompt], image: PIL.Image.Image, adapter: ChatTemplateAdapter, marker: int
) -> SharedImage:
    """Return the tokens and the image of a group.

    The processor runs once, over the first question: it writes the image's placeholder as many tokens. The same
    tokens then stand for the placeholder of the other questions, whose text is tokenized alone: a placeholder is a
    special token, so the text on both sides of it never grows together with it.

    Args:
        pairs: questions about one image.
        image: in memory.
        adapter: of the model.
        marker: token of the placeholder.

    Raises:
        NotSharedError: the processor does something else.
    """
    prompts = [prompt for _, prompt in pairs]
    tensors = adapter.tensors([replace(pairs[0][0], images=(image,))], prompts[:1])
    whole: list[int] = tensors.pop("input_ids")[0].tolist()
    del tensors["attention_mask"]
    short: list[list[int]] = adapter.tokenizer(prompts, add_special_tokens=adapter.adds_special_tokens(prompts))[
        "input_ids"
    ]
    head, tail = _common(whole, short[0])
    placeholder, positions = short[0][head : len(short[0]) - tail], whole[head : len(whole) - tail]
    begin = [*short[0][:head], *placeholder]
    if any(tokens.count(marker) != 1 or tokens[: len(begin)] != begin or len(tokens) == len(begin) for tokens in short):
        raise NotSharedError("the questions about an image do not begin alike")
    if marker not in begin or marker in whole[len(whole) - tail :]:
        raise NotSharedError("the image does not end before the question")
    prefix = [*whole[:head], *positions]
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.shape[1] == len(whole):
            tensors[name] = tensor[:, : len(prefix)]
    return SharedImage(pairs, prefix, [tokens[len(begin) :] for tokens in short], tensors)


def _common(whole: Sequence[int], short: Sequence[int]) -> tuple[int, int]:
    """Return how many tokens two sequences have in common at their beginning, and behind that at their end."""
    most = min(len(whole), len(short))
    head = next((place for place in range(most) if whole[place] != short[place]), most)
    most -= head
    tail = next((place for place in range(most) if whole[-1 - place] != short[-1 - place]), most)
    return head, tail
