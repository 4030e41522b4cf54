"""Write what a stage learnt: the projector alone, or a checkpoint that Hugging Face's Auto classes load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.tokenizer import IMAGE_TOKEN, without_beginning
from safe_llava.config.train import TrainedModel
from safe_llava.core.errors import TrainError
from safe_llava.core.files import atomic_path, read_json
from safe_llava.train.model.build import PROJECTOR, Tower, merge_lora
from safe_llava.train.samples.conversation import TEMPLATES

PUBLIC_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}
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


@dataclass(frozen=True)
class Form:
    """How a checkpoint is asked, which its weights do not say.

    Attributes:
        template: name of the conversation template.
        image_geometry: how a picture becomes a square: "pad", "crop" or "resize".
    """

    template: str
    image_geometry: str


def save_checkpoint(
    llava: nn.Module,
    state: dict[str, torch.Tensor],
    row: TrainedModel,
    tower: Tower,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
) -> None:
    """Write a trained model as ``write_checkpoint`` does, its adapters merged.

    Args:
        llava: the trained model, for its configuration only.
        state: whole weights by the model's names.
    """
    form = Form(row.finetune.template, row.finetune.image_geometry)
    write_checkpoint(llava.config, merge_lora(state, row), form, tower, tokenizer, out)


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
        TrainError: ``out`` exists and is no checkpoint, the weights do not fit, or the disk does not take them.
    """
    with whole_folder(out) as partial:
        _save_model(config, state, form, tokenizer, partial)
        _processor(form, config, tower, tokenizer).save_pretrained(partial)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` for a checkpoint, and rename it into place when the block succeeds.

    Raises:
        TrainError: ``out`` exists and is no checkpoint, or the disk does not take it.
    """
    if out.exists() and not (out / "config.json").is_file():
        raise TrainError(f"{out} exists and is no checkpoint", "name another folder, or remove this one")
    partial = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        remedy = "free space, then run the same command again; a training goes on from its last checkpoint"
        raise TrainError(f"{out}: the checkpoint cannot be written: {error}", remedy) from error


def _save_model(
    config: Any, state: dict[str, torch.Tensor], form: Form, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    from transformers import GenerationConfig, LlavaForConditionalGeneration

    config = type(config).from_dict(config.to_dict())
    # The softmax of the training runs over these words; rows behind them are the image token's.
    config.trained_vocab_size = len(state[EMBEDDINGS])
    state = with_image_row(state, config.image_token_id)
    config.text_config.vocab_size = len(state[EMBEDDINGS])
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
    _check_fit(config, state)
    config.save_pretrained(folder)
    # Not the language model's own: one that mixes greedy search and a temperature is refused when it is saved.
    GenerationConfig(do_sample=False, **{**tokens, "eos_token_id": _ends(form, tokenizer)}).save_pretrained(folder)
    save_torch_state_dict({_public_name(name): value for name, value in state.items()}, folder)


def _ends(form: Form, tokenizer: PreTrainedTokenizerFast) -> int | list[int] | None:
    """Return the token that ends a taught answer, and the tokenizer's own end where that is another (Qwen2's is)."""
    taught = tokenizer.get_vocab().get(TEMPLATES[form.template].gpt_end)
    ends = list(dict.fromkeys(token for token in (taught, tokenizer.eos_token_id) if token is not None))
    return ends[0] if len(ends) == 1 else ends or None


def _check_fit(config: Any, state: dict[str, torch.Tensor]) -> None:
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        expected = {name: value.shape for name, value in LlavaForConditionalGeneration(config).named_parameters()}
    if config.tie_word_embeddings:
        expected |= {HEAD: state[HEAD].shape} if HEAD in state else {}
    found = {name: value.shape for name, value in state.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise TrainError(
            f"the weights do not fit the model: {wrong[0]} is {found.get(wrong[0], 'absent')}, not "
            f"{expected.get(wrong[0], 'known')} ({len(wrong)} differ)",
            "give the language model and the tower that the weights were trained with",
        )


def _public_name(name: str) -> str:
    """Return a parameter's name in published LLaVA checkpoints: what every version of transformers and vLLM reads."""
    for ours, public in PUBLIC_NAMES.items():
        if name.startswith(ours):
            return public + name.removeprefix(ours)
    return name


def _processor(form: Form, config: Any, tower: Tower, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return a processor whose pixels are those of ``images.preprocess``, and whose prompts begin as in training."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size = tower.config.image_size
    square = {"height": size, "width": size}
    resize = form.image_geometry == "resize"
    pictures = LlavaImageProcessorPil(
        do_pad=form.image_geometry == "pad",
        size=square if resize else {"shortest_edge": size},
        crop_size=square,
        do_center_crop=not resize,
        image_mean=list(tower.mean),
        image_std=list(tower.std),
    )
    template = TEMPLATES[form.template].chat_template
    if begins := tokenizer("").input_ids:
        template = f"{{{{- '{tokenizer.convert_ids_to_tokens(begins)[0]}' -}}}}{template}"
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=without_beginning(tokenizer),
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=tower.class_tokens,
        chat_template=template,
        image_token=IMAGE_TOKEN,
    )


def _flush(folder: Path) -> None:
    """Put every file of a folder on disk, so that the rename does not outrun them."""
    read_json(folder / "config.json")
    for file in folder.rglob("*"):
        if file.is_dir():
            continue
        file.chmod(0o644)  # safetensors writes files that only their owner can read
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
