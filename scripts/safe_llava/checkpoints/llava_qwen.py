"""Checkpoints of LLaVA-NeXT's code (``llava_qwen``: SigLIP and Qwen2) as the Hugging Face class that computes the same.

What the original does with one image (llava/mm_utils.py, model/llava_arch.py and multimodal_encoder/siglip_encoder.py
of LLaVA-VL/LLaVA-NeXT), and what follows from it:

- SigLIP's last layer is dropped and the output of the one before is taken, before the last norm:
  26 of 27 layers and ``vision_feature_layer=-1``;
- ``anyres`` and ``anyres_max_N`` with ``spatial_unpad``: a whole view and tiles of the best grid, unpadded, shrunk
  beyond N tiles, ``image_newline`` behind each row: LLaVA-OneVision's class;
- ``pad`` or no treatment with ``flat``: one square, squeezed or padded: LLaVA's class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_llava.checkpoints.processors import processor_class_of, write_video_settings
from safe_llava.checkpoints.templates import KNOWN
from safe_llava.checkpoints.tokenizer import IMAGE_TOKEN, TURN_END, read_qwen_tokenizer
from safe_llava.checkpoints.weights import WeightsWriter, check_fit, grown, read_tensors
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import read_json

VIDEO = "<video>"
TOWER = "model.vision_tower.vision_tower."
PROJECTOR = {"model.mm_projector.0.": "linear_1.", "model.mm_projector.2.": "linear_2."}
EMBEDDINGS, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
# The tower that LLaVA-NeXT's code builds for every name with "siglip" in it, whatever the checkpoint says.
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # how SigLIP's pixels are normalised


@dataclass(frozen=True)
class ImageHandling:
    """How the original treats an image.

    Attributes:
        tiles: a whole view and tiles; else one square.
        pad: a square is padded; else squeezed.
        most: tiles beyond which features are shrunk.
        grid: sizes ``[height, width]`` that tiles may fill, in the original's order.
    """

    tiles: bool
    pad: bool = False
    most: int = 0
    grid: tuple[tuple[int, int], ...] = ()


def read_image_handling(values: Mapping[str, Any], size: int, where: Path) -> ImageHandling:
    """Read how images are treated from a ``config.json``.

    Args:
        values: what is in it.
        size: side of a tile, in pixels.

    Raises:
        CheckpointError: no class here computes that.
    """
    ratio = values.get("image_aspect_ratio") or "square"
    merge = values.get("mm_patch_merge_type") or "flat"
    if ratio.startswith("anyres") and merge == "spatial_unpad":
        grid = _grid(values.get("image_grid_pinpoints"), size, where)
        most = max(height * width for height, width in grid) // size**2
        if found := re.fullmatch(r"anyres_max_(\d+)", ratio):
            return ImageHandling(tiles=True, most=int(found[1]), grid=grid)
        if ratio == "anyres":
            return ImageHandling(tiles=True, most=most, grid=grid)  # so many tiles that nothing is ever shrunk
    if ratio in ("pad", "square") and merge in ("flat", "spatial"):
        return ImageHandling(tiles=False, pad=ratio == "pad")
    raise CheckpointError(
        f"{where}: image_aspect_ratio `{ratio}` with mm_patch_merge_type `{merge}`: no class computes that",
        "known are anyres and anyres_max_N with spatial_unpad, and pad or square with flat or spatial",
    )


def _grid(pinpoints: Any, size: int, where: Path) -> tuple[tuple[int, int], ...]:
    if isinstance(pinpoints, str) and "x" in pinpoints:
        ends = [(int(width), int(height)) for width, height in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        if len(ends) >= 2:
            (first_w, first_h), (last_w, last_h) = ends[0], ends[-1]
            widths, heights = range(first_w, last_w + 1), range(first_h, last_h + 1)
            return tuple((height * size, width * size) for width in widths for height in heights)
    elif isinstance(pinpoints, list) and pinpoints:
        return tuple((int(height), int(width)) for width, height in pinpoints)
    raise CheckpointError(f"{where}: image_grid_pinpoints {pinpoints!r} is no list of sizes", CHECKPOINT_AGAIN)


def convert(source: Path, folder: Path, vision_tower: Path | None) -> None:
    """Write a checkpoint of LLaVA-NeXT's code to ``folder``, which exists, in Hugging Face's format.

    Args:
        vision_tower: the tower's own checkpoint: for its geometry, and for its weights where ``source`` has none.

    Raises:
        CheckpointError: the checkpoint is of another kind, or incomplete.
    """
    values = _read_config(source)
    vision = _vision_config(values, vision_tower, source)
    images = read_image_handling(values, vision.image_size, source / "config.json")
    tokenizer = read_qwen_tokenizer(source)
    tokenizer.add_tokens([IMAGE_TOKEN, VIDEO], special_tokens=True)
    image_id = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    rows = int(tokenizer.convert_tokens_to_ids(VIDEO)) + 1

    writer = WeightsWriter(folder)
    dtype = _write_weights(source, vision_tower, vision, rows, bool(values.get("tie_word_embeddings")), writer)
    config = _config(values, vision, images, image_id, writer.shapes[EMBEDDINGS][0], dtype)
    model_class = _model_class(images)
    check_fit(model_class, config, writer.shapes)
    writer.close()
    config.architectures = [model_class.__name__]
    config.save_pretrained(folder)
    _ends(tokenizer).save_pretrained(folder)
    _processor(images, vision, tokenizer).save_pretrained(folder)
    if images.tiles:
        square = {"height": vision.image_size, "width": vision.image_size}
        write_video_settings(folder, "LlavaOnevisionVideoProcessor", {"size": square, **HALF})


def _read_config(source: Path) -> dict[str, Any]:
    values = dict(read_json(source / "config.json", CHECKPOINT_AGAIN))
    where = source / "config.json"
    if values.get("mm_projector_type") != "mlp2x_gelu":
        raise CheckpointError(
            f"{where}: mm_projector_type `{values.get('mm_projector_type')}` is not mlp2x_gelu", CHECKPOINT_AGAIN
        )
    if "siglip" not in str(values.get("mm_vision_tower", "")).lower():
        raise CheckpointError(
            f"{where}: mm_vision_tower `{values.get('mm_vision_tower')}` is no SigLIP",
            "python -m safe_llava.train.convert reads LLaVA-1.5's checkpoints",
        )
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if values.get(key):
            raise CheckpointError(f"{where}: {key} is set, which no published checkpoint uses", CHECKPOINT_AGAIN)
    return values


def _vision_config(values: Mapping[str, Any], tower: Path | None, source: Path) -> Any:
    from transformers import SiglipVisionConfig

    geometry: dict[str, Any] = dict(SO400M)
    if tower is not None:
        own = read_json(tower / "config.json", CHECKPOINT_AGAIN)
        own = own.get("vision_config", own)
        # A hub configuration leaves out what is the class's default.
        geometry = {key: own.get(key, getattr(SiglipVisionConfig(), key)) for key in geometry}
    elif "so400m-patch14-384" not in str(values["mm_vision_tower"]):
        raise CheckpointError(
            f"{source}/config.json: the geometry of `{values['mm_vision_tower']}` is not known here",
            "name the folder of that tower's checkpoint with --vision-tower",
        )
    geometry["num_hidden_layers"] -= 1
    return SiglipVisionConfig(**geometry, vision_use_head=False)


def _write_weights(
    source: Path, tower: Path | None, vision: Any, rows: int, tied: bool, writer: WeightsWriter
) -> torch.dtype:
    """Write every weight under its published name; return the precision of the language model."""
    dtype, seen_tower = None, False
    for name, tensor in read_tensors(source):
        public = _public(name, vision.num_hidden_layers, tied)
        seen_tower |= name.startswith(TOWER)
        if public in (EMBEDDINGS, HEAD):
            dtype, tensor = tensor.dtype, grown(tensor, rows)
        if public is not None:
            writer.add(public, tensor)
    if dtype is None:
        raise CheckpointError(f"{source}: no model.embed_tokens.weight in it", CHECKPOINT_AGAIN)
    if not seen_tower:
        for name, tensor in _tower_weights(source, tower):
            public = _public(TOWER + name, vision.num_hidden_layers, tied)
            if public is not None:
                writer.add(public, tensor.to(dtype))
    return dtype


def _tower_weights(source: Path, tower: Path | None) -> Iterator[tuple[str, torch.Tensor]]:
    if tower is None:
        raise CheckpointError(
            f"{source}: the weights of its vision tower are not in it",
            "fetch siglip-so400m-patch14-384 and name its folder with --vision-tower",
        )
    return ((name, tensor) for name, tensor in read_tensors(tower) if name.startswith("vision_model."))


def _public(name: str, layers: int, tied: bool) -> str | None:
    """Return a weight's published name, or None for what the original does not use.

    Raises:
        CheckpointError: nobody here knows the weight.
    """
    if name.startswith(TOWER):
        inner = name.removeprefix(TOWER)
        layer = re.match(r"vision_model\.encoder\.layers\.(\d+)\.", inner)
        unused = inner.startswith("vision_model.head.") or inner.endswith("position_ids")
        return None if unused or (layer and int(layer[1]) >= layers) else f"vision_tower.{inner}"
    for theirs, public in PROJECTOR.items():
        if name.startswith(theirs):
            return f"multi_modal_projector.{public}{name.removeprefix(theirs)}"
    if name == "model.image_newline":
        return "image_newline"
    if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and tied):
        return None
    if re.match(r"model\.(embed_tokens|layers|norm)\.|lm_head\.", name):
        return f"language_model.{name}"
    raise CheckpointError(
        f"a weight of the checkpoint is not known: {name}", "convert checkpoints of SigLIP and Qwen2 only"
    )


def _text_config(values: Mapping[str, Any], rows: int, dtype: torch.dtype) -> Any:
    from transformers import Qwen2Config

    known = Qwen2Config().to_dict().keys() | {"rope_theta", "rope_scaling"}
    apart = {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "vocab_size"}
    own = {key: value for key, value in values.items() if key in known - apart}
    return Qwen2Config(**own, vocab_size=rows, dtype=dtype)


def _config(
    values: Mapping[str, Any], vision: Any, images: ImageHandling, image_id: int, rows: int, dtype: torch.dtype
) -> Any:
    from transformers import LlavaConfig, LlavaOnevisionConfig

    common = {
        "vision_config": vision,
        "text_config": _text_config(values, rows, dtype),
        "image_token_index": image_id,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": bool(values.get("tie_word_embeddings")),
        "dtype": dtype,
    }
    if not images.tiles:
        return LlavaConfig(**common, image_seq_length=(vision.image_size // vision.patch_size) ** 2)
    return LlavaOnevisionConfig(
        **common,
        video_token_index=image_id + 1,
        image_grid_pinpoints=[list(size) for size in images.grid],
        vision_aspect_ratio=f"anyres_max_{images.most}",
    )


def _model_class(images: ImageHandling) -> Any:
    from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration

    return LlavaOnevisionForConditionalGeneration if images.tiles else LlavaForConditionalGeneration


def _ends(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    turn_end, text_end = tokenizer.convert_tokens_to_ids(TURN_END), tokenizer.eos_token_id
    return GenerationConfig(
        do_sample=False,
        eos_token_id=list(dict.fromkeys([turn_end, text_end])),
        pad_token_id=tokenizer.pad_token_id,
    )


def _processor(images: ImageHandling, vision: Any, tokenizer: Any) -> Any:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    side = vision.image_size
    square = {"height": side, "width": side}
    common = {"tokenizer": tokenizer, "vision_feature_select_strategy": "full", "chat_template": KNOWN["qwen_1_5"]}
    if images.tiles:
        grid = [list(size) for size in images.grid]
        return processor_class_of("llava_onevision")(
            image_processor=LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=grid, **HALF),
            num_image_tokens=(side // vision.patch_size) ** 2,
            vision_aspect_ratio=f"anyres_max_{images.most}",
            **common,
        )
    return processor_class_of("llava")(
        image_processor=LlavaImageProcessorPil(
            size=square, crop_size=square, do_center_crop=False, do_pad=images.pad, **HALF
        ),
        patch_size=vision.patch_size,
        num_additional_image_tokens=0,
        image_token=IMAGE_TOKEN,
        **common,
    )
