"""Load a checkpoint's processor for images and text, with the same pixels on every machine.

transformers' processors of some families also want a video processor, which needs torchvision, and with torchvision
there they resize images with it. Nothing here shows videos to a model, and the published answers were made from
images that Pillow resized: so videos are left out, and Pillow it is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import read_json, write_json

VIDEO = "video_processor"
VIDEO_FILE = "video_preprocessor_config.json"
PROCESSOR_FILE, PIXELS_FILE = "processor_config.json", "preprocessor_config.json"


def read_pixels(folder: Path) -> dict[str, Any]:
    """Return how a checkpoint's images become pixels: of its processor's file, or of the image processor's own."""
    file = folder / PROCESSOR_FILE
    nested = read_json(file, CHECKPOINT_AGAIN).get("image_processor") if file.is_file() else None
    return dict(nested or read_json(folder / PIXELS_FILE, CHECKPOINT_AGAIN))


def load_processor(model_dir: Path, **options: Any) -> Any:
    """Return the processor in a checkpoint's folder.

    Args:
        options: passed to ``from_pretrained``; ``trust_remote_code`` leaves the choice of class to the checkpoint.
    """
    from transformers import AutoProcessor

    # By its module: the package itself offers it only where torchvision is.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from safe_llava.checkpoints.families import model_type

    if options.get("trust_remote_code"):
        return AutoProcessor.from_pretrained(model_dir, **options)
    processor_class = processor_class_of(model_type(model_dir))
    if processor_class is None:
        processor = AutoProcessor.from_pretrained(model_dir, **options)
    else:
        processor = processor_class.from_pretrained(model_dir, **options)
        processor.image_processor = AutoImageProcessor.from_pretrained(model_dir, backend="pil", **options)
    processor.chat_template = _chat_template(processor)
    _complete(processor, model_dir)
    return processor


def _chat_template(processor: Any) -> Any:
    """Return the chat template wherever exporters put it: the processor's, or the tokenizer's, whole or by name."""
    tokenizer = getattr(processor, "tokenizer", None)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return template.get("default") or next(iter(template.values()), None)
    return template


def _complete(processor: Any, model_dir: Path) -> None:
    """Take from ``config.json`` what a LLaVA processor needs and its own file does not say.

    Raises:
        CheckpointError: neither says it; every question would fail.
    """
    if not hasattr(processor, "patch_size"):
        return
    config = read_json(model_dir / "config.json", CHECKPOINT_AGAIN)
    vision = config.get("vision_config") or {}
    clip = str(vision.get("model_type", "clip_vision_model")).startswith("clip")
    known = {
        "patch_size": vision.get("patch_size"),
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
    }
    for key, value in known.items():
        if getattr(processor, key, value) is None:
            if value is None:
                raise CheckpointError(
                    f"{model_dir}: neither {PROCESSOR_FILE} nor config.json says `{key}`",
                    f"add `{key}` to {PROCESSOR_FILE}, as the model was trained",
                )
            setattr(processor, key, value)
    file = model_dir / PROCESSOR_FILE
    said = read_json(file, CHECKPOINT_AGAIN) if file.is_file() else {}
    if "num_additional_image_tokens" not in said and hasattr(processor, "num_additional_image_tokens"):
        processor.num_additional_image_tokens = int(clip)  # CLIP's class token; SigLIP has none


def write_video_settings(folder: Path, processor_type: str, pixels: Mapping[str, Any]) -> None:
    """Write a video processor's settings, without which others (vLLM) do not load the processor of a checkpoint.

    Args:
        processor_type: its class.
        pixels: ``size``, ``image_mean`` and ``image_std`` of the images: a video's frames have the same.
    """
    write_json(folder / VIDEO_FILE, {"video_processor_type": processor_type, **pixels})


@functools.cache
def processor_class_of(model_type: str) -> Any:
    """Return the processor class of a type of model, without its video processor; None where it has no class."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        return None
    whole: Any = getattr(transformers, name)
    attributes = [attribute for attribute in whole.get_attributes() if attribute != VIDEO]
    if attributes == whole.get_attributes():
        return whole
    # The library asks the class what it is made of, and takes no `None` for a part.
    return type(name, (whole,), {"get_attributes": classmethod(lambda cls: list(attributes))})
