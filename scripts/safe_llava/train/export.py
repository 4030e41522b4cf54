"""Write what a stage learnt: the projector alone, or a checkpoint that Hugging Face's Auto classes load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from safe_llava.config.train import TrainedModel
from safe_llava.core.errors import TrainError
from safe_llava.core.files import atomic_path, read_json
from safe_llava.train.conversation import TEMPLATES
from safe_llava.train.model import PROJECTOR, Tower, merge_lora
from safe_llava.train.tokenizer import IMAGE_TOKEN

EMBEDDINGS, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def save_projector(state: dict[str, torch.Tensor], out: Path) -> None:
    """Write the projector's weights (``linear_1.weight`` …) as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    weights = {name.removeprefix(PROJECTOR): value for name, value in state.items() if name.startswith(PROJECTOR)}
    with atomic_path(out) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def with_image_row(state: dict[str, torch.Tensor], image_token_id: int) -> dict[str, torch.Tensor]:
    """Return the state dict with a row for the image token, where the vocabulary has none.

    Its embedding is replaced by the image, so any row does; its row of the head is the mean of the others:
    the mean of the logits is never the largest, so no greedy answer changes and no answer is an image.
    """
    grown = dict(state)
    for name in (EMBEDDINGS, HEAD):
        if name in state and (missing := image_token_id + 1 - len(state[name])) > 0:
            mean = state[name].float().mean(dim=0, keepdim=True).to(state[name].dtype)
            grown[name] = torch.cat([state[name], mean.expand(missing, -1)])
    return grown


def save_checkpoint(
    llava: nn.Module,
    state: dict[str, torch.Tensor],
    row: TrainedModel,
    tower: Tower,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
) -> None:
    """Write model, tokenizer and processor to the folder ``out``, beside it first and then renamed.

    Args:
        llava: the trained model, for its configuration only.
        state: whole weights by the model's names.

    Raises:
        TrainError: ``out`` exists and is no checkpoint.
    """
    if out.exists() and not (out / "config.json").is_file():
        raise TrainError(f"{out} exists and is no checkpoint", "name another folder, or remove this one")
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _whole_model(llava, state, row, tokenizer).save_pretrained(partial)
    _processor(row, tower, tokenizer).save_pretrained(partial)
    _flush(partial)
    if out.exists():
        shutil.rmtree(out)
    partial.replace(out)


def _whole_model(
    llava: Any, state: dict[str, torch.Tensor], row: TrainedModel, tokenizer: PreTrainedTokenizerFast
) -> Any:
    from transformers import GenerationConfig, LlavaForConditionalGeneration

    image_token_id = llava.config.image_token_id
    state = with_image_row(merge_lora(state, row), image_token_id)
    config = type(llava.config).from_dict(llava.config.to_dict())
    config.text_config.vocab_size = len(state[EMBEDDINGS])
    config.dtype = config.text_config.dtype = config.vision_config.dtype = state[EMBEDDINGS].dtype
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, value in tokens.items():
        setattr(config.text_config, name, value)
        setattr(config, name, value)
    with torch.device("meta"):
        whole = LlavaForConditionalGeneration(config)
    missing, unexpected = whole.load_state_dict(state, strict=False, assign=True)
    tied = {HEAD} if config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise TrainError(f"the weights do not fit the model: {missing} {unexpected}", "report this")
    whole.tie_weights()
    # Not the language model's own: one that mixes greedy search and a temperature is refused when it is saved.
    whole.generation_config = GenerationConfig(do_sample=False, **tokens)
    return whole


def _processor(row: TrainedModel, tower: Tower, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return a processor whose pixels are those of ``images.preprocess`` under the finetune geometry."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size = tower.config.image_size
    square = {"height": size, "width": size}
    resize = row.finetune.image_geometry == "resize"
    pictures = LlavaImageProcessorPil(
        do_pad=row.finetune.image_geometry == "pad",
        size=square if resize else {"shortest_edge": size},
        crop_size=square,
        do_center_crop=not resize,
        image_mean=list(tower.mean),
        image_std=list(tower.std),
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="default" if row.vision_feature_select == "patch" else "full",
        num_additional_image_tokens=tower.class_tokens,
        chat_template=TEMPLATES[row.finetune.template].chat_template,
        image_token=IMAGE_TOKEN,
    )


def _flush(folder: Path) -> None:
    """Put every file of a folder on disk, so that the rename does not outrun them."""
    read_json(folder / "config.json")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
