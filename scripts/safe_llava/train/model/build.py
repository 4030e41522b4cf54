"""Build the model that a stage trains: a language model, a frozen vision tower and a projector between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safe_llava.checkpoints.tower import PROJECTOR, Tower, load_config, load_pretrained
from safe_llava.config.train import Stage, TrainedModel
from safe_llava.core.errors import CHECKPOINT_AGAIN, TrainError
from safe_llava.core.imports import light_transformers

LANGUAGE_MODEL_WEIGHTS = ("model.language_model.", "lm_head.")


def build_model(
    row: TrainedModel,
    language_model: Path,
    tower: Tower,
    projector: Path | None,
    image_token_id: int,
    device: torch.device | str = "cpu",
    words: bool = True,
) -> nn.Module:
    """Return a ``LlavaForConditionalGeneration`` with all its weights on a device, read straight to there.

    The vocabulary is the language model's own; ``image_token_id`` may lie behind it (see ``LossModel``).

    Args:
        projector: weights that ``save_projector`` wrote; None makes new ones from the row's seed, with
            torch's default of a linear layer as in the original.
        words: whether the language model's weights are read; otherwise a checkpoint is to fill what memory holds.

    Raises:
        TrainError: a folder lacks weights, or the projector does not fit.
    """
    light_transformers()
    from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one a process and a part; the training has its own

    dtype = torch.bfloat16 if row.precision == "bf16" else torch.float32
    config = _llava_config(row, load_config(language_model), tower, image_token_id)
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    # Without it a process would hold all weights in the CPU's memory first: eight of them, eight times.
    there = {"device_map": {"": str(device)}} if str(device) != "cpu" else {}
    if words:
        language = load_pretrained(AutoModelForCausalLM, language_model, dtype, **there)
    else:
        language = _unread(config.text_config, dtype, device)
    llava.model.language_model, llava.lm_head = language.model, language.lm_head
    llava.model.vision_tower = load_pretrained(
        type(llava.model.vision_tower), tower.path, dtype, config=tower.config, **there
    )
    llava.model.multi_modal_projector = _new_projector(config, row).to(device, dtype)
    if projector is not None:
        _load_projector(llava.model.multi_modal_projector, projector)
    if meta := [name for name, value in llava.named_parameters() if value.is_meta]:
        raise TrainError(f"{language_model}, {tower.path}: no weights for {meta[0]}", CHECKPOINT_AGAIN)
    return llava


def _llava_config(row: TrainedModel, text: Any, tower: Tower, image_token_id: int) -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=tower.tokens,
        projector_hidden_act="gelu" if row.projector == "mlp2x_gelu" else "linear",
        vision_feature_layer=row.vision_feature_layer,
        vision_feature_select_strategy="default" if row.vision_feature_select == "patch" else "full",
        tie_word_embeddings=text.tie_word_embeddings,
    )


def _unread(config: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Return a language model whose weights are whatever was in memory; its buffers are right."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device(device), no_init_weights():
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _new_projector(config: Any, row: TrainedModel) -> nn.Module:
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(row.seed)
        projector = LlavaMultiModalProjector(config)
    if row.projector == "linear":
        # Hugging Face's class has two layers: the second stays the identity.
        with torch.no_grad():
            nn.init.eye_(projector.linear_2.weight)
            nn.init.zeros_(projector.linear_2.bias)
    return projector


def _load_projector(projector: nn.Module, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "give the projector that the pretrain stage of this row wrote"
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{file}: the projector cannot be read: {error}", remedy) from error
    expected = {name: tuple(value.shape) for name, value in projector.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != found:
        raise TrainError(f"{file}: the projector has {found}, not {expected}", remedy)
    projector.load_state_dict(weights)


def set_trainable(llava: Any, row: TrainedModel, stage: Stage) -> None:
    """Freeze everything but what the stage trains; put LoRA adapters in where the row asks for them."""
    lora = row.lora is not None and "language_model" in stage.trainable
    prefixes: list[str] = [PROJECTOR] if "projector" in stage.trainable else []
    if "language_model" in stage.trainable and not lora:
        prefixes += LANGUAGE_MODEL_WEIGHTS
    for name, parameter in llava.named_parameters():
        identity = row.projector == "linear" and name.startswith(f"{PROJECTOR}linear_2.")
        parameter.requires_grad_(name.startswith(tuple(prefixes)) and not identity if prefixes else False)
    if lora:
        add_lora(llava, row)
    if not any(parameter.requires_grad for parameter in llava.parameters()):
        raise TrainError("the stage trains nothing", "name `projector` or `language_model` under `trainable`")
    if stage.gradient_checkpointing:
        llava.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    llava.train()
    llava.model.vision_tower.eval()


def add_lora(llava: Any, row: TrainedModel) -> None:
    """Put adapters on every linear layer of the language model, the head left out, as the original does."""
    from peft import LoraConfig, inject_adapter_in_model

    assert row.lora is not None
    language_model = llava.model.language_model
    targets = sorted(name for name, module in language_model.named_modules() if isinstance(module, nn.Linear))
    config = LoraConfig(
        r=row.lora.rank, lora_alpha=row.lora.alpha, lora_dropout=row.lora.dropout, target_modules=targets
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(row.seed)
        # Straight into the layers, without a wrapper around the model.
        inject_adapter_in_model(config, language_model)


def merge_lora(state: dict[str, torch.Tensor], row: TrainedModel) -> dict[str, torch.Tensor]:
    """Return a state dict with its adapters added to the weights they belong to, under the plain names."""
    if row.lora is None or not any(".lora_A." in name for name in state):
        return state
    merged = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        stem = plain.removesuffix(".weight")
        if (down := state.get(f"{stem}.lora_A.default.weight")) is not None:
            update = state[f"{stem}.lora_B.default.weight"].float() @ down.float()
            value = (value.float() + update * (row.lora.alpha / row.lora.rank)).to(value.dtype)
        merged[plain] = value
    return merged


def parameter_groups(model: nn.Module, row: TrainedModel, stage: Stage) -> list[dict[str, Any]]:
    """Return AdamW's groups, each with its ``peak`` learning rate: biases and norms do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _trainable(model):
        peak = stage.learning_rate
        if row.lora is not None and "language_model" in stage.trainable and PROJECTOR in name:
            peak = row.lora.projector_learning_rate
        decay = stage.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    return [
        {"params": members, "lr": peak, "peak": peak, "weight_decay": decay}
        for (peak, decay), members in groups.items()
    ]


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, value) for name, value in model.named_parameters() if value.requires_grad)
