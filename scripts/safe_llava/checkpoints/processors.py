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

from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError, SafeLlavaError
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

    Raises:
        CheckpointError: it does not load, or lacks what every question needs.
    """
    try:
        return _load(model_dir, **options)
    except SafeLlavaError:
        raise
    except Exception as error:  # of a file that is not as the library expects it, it raises whatever comes
        raise CheckpointError(
            f"{model_dir}: its processor does not load: {type(error).__name__}: {error}",
            f"compare {PROCESSOR_FILE}, {PIXELS_FILE}, tokenizer_config.json and the chat template with those of the "
            "model it was made from, or fetch it again",
        ) from error


def _load(model_dir: Path, **options: Any) -> Any:
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
    processor.chat_template = _chat_template(processor, model_dir)
    _complete(processor, model_dir)
    return processor


def _chat_template(processor: Any, model_dir: Path) -> str | None:
    """Return the chat template wherever exporters put it: the processor's, or the tokenizer's, whole or by name.

    Raises:
        CheckpointError: there are several, and none is the default.
    """
    named: set[str] = set()
    for owner in (processor, getattr(processor, "tokenizer", None)):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, list):
            template = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        if isinstance(template, dict):
            named |= template.keys()
            template = next(iter(template.values())) if len(template) == 1 else template.get("default")
        if isinstance(template, str) and template.strip():
            return template.removeprefix("\ufeff")
    if named:
        raise CheckpointError(
            f"{model_dir}: chat templates by the names {', '.join(sorted(named))}, and none is `default`",
            "name the one that the model is asked with `default`, or write it to chat_template.jinja in that folder",
        )
    return None


def _complete(processor: Any, model_dir: Path) -> None:
    """Take from ``config.json`` what a processor needs of the model and its own file does not say.

    Raises:
        CheckpointError: neither says it, or they differ: every question would fail.
    """
    config = read_json(model_dir / "config.json", CHECKPOINT_AGAIN)
    file = model_dir / PROCESSOR_FILE
    said = read_json(file, CHECKPOINT_AGAIN) if file.is_file() else {}
    for key, value in _of_the_model(config).items():
        if not hasattr(processor, key):
            continue
        if said.get(key) is None:
            if value is None and getattr(processor, key) is None:
                raise CheckpointError(
                    f"{model_dir}: neither {PROCESSOR_FILE} nor config.json says `{key}`",
                    f"add `{key}` to {PROCESSOR_FILE}, as the model was trained",
                )
            setattr(processor, key, getattr(processor, key) if value is None else value)
        elif key == "patch_size" and value not in (None, said[key]):
            raise CheckpointError(
                f"{file}: `{key}` is {said[key]}, and {value} in config.json: every question would fail",
                f"correct `{key}` in {PROCESSOR_FILE}",
            )


def _of_the_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what processors know of their model, by their own names for it; None where it does not say."""
    vision = config.get("vision_config") or {}
    size, patch = vision.get("image_size"), vision.get("patch_size")
    class_tokens = int(str(vision.get("model_type", "clip_vision_model")).startswith("clip"))  # SigLIP has none
    tiles = config.get("model_type") == "llava_onevision"
    squares = (
        (size // patch) ** 2 + class_tokens if isinstance(size, int) and isinstance(patch, int) and patch else None
    )
    return {
        "patch_size": patch,
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "full" if tiles else "default"),
        "num_additional_image_tokens": class_tokens,
        "num_image_tokens": squares,
        "vision_aspect_ratio": config.get("vision_aspect_ratio"),
        "image_seq_length": config.get("mm_tokens_per_image") or config.get("image_seq_length"),
    }


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
