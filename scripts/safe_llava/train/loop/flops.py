"""How much arithmetic the mathematics of a step needs, and what part of a GPU's peak that is (MFU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Dense bf16 FLOP/s on the vendor's data sheets, by a part of the device's name; the longer name first.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "L40S": 362e12}


def peak_flops(device: torch.device) -> float | None:
    """Return a device's peak in bf16, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


@dataclass(frozen=True)
class Arithmetic:
    """Sizes that a step's arithmetic follows from.

    Attributes:
        language_weights: elements of the matrices of all decoder layers.
        head_weights: elements of the head's matrix.
        width, layers: of the language model.
        tower_flops: of one image's forward pass.
        projector_weights: elements of the projector's matrices.
        image_tokens: features of an image.
        trains_language: whether the language model's weights get gradients (adapters count as frozen weights).
    """

    language_weights: int
    head_weights: int
    width: int
    layers: int
    tower_flops: float
    projector_weights: int
    image_tokens: int
    trains_language: bool

    def step(self, tokens: int, squares: int, labelled: int, images: int) -> float:
        """Return the FLOPs of forward and backward pass, without recomputation.

        A multiplication and an addition count as two. Attention counts the causal half; the head counts at labelled
        positions only; a frozen matrix has no gradient of its own.

        Args:
            tokens: positions that are no padding.
            squares: sum over samples of the squared length.
        """
        passes = 3 if self.trains_language else 2
        matrices = 2 * passes * (self.language_weights * tokens + self.head_weights * labelled)
        attention = 3 * 2 * self.width * self.layers * squares
        projector = 3 * 2 * self.projector_weights * images * self.image_tokens
        return float(matrices + attention + projector + self.tower_flops * images)


def arithmetic_of(llava: Any, tower_config: Any, image_tokens: int, trains_language: bool) -> Arithmetic:
    """Read the sizes off a model; parameters count by name, so adapters are left out."""
    language_model = llava.model.language_model
    text = language_model.config
    patches = (tower_config.image_size // tower_config.patch_size) ** 2 + 1
    tower = _matrices(llava.model.vision_tower)
    seen = 4 * patches**2 * tower_config.hidden_size * tower_config.num_hidden_layers
    return Arithmetic(
        language_weights=_matrices(language_model.layers),
        head_weights=_size(llava.lm_head.weight),
        width=text.num_attention_heads * getattr(text, "head_dim", text.hidden_size // text.num_attention_heads),
        layers=text.num_hidden_layers,
        tower_flops=float(2 * tower * patches + seen),
        projector_weights=_matrices(llava.model.multi_modal_projector),
        image_tokens=image_tokens,
        trains_language=trains_language,
    )


def _size(value: Any) -> int:
    return int(getattr(value, "ds_numel", value.numel()))  # under ZeRO-3 the parameter itself is empty


def _matrices(module: Any) -> int:
    return sum(
        _size(value)
        for name, value in module.named_parameters()
        if name.endswith("weight") and "lora_" not in name and "embedding" not in name and "norm" not in name
    )
