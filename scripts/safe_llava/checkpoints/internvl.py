"""InternVL checkpoints in OpenGVLab's format (``internvl_chat``) as ``InternVLForConditionalGeneration``.

The same numbers under other names, but for two fused weights: InternLM2's ``wqkv``, where every group of query heads is
followed by its key and its value head, and the vision tower's ``qkv``, one third each. No code that comes with the
checkpoint is run: InternLM2 is Llama by another name, and its tokenizer a SentencePiece model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from safe_llava.checkpoints.processors import processor_class_of, write_video_settings
from safe_llava.checkpoints.sentencepieces import read_internlm2_tokenizer
from safe_llava.checkpoints.templates import KNOWN
from safe_llava.checkpoints.tokenizer import TURN_END, read_qwen_tokenizer
from safe_llava.checkpoints.weights import WeightsWriter, check_fit, read_tensors
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import read_json

SPECIAL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
EMBEDDINGS = "language_model.model.embed_tokens.weight"
VISION = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.": "embeddings.patch_embeddings.projection.",
}
VISION_LAYER = {
    "attn.proj.": "attention.projection_layer.",
    "attn.q_norm.": "attention.q_norm.",
    "attn.k_norm.": "attention.k_norm.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "mlp.": "mlp.",
}
PROJECTOR = {"mlp1.0.": "layer_norm.", "mlp1.1.": "linear_1.", "mlp1.3.": "linear_2."}
INTERNLM2 = {
    "model.tok_embeddings.": "model.embed_tokens.",
    "output.": "lm_head.",
    "model.norm.": "model.norm.",
}
INTERNLM2_LAYER = {
    "attention.wo.": "self_attn.o_proj.",
    "feed_forward.w1.": "mlp.gate_proj.",
    "feed_forward.w2.": "mlp.down_proj.",
    "feed_forward.w3.": "mlp.up_proj.",
    "attention_norm.": "input_layernorm.",
    "ffn_norm.": "post_attention_layernorm.",
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as the released script normalises images


def convert(source: Path, folder: Path) -> None:
    """Write an InternVL checkpoint to ``folder``, which exists, in Hugging Face's format.

    Raises:
        CheckpointError: the checkpoint is of another kind, or incomplete.
    """
    from transformers import InternVLForConditionalGeneration

    values = _read_config(source)
    llm = values["llm_config"]
    internlm2 = llm["architectures"][0] == "InternLM2ForCausalLM"
    tokenizer = read_internlm2_tokenizer(source) if internlm2 else read_qwen_tokenizer(source)
    _check_tokens(tokenizer, source)

    writer = WeightsWriter(folder)
    dtype = torch.float32
    for name, tensor in read_tensors(source):
        for public, part in _public(name, tensor, llm, internlm2):
            writer.add(public, part)
            dtype = part.dtype if public == EMBEDDINGS else dtype
    if EMBEDDINGS not in writer.shapes:
        raise CheckpointError(f"{source}: no embeddings of a language model in it", CHECKPOINT_AGAIN)
    config = _config(values, internlm2, tokenizer, writer.shapes[EMBEDDINGS][0], dtype)
    check_fit(InternVLForConditionalGeneration, config, writer.shapes, tower="vision_tower.")
    writer.close()
    config.architectures = [InternVLForConditionalGeneration.__name__]
    config.save_pretrained(folder)
    _ends(tokenizer).save_pretrained(folder)
    processor = _processor(config, values, tokenizer)
    processor.save_pretrained(folder)
    size = {"height": config.vision_config.image_size[0], "width": config.vision_config.image_size[1]}
    write_video_settings(folder, "InternVLVideoProcessor", {"size": size, "image_mean": MEAN, "image_std": STD})


def _read_config(source: Path) -> dict[str, Any]:
    where = source / "config.json"
    values = dict(read_json(where, CHECKPOINT_AGAIN))
    kinds = ("InternLM2ForCausalLM", "Qwen2ForCausalLM")
    kind = ((values.get("llm_config") or {}).get("architectures") or [None])[0]
    if kind not in kinds:
        raise CheckpointError(f"{where}: its language model is `{kind}`", f"known are {' and '.join(kinds)}")
    wanted = {"ps_version": "v2", "select_layer": -1, "pad2square": False}
    for key, value in wanted.items():
        if values.get(key, value) != value:
            raise CheckpointError(
                f"{where}: {key} is {values[key]!r}: no class of transformers computes that",
                "use InternVL2.5 or InternVL3",
            )
    return values


def _check_tokens(tokenizer: Any, source: Path) -> None:
    for name, token in SPECIAL.items():
        if token not in tokenizer.get_vocab() and name != "video_token":
            raise CheckpointError(f"{source}: its tokenizer has no {token}", CHECKPOINT_AGAIN)


def _public(
    name: str, tensor: torch.Tensor, llm: Mapping[str, Any], internlm2: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a weight of the release becomes, by published names."""
    if name.startswith("vision_model."):
        yield from _vision(name, tensor)
    elif name.startswith("mlp1."):
        yield f"multi_modal_projector.{_renamed(name, name, PROJECTOR)}", tensor
    elif name.startswith("language_model.") and not internlm2:
        if not name.endswith("rotary_emb.inv_freq"):
            yield name, tensor
    elif name.startswith("language_model."):
        yield from _internlm2(name, tensor, llm)
    else:
        raise _unknown(name)


def _vision(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    inner = name.removeprefix("vision_model.")
    layer = re.match(r"encoder\.layers\.(\d+)\.", inner)
    if layer is None:
        yield f"vision_tower.{_renamed(name, inner, VISION)}", tensor
        return
    prefix, part = f"vision_tower.encoder.layer.{layer[1]}.", inner[layer.end() :]
    if not part.startswith("attn.qkv."):
        yield prefix + _renamed(name, part, VISION_LAYER), tensor
        return
    for letter, third in zip("qkv", tensor.chunk(3), strict=True):
        yield f"{prefix}attention.{letter}_proj.{part.removeprefix('attn.qkv.')}", third


def _internlm2(name: str, tensor: torch.Tensor, llm: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    inner = name.removeprefix("language_model.")
    layer = re.match(r"model\.layers\.(\d+)\.", inner)
    if inner.endswith("rotary_emb.inv_freq"):
        return
    if layer is None:
        yield f"language_model.{_renamed(name, inner, INTERNLM2)}", tensor
        return
    part = inner[layer.end() :]
    if part.startswith("attention.wqkv."):
        end = part.removeprefix("attention.wqkv.")
        for letter, piece in split_wqkv(tensor, llm["num_attention_heads"], llm["num_key_value_heads"]).items():
            yield f"language_model.{layer[0]}self_attn.{letter}_proj.{end}", piece
    else:
        yield f"language_model.{layer[0]}{_renamed(name, part, INTERNLM2_LAYER)}", tensor


def split_wqkv(fused: torch.Tensor, heads: int, groups: int) -> dict[str, torch.Tensor]:
    """Split InternLM2's fused weight ``[(heads + 2 groups) * D, ...]`` into q, k and v.

    Args:
        heads: query heads.
        groups: key and value heads; every one serves ``heads / groups`` query heads.
    """
    each = heads // groups
    size = len(fused) // (heads + 2 * groups)
    grouped = fused.reshape(groups, each + 2, size, *fused.shape[1:])
    return {
        "q": grouped[:, :each].reshape(heads * size, *fused.shape[1:]),
        "k": grouped[:, each].reshape(groups * size, *fused.shape[1:]),
        "v": grouped[:, each + 1].reshape(groups * size, *fused.shape[1:]),
    }


def _renamed(name: str, part: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if part.startswith(theirs):
            return ours + part.removeprefix(theirs)
    raise _unknown(name)


def _unknown(name: str) -> CheckpointError:
    return CheckpointError(
        f"a weight of the checkpoint is not known: {name}", "convert checkpoints of InternVL2.5 and InternVL3 only"
    )


def _config(values: Mapping[str, Any], internlm2: bool, tokenizer: Any, rows: int, dtype: torch.dtype) -> Any:
    from transformers import InternVLConfig, LlamaConfig, Qwen2Config

    llm = values["llm_config"]
    kind: Any = LlamaConfig if internlm2 else Qwen2Config
    known = kind().to_dict().keys() | {"rope_theta", "rope_scaling"}
    apart = {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "vocab_size", "use_cache"}
    own = {key: value for key, value in llm.items() if key in known - apart and value is not None}
    if internlm2:
        own["attention_bias"] = bool(llm.get("bias", False))
    text = kind(**own, vocab_size=rows, dtype=dtype)
    vision = _vision_config(values)
    ratio = float(values.get("downsample_ratio", 0.5))
    side = vision.image_size[0] // vision.patch_size[0]
    return InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=int(tokenizer.convert_tokens_to_ids(SPECIAL["context_image_token"])),
        image_seq_length=int((side * ratio) ** 2),
        downsample_ratio=ratio,
        tie_word_embeddings=bool(llm.get("tie_word_embeddings", False)),
        dtype=dtype,
    )


def _vision_config(values: Mapping[str, Any]) -> Any:
    from transformers import InternVLVisionConfig

    theirs = values["vision_config"]
    same = (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels"),
        *("patch_size", "hidden_act", "norm_type", "layer_norm_eps"),
    )
    return InternVLVisionConfig(
        **{key: theirs[key] for key in same if key in theirs},
        image_size=values.get("force_image_size") or theirs["image_size"],
        attention_bias=bool(theirs.get("qkv_bias", True)),
        use_qk_norm=bool(theirs.get("qk_normalization", False)),
    )


def _ends(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    # The original's `chat` stops at the end of a turn, and there alone.
    return GenerationConfig(
        do_sample=False,
        eos_token_id=int(tokenizer.convert_tokens_to_ids(TURN_END)),
        pad_token_id=tokenizer.pad_token_id,
    )


def _processor(config: Any, values: Mapping[str, Any], tokenizer: Any) -> Any:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer.add_tokens([SPECIAL["video_token"]], special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special_tokens=SPECIAL)
    height, width = config.vision_config.image_size
    dynamic = bool(values.get("dynamic_image_size", True))
    images = GotOcr2ImageProcessorPil(
        size={"height": height, "width": width},
        image_mean=MEAN,
        image_std=STD,
        crop_to_patches=dynamic,
        min_patches=int(values.get("min_dynamic_patch", 1)),
        # The released script asks for up to 12 tiles of every image, and so do the published configurations.
        max_patches=int(values.get("max_dynamic_patch", 12)) if dynamic else 1,
    )
    return processor_class_of("internvl")(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_length=config.image_seq_length,
        chat_template=KNOWN["internvl2_5"],
    )
