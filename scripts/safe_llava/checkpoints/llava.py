"""The original code's files: LLaVA checkpoints and projectors, read without unpickling anything but tensors.

A checkpoint is a language model's folder whose ``config.json`` also has ``mm_*`` keys and whose weights also have
``model.mm_projector.*`` (and perhaps ``model.vision_tower.*``); the vision tower lies in a folder of its own. After
pretraining the original saves ``mm_projector.bin`` alone: a pickled state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_llava.checkpoints.export import EMBEDDINGS, HEAD, Form
from safe_llava.checkpoints.tower import PROJECTOR, Tower, load_pretrained, read_tower
from safe_llava.checkpoints.weights import PUBLIC_NAMES, read_file, read_tensors
from safe_llava.checkpoints.whole import check_folder
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import atomic_path, read_json

TEXT_TYPES = {"llava": "llama", "llava_llama": "llama", "llava_qwen": "qwen2"}
TEMPLATE_OF = {"llama": "v1", "qwen2": "qwen_1_5"}
# Projector layers of the original by kind, with their names here.
LAYERS = {"mlp2x_gelu": {"0": "linear_1", "2": "linear_2"}, "linear": {"": "linear_1"}}
THEIR_PROJECTOR, THEIR_TOWER = "model.mm_projector.", "model.vision_tower.vision_tower.vision_model."
TOWER = "model.vision_tower."


@dataclass(frozen=True)
class Original:
    """A checkpoint of the original, in the names of ``LlavaForConditionalGeneration``.

    Attributes:
        config: a ``LlavaConfig`` without the image token's id.
        state: every weight, the tower's included.
    """

    config: Any
    state: dict[str, torch.Tensor]
    form: Form
    tower: Tower


def is_original(folder: Path) -> bool:
    """Whether a folder is a checkpoint of the original."""
    config = folder / "config.json"
    return config.is_file() and "mm_projector_type" in _config(folder)


def projector_kind(state: Mapping[str, torch.Tensor]) -> str:
    """Return "linear" or "mlp2x_gelu" by the names of a projector's weights."""
    names = {name.split("mm_projector.")[-1] for name in state if "mm_projector." in name}
    for kind, layers in LAYERS.items():
        if names == {f"{layer}.{part}".lstrip(".") for layer in layers for part in ("weight", "bias")}:
            return kind
    raise CheckpointError(
        f"no projector that is known here has the weights {sorted(names)}", f"known are {', '.join(LAYERS)}"
    )


def read_projector(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a projector's weights under our names (``linear_1.weight`` …), whatever stands before theirs."""
    layers = LAYERS[projector_kind(state)]
    short = {name.split("mm_projector.")[-1]: value for name, value in state.items() if "mm_projector." in name}
    ours = {}
    for name, value in short.items():
        layer, part = name.rpartition(".")[::2]
        ours[f"{layers[layer]}.{part}"] = value
    if "linear_2.weight" not in ours:
        # Hugging Face's class has two layers: the second is the identity.
        size = len(ours["linear_1.bias"])
        ours["linear_2.weight"] = torch.eye(size, dtype=ours["linear_1.weight"].dtype)
        ours["linear_2.bias"] = torch.zeros(size, dtype=ours["linear_1.weight"].dtype)
    return ours


def original_projector(weights: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Return a projector's weights (``linear_1.weight`` …) under the original's names."""
    return {
        f"{THEIR_PROJECTOR}{layer}.{part}".replace("..", "."): weights[f"{name}.{part}"]
        for layer, name in LAYERS[kind].items()
        for part in ("weight", "bias")
    }


def write_pickle(state: dict[str, torch.Tensor], file: Path) -> None:
    """Write a state dict as the original's loader reads it, whole or not at all."""
    with atomic_path(file) as temporary:
        torch.save(state, temporary)


def read_original(folder: Path, vision_tower: Path | None = None, projector: Path | None = None) -> Original:
    """Read a checkpoint of the original.

    Args:
        vision_tower: folder of the tower; None takes what ``mm_vision_tower`` names, seen from ``folder``.
        projector: a projector's file that takes the place of the checkpoint's own.

    Raises:
        CheckpointError: a file is missing or not what it should be, or the checkpoint needs what LLaVA-1.5 has not.
    """
    check_folder(folder)
    values = _config(folder)
    kind = _check_kind(folder, values)
    # SigLIP has no class token to drop: the original's choice means nothing there.
    tower = _tower(folder, values, vision_tower)
    theirs = dict(read_tensors(folder))
    if projector is not None:
        theirs = {name: value for name, value in theirs.items() if "mm_projector." not in name}
        theirs |= {name: value for name, value in read_file(projector) if "mm_projector." in name}
    state = {f"{PROJECTOR}{name}": value for name, value in read_projector(theirs).items()}
    state |= _tower_weights(theirs, tower)
    for name, value in theirs.items():
        if "mm_projector." not in name and "vision_tower." not in name and not name.endswith("rotary_emb.inv_freq"):
            state[name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name] = value
    if EMBEDDINGS not in state:
        raise CheckpointError(f"{folder}: no model.embed_tokens.weight in it", CHECKPOINT_AGAIN)
    if values.get("tie_word_embeddings"):
        state.pop(HEAD, None)
    config = _llava_config(kind, values, tower, len(state[EMBEDDINGS]), projector_kind(theirs))
    geometry = "pad" if values.get("image_aspect_ratio") == "pad" else "crop"
    return Original(config, state, Form(TEMPLATE_OF[kind], geometry), tower)


def _config(folder: Path) -> dict[str, Any]:
    value = read_json(folder / "config.json", CHECKPOINT_AGAIN)
    return value if isinstance(value, dict) else {}


def _check_kind(folder: Path, values: dict[str, Any]) -> str:
    """Return the language model's type; refuse what the finished model could not say."""
    kind = TEXT_TYPES.get(values.get("model_type", ""))
    if kind is None or "mm_projector_type" not in values:
        known = ", ".join(TEXT_TYPES)
        raise CheckpointError(
            f"{folder}/config.json: not a LLaVA checkpoint of the original ({known})", CHECKPOINT_AGAIN
        )
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if values.get(key):
            raise CheckpointError(f"{folder}/config.json: {key} is set, which LLaVA-1.5 does not use", "use LLaVA-1.5")
    if values.get("image_aspect_ratio") not in (None, "pad", "square"):
        raise CheckpointError(
            f"{folder}/config.json: image_aspect_ratio {values['image_aspect_ratio']!r} is not of LLaVA-1.5",
            "convert checkpoints of LLaVA-1.5: one square an image",
        )
    return kind


def _tower(folder: Path, values: dict[str, Any], vision_tower: Path | None) -> Tower:
    path = vision_tower or folder / str(values.get("mm_vision_tower", ""))
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: its vision tower {values.get('mm_vision_tower')!r} is no folder here",
            "fetch that model and name its folder with --vision-tower",
        )
    check_folder(path)
    siglip = "siglip" in str(read_json(path / "config.json", CHECKPOINT_AGAIN).get("model_type"))
    full = siglip or values.get("mm_vision_select_feature", "patch") == "cls_patch"
    return read_tower(path, "full" if full else "patch")


def _tower_weights(theirs: Mapping[str, torch.Tensor], tower: Tower) -> dict[str, torch.Tensor]:
    """Return the tower's weights: those in the checkpoint, or else those of its folder."""
    own = {
        TOWER + name.removeprefix(THEIR_TOWER): value for name, value in theirs.items() if name.startswith(THEIR_TOWER)
    }
    if own:
        return {name: value for name, value in own.items() if not name.endswith("position_ids")}
    dtype = next(iter(theirs.values())).dtype
    from transformers import CLIPVisionModel, SiglipVisionModel

    model_class = CLIPVisionModel if tower.class_tokens else SiglipVisionModel
    model = load_pretrained(model_class, tower.path, dtype, config=tower.config)
    return {TOWER + name: value.detach() for name, value in model.named_parameters()}


def _llava_config(kind: str, values: dict[str, Any], tower: Tower, words: int, projector: str) -> Any:
    from transformers import AutoConfig, LlavaConfig

    known = AutoConfig.for_model(kind).to_dict().keys() | {"rope_theta", "rope_scaling"}
    apart = {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "vocab_size"}
    text = AutoConfig.for_model(
        kind, vocab_size=words, **{key: value for key, value in values.items() if key in known - apart}
    )
    return LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_seq_length=tower.tokens,
        projector_hidden_act="gelu" if projector == "mlp2x_gelu" else "linear",
        vision_feature_layer=int(values.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy="default" if tower.drops_class_token else "full",
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )


def original_weights(public: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a Hugging Face checkpoint's weights under the original's names, without the image token's rows.

    Args:
        public: weights by the names of published checkpoints, or of newer transformers.
    """
    names = {public: ours for ours, public in PUBLIC_NAMES.items()}
    words = trained_words(config)
    kind = "linear" if config.get("projector_hidden_act") == "linear" else "mlp2x_gelu"
    theirs, projector = {}, {}
    for name, value in public.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        name = names.get(prefix, "") + name.removeprefix(prefix)
        if name in (EMBEDDINGS, HEAD):
            value = value[:words].clone()
        if name.startswith(PROJECTOR):
            projector[name.removeprefix(PROJECTOR)] = value
            continue
        if name.startswith(TOWER):
            name = THEIR_TOWER + name.removeprefix(TOWER).removeprefix("vision_model.")
        theirs[name.replace("model.language_model.", "model.", 1)] = value
    return theirs | original_projector(projector, kind)


def trained_words(config: Mapping[str, Any]) -> int:
    """Return over how many words a checkpoint's softmax was trained: rows behind them came for the image token."""
    return int(config.get("trained_vocab_size") or config.get("image_token_id") or config["image_token_index"])
