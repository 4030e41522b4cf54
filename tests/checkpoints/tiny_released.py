"""Tiny random checkpoints in their publishers' formats: LLaVA-NeXT's code and OpenGVLab's, by a writer of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.tiny import CORPUS, RANGE, TEXT, TOWER, qwen_tokenizer


class Released:
    """Random weights under a publisher's names, each a given scale times standard normal.

    Args:
        seed: the same numbers for the same seed and order of names.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self.state: dict[str, torch.Tensor] = {}

    def normal(self, name: str, *shape: int, scale: float = RANGE) -> None:
        self.state[name] = torch.randn(shape, generator=self._random) * scale

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> None:
        self.normal(f"{name}.weight", rows, columns)
        if bias:
            self.normal(f"{name}.bias", rows)

    def norm(self, name: str, size: int, bias: bool = True) -> None:
        self.state[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=self._random)
        if bias:
            self.normal(f"{name}.bias", size, scale=0.1)

    def qwen2(self, prefix: str, rows: int, head: str | None) -> None:
        """A Qwen2 of ``TEXT``'s size; ``head``: name of its head, None where it is tied."""
        hidden, inner, kv = 32, 48, 16
        self.normal(f"{prefix}embed_tokens.weight", rows, hidden)
        for layer in (f"{prefix}layers.{number}." for number in range(2)):
            for name, size in (("q", hidden), ("k", kv), ("v", kv)):
                self.linear(f"{layer}self_attn.{name}_proj", size, hidden)
            self.linear(f"{layer}self_attn.o_proj", hidden, hidden, bias=False)
            self.linear(f"{layer}mlp.gate_proj", inner, hidden, bias=False)
            self.linear(f"{layer}mlp.up_proj", inner, hidden, bias=False)
            self.linear(f"{layer}mlp.down_proj", hidden, inner, bias=False)
            self.norm(f"{layer}input_layernorm", hidden, bias=False)
            self.norm(f"{layer}post_attention_layernorm", hidden, bias=False)
        self.norm(f"{prefix}norm", hidden, bias=False)
        if head:
            self.linear(head, rows, hidden, bias=False)

    def siglip(self, prefix: str, layers: int) -> None:
        size, inner = 16, 24
        self.normal(f"{prefix}embeddings.patch_embedding.weight", size, 3, 7, 7)
        self.normal(f"{prefix}embeddings.patch_embedding.bias", size)
        self.normal(f"{prefix}embeddings.position_embedding.weight", 16, size)
        for layer in (f"{prefix}encoder.layers.{number}." for number in range(layers)):
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.linear(f"{layer}self_attn.{name}", size, size)
            self.linear(f"{layer}mlp.fc1", inner, size)
            self.linear(f"{layer}mlp.fc2", size, inner)
            self.norm(f"{layer}layer_norm1", size)
            self.norm(f"{layer}layer_norm2", size)
        self.norm(f"{prefix}post_layernorm", size)

    def save(self, folder: Path, shards: int = 1) -> None:
        """Write the weights, as several files with an index where ``shards`` says so."""
        names = list(self.state)
        if shards == 1:
            save_file(self.state, folder / "model.safetensors", metadata={"format": "pt"})
            return
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = {name: self.state[name] for name in names[number::shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(part, file))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def siglip_tower(folder: Path, layers: int = 3, weights: bool = True) -> dict[str, torch.Tensor]:
    """Write a SigLIP's checkpoint as the hub has it, its text half left out of the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model_type": "siglip", "vision_config": {**TOWER, "num_hidden_layers": layers}}
    (folder / "config.json").write_text(json.dumps(values))
    released = Released(seed=5)
    released.siglip("vision_model.", layers)
    released.normal("vision_model.head.probe", 1, 1, 16)
    released.normal("text_model.embeddings.token_embedding.weight", 4, 16)
    if weights:
        released.save(folder)
    return released.state


def released_llava_qwen(folder: Path, tower: bool = True, shards: int = 2, **changes: Any) -> dict[str, torch.Tensor]:
    """Write a checkpoint as LLaVA-NeXT's code does: two of a SigLIP's three layers, Qwen2, ``mm_*`` keys.

    Args:
        tower: the vision tower's weights are in it.
        changes: keys of its ``config.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = qwen_tokenizer()
    rows = len(tokenizer) + 1  # one short of the image's token and the video's
    released = Released()
    released.qwen2("model.", rows, "lm_head")
    released.linear("model.mm_projector.0", 32, 16)
    released.linear("model.mm_projector.2", 32, 32)
    released.normal("model.image_newline", 32)
    if tower:
        released.siglip("model.vision_tower.vision_tower.vision_model.", 2)
    values = {
        **{key: value for key, value in TEXT.items() if key != "initializer_range"},
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "vocab_size": rows,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "mm_vision_tower": "google/siglip-tiny",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "anyres_max_4",
        "image_grid_pinpoints": "(1x1),...,(3x3)",
        **changes,
    }
    if "unpad" not in values["mm_patch_merge_type"]:
        del released.state["model.image_newline"]
    (folder / "config.json").write_text(json.dumps(values))
    released.save(folder, shards)
    tokenizer.save_pretrained(folder)
    return released.state


MARKS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")


def internlm2_tokenizer(folder: Path) -> int:
    """Write a SentencePiece model trained on the spot, its last pieces replaced as InternLM2's are; return its size."""
    import sentencepiece

    spare = [f"[UNUSED_TOKEN_{number}]" for number in range(6)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS * 3, *spare]),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=spare,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    size = pieces.get_piece_size()
    replaced = {pieces.piece_to_id(spare[0]): "<|im_start|>", pieces.piece_to_id(spare[1]): "<|im_end|>"}
    added = {0: "<unk>", 1: "<s>", 2: "</s>", **replaced, **{size + place: mark for place, mark in enumerate(MARKS)}}
    settings = {
        "added_tokens_decoder": {str(index): {"content": token, "special": True} for index, token in added.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return size + len(MARKS)


def _internlm2(released: Released, rows: int) -> dict[str, Any]:
    hidden, inner, heads, groups, size = 32, 48, 4, 2, 8
    released.normal("language_model.model.tok_embeddings.weight", rows, hidden)
    for layer in (f"language_model.model.layers.{number}." for number in range(2)):
        released.linear(f"{layer}attention.wqkv", (heads + 2 * groups) * size, hidden, bias=False)
        released.linear(f"{layer}attention.wo", hidden, hidden, bias=False)
        released.linear(f"{layer}feed_forward.w1", inner, hidden, bias=False)
        released.linear(f"{layer}feed_forward.w2", hidden, inner, bias=False)
        released.linear(f"{layer}feed_forward.w3", inner, hidden, bias=False)
        released.norm(f"{layer}attention_norm", hidden, bias=False)
        released.norm(f"{layer}ffn_norm", hidden, bias=False)
    released.norm("language_model.model.norm", hidden, bias=False)
    released.linear("language_model.output", rows, hidden, bias=False)
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rms_norm_eps": 1e-5,
    }


def released_internvl(folder: Path, language_model: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Write a checkpoint as OpenGVLab does, its language model ``internlm2`` or ``qwen2``."""
    folder.mkdir(parents=True, exist_ok=True)
    released = Released()
    if language_model == "internlm2":
        rows = internlm2_tokenizer(folder)
        own = _internlm2(released, rows)
    else:
        tokenizer = qwen_tokenizer(*MARKS)
        tokenizer.save_pretrained(folder)
        rows = len(tokenizer)
        released.qwen2("language_model.model.", rows, "language_model.lm_head")
        own = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6}
    size, inner = 16, 24
    released.normal("vision_model.embeddings.class_embedding", 1, 1, size)
    released.normal("vision_model.embeddings.position_embedding", 1, 17, size)
    released.normal("vision_model.embeddings.patch_embedding.weight", size, 3, 7, 7)
    released.normal("vision_model.embeddings.patch_embedding.bias", size)
    for layer in (f"vision_model.encoder.layers.{number}." for number in range(2)):
        released.linear(f"{layer}attn.qkv", 3 * size, size)
        released.linear(f"{layer}attn.proj", size, size)
        released.linear(f"{layer}mlp.fc1", inner, size)
        released.linear(f"{layer}mlp.fc2", size, inner)
        released.norm(f"{layer}norm1", size)
        released.norm(f"{layer}norm2", size)
        released.normal(f"{layer}ls1", size)
        released.normal(f"{layer}ls2", size)
    released.norm("mlp1.0", 4 * size)
    released.linear("mlp1.1", 32, 4 * size)
    released.linear("mlp1.3", 32, 32)
    llm = {key: value for key, value in TEXT.items() if key != "initializer_range"}
    values = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 28,
        "max_dynamic_patch": 4,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "use_thumbnail": True,
        "llm_config": {**llm, "vocab_size": rows, "rope_theta": 1000000.0, "hidden_act": "silu", **own},
        "vision_config": {**TOWER, "model_type": "intern_vit_6b", "qkv_bias": True, "norm_type": "layer_norm"},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(values))
    released.save(folder)
    return released.state
