"""A vision tower as its folder describes it, and weights loaded through transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_llava.checkpoints.whole import check_folder
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
PROJECTOR = "model.multi_modal_projector."
TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}  # whole model: its vision half


@dataclass(frozen=True)
class Tower:
    """What a vision tower's folder says about it.

    Attributes:
        class_tokens: positions before the patches (CLIP: 1, SigLIP: 0).
        tokens: positions that one image takes in a sequence.
    """

    path: Path
    config: Any
    class_tokens: int
    tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def drops_class_token(self) -> bool:
        """Whether an image takes fewer positions than the tower has."""
        return self.tokens < (self.config.image_size // self.config.patch_size) ** 2 + self.class_tokens


def load_config(path: Path) -> Any:
    """Read the configuration in a model's folder.

    Raises:
        CheckpointError: there is none, or none that transformers knows.
    """
    from transformers import AutoConfig

    check_folder(path)
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # of values that are not as the library expects them, it raises whatever comes
        raise CheckpointError(f"{path}: no configuration that transformers knows: {error}", CHECKPOINT_AGAIN) from error


def read_tower(path: Path, select: str) -> Tower:
    """Read what the folder of a CLIP or SigLIP tower says, without its weights.

    Args:
        select: "patch" drops the class token, "full" keeps every position.

    Raises:
        CheckpointError: another kind of tower, or a class token is to be dropped that the tower does not have.
    """
    config = load_config(path)
    kind = config.model_type
    config = config.vision_config if kind in TOWERS else config
    kind = TOWERS.get(kind, kind)
    if kind not in TOWERS.values():
        raise CheckpointError(f"{path}: {kind} is no known vision tower", "name a CLIP or SigLIP model in the row")
    clip = kind == TOWERS["clip"]
    if select == "patch" and not clip:
        raise CheckpointError(
            "vision_feature_select `patch` drops a class token, and SigLIP has none", "set it to `full` in the row"
        )
    patches = (config.image_size // config.patch_size) ** 2
    tokens = patches + (int(clip) if select == "full" else 0)
    file = path / "preprocessor_config.json"
    pixels = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    mean = tuple(pixels.get("image_mean", CLIP_MEAN if clip else SIGLIP_MEAN))
    std = tuple(pixels.get("image_std", CLIP_STD if clip else SIGLIP_STD))
    return Tower(path, config, int(clip), tokens, mean, std)


def load_pretrained(model_class: Any, path: Path, dtype: torch.dtype, **options: Any) -> Any:
    """Load the weights of a folder; .bin files go through transformers' loader, which reads tensors only.

    Raises:
        CheckpointError: they cannot be read, or some are missing: transformers would leave random ones there.
    """
    try:
        model, report = model_class.from_pretrained(
            path, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # of files that are not as the library expects them, it raises whatever comes
        if "out of memory" in str(error):
            raise  # no fault of the folder's
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: the weights cannot be read: {reason}", CHECKPOINT_AGAIN) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{path}: no weights for {missing[0]} ({len(missing)} missing)", CHECKPOINT_AGAIN)
    return model
