"""Write what a stage learnt: the projector alone, or a checkpoint that Hugging Face's Auto classes load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.folder import whole_folder
from safe_llava.checkpoints.processors import PIXELS_FILE, PROCESSOR_FILE
from safe_llava.checkpoints.templates import SHOWN, TEMPLATES
from safe_llava.checkpoints.tokenizer import IMAGE_TOKEN, is_legacy, without_beginning
from safe_llava.checkpoints.tower import PROJECTOR, Tower
from safe_llava.checkpoints.weights import check_fit, grown, public_name
from safe_llava.core.files import atomic_path, read_json, write_json

EMBEDDINGS, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def save_projector(state: dict[str, torch.Tensor], out: Path) -> None:
    """Write the projector's weights (``linear_1.weight`` …) as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    weights = {name.removeprefix(PROJECTOR): value for name, value in state.items() if name.startswith(PROJECTOR)}
    with atomic_path(out) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


@dataclass(frozen=True)
class Form:
    """How a checkpoint is asked, which its weights do not say.

    Attributes:
        template: name of the conversation template.
        image_geometry: how an image becomes a square: "pad", "crop" or "resize".
    """

    template: str
    image_geometry: str


def write_checkpoint(
    config: Any,
    state: dict[str, torch.Tensor],
    form: Form,
    tower: Tower,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
) -> None:
    """Write model, tokenizer and processor to the folder ``out``, beside it first and then renamed.

    Args:
        config: a ``LlavaConfig``; what the weights and the tokenizer say is set anew in a copy of it.
        state: weights by the names of ``LlavaForConditionalGeneration``.

    Raises:
        CheckpointError: ``out`` exists and is no checkpoint, the weights do not fit, or the disk does not take them.
    """
    with whole_folder(out) as partial:
        _save_model(config, state, form, tokenizer, partial)
        _processor(form, config, tower, tokenizer).save_pretrained(partial)
        _write_for_transformers_4(partial)


def _save_model(
    config: Any, state: dict[str, torch.Tensor], form: Form, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    from transformers import GenerationConfig, LlavaForConditionalGeneration

    config = type(config).from_dict(config.to_dict())
    # The softmax of the training runs over these words; rows behind them are the image token's.
    config.trained_vocab_size = len(state[EMBEDDINGS])
    # The image token's embedding is replaced by the image, and the mean of the logits is never the largest: no greedy
    # answer changes, and none is an image.
    rows = {name: grown(state[name], config.image_token_id + 1) for name in (EMBEDDINGS, HEAD) if name in state}
    weights = {public_name(name): value for name, value in (state | rows).items()}
    config.text_config.vocab_size = len(rows[EMBEDDINGS])
    config.dtype = config.text_config.dtype = config.vision_config.dtype = state[EMBEDDINGS].dtype
    for part in (config, config.text_config, config.vision_config):
        part._name_or_path = ""  # where the weights lay on this machine
    config.architectures = [LlavaForConditionalGeneration.__name__]
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, value in tokens.items():
        setattr(config.text_config, name, value)
        setattr(config, name, value)
    tied = {public_name(HEAD)} if config.tie_word_embeddings else set()
    shapes = {name: tuple(value.shape) for name, value in weights.items() if name not in tied}
    check_fit(LlavaForConditionalGeneration, config, shapes)
    config.save_pretrained(folder)
    # Not the language model's own: one that mixes greedy search and a temperature is refused when it is saved.
    GenerationConfig(do_sample=False, **{**tokens, "eos_token_id": _ends(form, tokenizer)}).save_pretrained(folder)
    save_torch_state_dict(weights, folder)


def _write_for_transformers_4(folder: Path) -> None:
    """Say what transformers 5 writes in the words of transformers 4 as well, which would lose it or not load."""
    config = read_json(folder / "config.json")
    for part in (config, config["text_config"], config["vision_config"]):
        part["torch_dtype"] = part.get("dtype")
    rope = dict(config["text_config"].get("rope_parameters") or {})
    config["text_config"]["rope_theta"] = rope.pop("rope_theta", 10000.0)
    config["text_config"]["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    write_json(folder / "config.json", config)
    settings = read_json(folder / "tokenizer_config.json")
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["model_input_names"] = ["input_ids", "attention_mask"]  # LLaVA takes no token types
    write_json(folder / "tokenizer_config.json", settings)
    processor = read_json(folder / PROCESSOR_FILE)
    write_json(folder / PIXELS_FILE, processor.pop("image_processor") | {"processor_class": "LlavaProcessor"})
    write_json(folder / PROCESSOR_FILE, processor)


def _ends(form: Form, tokenizer: PreTrainedTokenizerFast) -> int | list[int] | None:
    """Return the token that ends a labelled answer, and the tokenizer's own end where that is another (Qwen2's is)."""
    turn_end = tokenizer.get_vocab().get(TEMPLATES[form.template].gpt_end)
    ends = list(dict.fromkeys(token for token in (turn_end, tokenizer.eos_token_id) if token is not None))
    return ends[0] if len(ends) == 1 else ends or None


def _processor(form: Form, config: Any, tower: Tower, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return a processor whose pixels are those of ``images.preprocess``, and whose prompts begin as in training."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size = tower.config.image_size
    square = {"height": size, "width": size}
    resize = form.image_geometry == "resize"
    images = LlavaImageProcessorPil(
        do_pad=form.image_geometry == "pad",
        size=square if resize else {"shortest_edge": size},
        crop_size=square,
        do_center_crop=not resize,
        image_mean=list(tower.mean),
        image_std=list(tower.std),
    )
    template = TEMPLATES[form.template].chat_template
    # In training every part between images is a text of its own, and begins with SentencePiece's dummy space. Where the
    # tokenizer puts none behind a special token, the template writes it.
    space = "" if is_legacy(tokenizer) else " "
    if space:
        template = template.replace(SHOWN, f"{SHOWN} | replace('{IMAGE_TOKEN}', '{IMAGE_TOKEN}{space}')")
    if begins := tokenizer("").input_ids:
        template = f"{{{{- '{tokenizer.convert_ids_to_tokens(begins)[0]}{space}' -}}}}{template}"
    return LlavaProcessor(
        image_processor=images,
        tokenizer=without_beginning(tokenizer),
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=tower.class_tokens,
        chat_template=template,
        image_token=IMAGE_TOKEN,
    )
