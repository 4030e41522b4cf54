"""How a family of models turns questions into tensors.

``ChatTemplateAdapter`` does for every family whose processor does everything itself. One that wants more is a subclass,
entered in ``ADAPTERS`` under the name of its processor's class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import EngineError
from safe_llava.engine.base import ImageSource, Request
from safe_llava.engine.images import ByteCache, open_image

PIXEL_CACHE_BYTES = 2 << 30  # both editions' images of PRISM at 336 x 336 fit in half precision


class ChatTemplateAdapter:
    """Any family whose processor does everything itself, through the checkpoint's chat template.

    Args:
        processor: the checkpoint's processor.
        row: system message and forced image size.
        dtype: precision of the pixels.
    """

    def __init__(self, processor: Any, row: EvaluatedModel, dtype: torch.dtype) -> None:
        self.processor, self.row, self._dtype = processor, row, dtype
        self.tokenizer = processor.tokenizer
        if not (getattr(processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)):
            raise EngineError("the checkpoint has no chat template", "add a chat_template.jinja to its folder")

    def markers(self) -> list[str]:
        """Return what may stand for an image in a prompt."""
        markers = (getattr(self.processor, name, None) for name in ("image_token", "boi_token"))
        return [one for one in markers if isinstance(one, str) and one]

    def check(self, request: Request) -> None:
        """Refuse a question that holds an image's placeholder: it would be read as one more image.

        Raises:
            EngineError: it does.
        """
        if found := [one for one in self.markers() if one in request.text]:
            count, there = len(request.images) + request.text.count(found[0]), len(request.images)
            raise EngineError(
                f"the question holds {found[0]}: the prompt has {count} image placeholders for {there} images",
                "a question may not hold the placeholder itself",
            )

    def prompt(self, request: Request, template: str | None = None) -> str:
        """Return the text that the model is given: the template around the images and the question.

        Args:
            template: a chat template in place of the checkpoint's own.
        """
        content: list[dict[str, str]] = [{"type": "image"} for _ in request.images]
        content.append({"type": "text", "text": request.text})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.row.system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.row.system}]})
        return str(
            self.processor.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=True, tokenize=False
            )
        )

    def tensors(self, requests: Sequence[Request], prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the model's input for one batch: ids and mask ``[B, T]``, padded on the left, and pixels."""
        images = [[open_image(source, self.row.image_size) for source in request.images] for request in requests]
        inputs = self.processor(
            text=list(prompts),
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=self.adds_special_tokens(prompts),
        )
        return {name: self._cast(value) for name, value in inputs.items()}

    def adds_special_tokens(self, prompts: Sequence[str]) -> bool:
        """Say whether the tokenizer is to add its start token: not where the template wrote it already."""
        start = self.tokenizer.bos_token
        return not (start and prompts and prompts[0].startswith(start))

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self._dtype) if torch.is_floating_point(value) else value


class LlavaAdapter(ChatTemplateAdapter):
    """LLaVA-1.5: one square per image, so its pixels are made once and kept for its other questions."""

    def __init__(self, processor: Any, row: EvaluatedModel, dtype: torch.dtype) -> None:
        super().__init__(processor, row, dtype)
        self._pixels: ByteCache[torch.Tensor] = ByteCache(PIXEL_CACHE_BYTES, lambda pixels: pixels.nbytes)

    def tensors(self, requests: Sequence[Request], prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return ids and mask ``[B, T]``, padded on the left, and pixels ``[images, 3, H, W]`` of the batch."""
        pixels = [[self._pixels_of(source) for source in request.images] for request in requests]
        texts = [self._expand(prompt, images) for prompt, images in zip(prompts, pixels, strict=True)]
        encoded = self.tokenizer(
            texts, padding=True, return_tensors="pt", add_special_tokens=self.adds_special_tokens(prompts)
        )
        inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        if flat := [image for images in pixels for image in images]:
            inputs["pixel_values"] = torch.cat(flat)
        return inputs

    def _pixels_of(self, source: ImageSource) -> torch.Tensor:
        def make() -> torch.Tensor:
            image = open_image(source, self.row.image_size)
            pixels = self.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
            return self._cast(pixels)

        return self._pixels.get(source, make) if isinstance(source, Path) else make()

    def _expand(self, prompt: str, pixels: Sequence[torch.Tensor]) -> str:
        """Write each image's placeholder as many times as the image has positions."""
        marker = self.processor.image_token
        parts = prompt.split(marker)
        if len(parts) != len(pixels) + 1:
            raise EngineError(
                f"the prompt has {len(parts) - 1} image placeholders for {len(pixels)} images",
                f"a question may not hold {marker} itself",
            )
        text = parts[0]
        for image, part in zip(pixels, parts[1:], strict=True):
            like = {"pixel_values": torch.empty(image.shape)}  # its size is asked for, and half precision refused
            text += self.processor.replace_image_token(like, 0) + part
        return text


# Adapters by the class of the checkpoint's processor: a family may have checkpoints of several classes.
ADAPTERS: dict[str, type[ChatTemplateAdapter]] = {"LlavaProcessor": LlavaAdapter}


def adapter_for(processor: Any, row: EvaluatedModel, dtype: torch.dtype) -> ChatTemplateAdapter:
    """Return the adapter of a checkpoint's processor."""
    return ADAPTERS.get(type(processor).__name__, ChatTemplateAdapter)(processor, row, dtype)
