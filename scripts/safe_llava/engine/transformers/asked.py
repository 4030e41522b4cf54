"""Questions grouped by their picture: what all of them begin with, and how each goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import PIL.Image
import torch

from safe_llava.engine.adapters import ChatTemplateAdapter
from safe_llava.engine.base import Request
from safe_llava.engine.images import open_image

Pair = tuple[Request, str]  # a request and its prompt

# What a processor says of single tokens; everything else that it returns belongs to the picture.
OF_TOKENS = ("input_ids", "attention_mask")


class NotSharedError(Exception):
    """The questions about a picture do not begin alike, or not in a way that is understood."""


@dataclass
class Asked:
    """All questions about one picture.

    Attributes:
        pairs: the requests with their prompts.
        prefix: tokens up to the picture's last position, the same for every question.
        suffixes: the tokens behind it, of each question.
        tensors: the picture, as the model takes it.
    """

    pairs: list[Pair]
    prefix: list[int] = field(default_factory=list)
    suffixes: list[list[int]] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def without(self, done: set[str]) -> Asked | None:
        """Return the questions whose keys are not in ``done``; None if there is none left."""
        left = [place for place, (request, _) in enumerate(self.pairs) if request.key not in done]
        if not left:
            return None
        return replace(
            self, pairs=[self.pairs[place] for place in left], suffixes=[self.suffixes[place] for place in left]
        )

    def shape(self) -> tuple[object, ...]:
        """Return what pictures have in common that are read in one pass."""
        return len(self.prefix), *((name, tensor.shape) for name, tensor in sorted(self.tensors.items()))


def by_picture(pairs: Iterable[Pair]) -> list[list[Pair]]:
    """Return requests of one picture each, those of the same picture together, in the order of its first question."""
    groups: dict[object, list[Pair]] = {}
    for request, prompt in pairs:
        (source,) = request.images
        groups.setdefault(source if isinstance(source, Path) else id(source), []).append((request, prompt))
    return list(groups.values())


def read_picture(pairs: list[Pair], adapter: ChatTemplateAdapter) -> PIL.Image.Image:
    """Return the picture that a group asks about.

    Raises:
        EngineError: it does not open.
    """
    return open_image(pairs[0][0].images[0], adapter.row.image_size)


def prepared(pairs: list[Pair], picture: PIL.Image.Image, adapter: ChatTemplateAdapter, marker: int) -> Asked:
    """Return the tokens and the picture of a group.

    The processor runs once, over the first question: it writes the picture's placeholder as many tokens. The same
    tokens then stand for the placeholder of the other questions, whose text is tokenized alone: a placeholder is a
    special token, so the text on both sides of it never grows together with it.

    Args:
        pairs: questions about one picture.
        picture: in memory.
        adapter: of the model.
        marker: token of the placeholder.

    Raises:
        NotSharedError: the processor does something else.
    """
    prompts = [prompt for _, prompt in pairs]
    tensors = adapter.tensors([replace(pairs[0][0], images=(picture,))], prompts[:1])
    whole: list[int] = tensors["input_ids"][0].tolist()
    short: list[list[int]] = adapter.tokenizer(prompts, add_special_tokens=adapter._adds_special_tokens(prompts))[
        "input_ids"
    ]
    head, tail = _common(whole, short[0])
    placeholder, positions = short[0][head : len(short[0]) - tail], whole[head : len(whole) - tail]
    begin = [*short[0][:head], *placeholder]
    if any(tokens.count(marker) != 1 or tokens[: len(begin)] != begin or len(tokens) == len(begin) for tokens in short):
        raise NotSharedError("the questions about a picture do not begin alike")
    if marker not in begin or marker in whole[len(whole) - tail :]:
        raise NotSharedError("the picture does not end before the question")
    others = {name: tensor for name, tensor in tensors.items() if name not in OF_TOKENS}
    if any(tensor.ndim == 2 and tensor.shape[1] == len(whole) for tensor in others.values()):
        raise NotSharedError("the processor says more of each token than its number")
    return Asked(pairs, [*whole[:head], *positions], [tokens[len(begin) :] for tokens in short], others)


def _common(whole: Sequence[int], short: Sequence[int]) -> tuple[int, int]:
    """Return how many tokens two sequences have in common at their beginning, and behind that at their end."""
    most = min(len(whole), len(short))
    head = next((place for place in range(most) if whole[place] != short[place]), most)
    most -= head
    tail = next((place for place in range(most) if whole[-1 - place] != short[-1 - place]), most)
    return head, tail
