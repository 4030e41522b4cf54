"""The demo's weights: a phrase tokenizer, a random language model and a random vision tower.

They are made with numpy alone and laid out as Hugging Face checkpoints, so that the same seed gives the
same bytes whatever the versions of torch and transformers are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MOST_PIECES = 1400  # of the tokenizer; the corpus runs out of phrases before
IMAGE_SIZE = 56
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
SPECIAL = ("<unk>", "<s>", "</s>")
SPACE = "\u2581"

LANGUAGE_MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
VISION_TOWER: dict[str, Any] = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 128,
    "image_size": IMAGE_SIZE,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 14,
    "projection_dim": 128,
    "torch_dtype": "float32",
}
PREPROCESSOR: dict[str, Any] = {
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": CLIP_MEAN,
    "image_processor_type": "CLIPImageProcessor",
    "image_std": CLIP_STD,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": IMAGE_SIZE},
}


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def train_tokenizer(corpus: Iterable[str], content: Iterable[str]) -> Tokenizer:
    """Train a byte-pair tokenizer in Llama's manner on ``corpus``, until nearly every phrase is one piece.

    Spaces become U+2581 and one is put in front, as SentencePiece does. Merges run over spaces, so that a
    phrase that never varies, such as the sentence before every conversation, costs one piece: a model this
    small learns in minutes because its sequences are short. Only the words of ``content`` stay apart.
    Letters that the corpus never uses are pieces too, so plain English has no unknowns.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    # The prompt ends behind the role: no piece may reach over into the answer, which is not there yet when it is asked.
    words = Regex(rf"{SPACE}?(?:ASSISTANT:|\b(?:{'|'.join(content)})\b)")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    alphabet = [SPACE, "\n", *(chr(code) for code in range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_PIECES,
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=400,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return a tokenizer's files as Hugging Face lays them out."""
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": LANGUAGE_MODEL["max_position_embeddings"],
        "pad_token": "<unk>",
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _dump(config),
        "special_tokens_map.json": _dump(special),
    }


def _normal(rng: np.random.Generator, *shape: int, scale: float) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def language_model(seed: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Return a random Llama's tensors by their Hugging Face names.

    Words start well apart, and what the layers add to them starts small: with one small scale throughout, the mixture
    of all positions drowns the words, and it takes twice as long to learn to compare a question with an image.
    """
    rng = np.random.default_rng([seed, 1])
    hidden, inner = LANGUAGE_MODEL["hidden_size"], LANGUAGE_MODEL["intermediate_size"]
    layers = LANGUAGE_MODEL["num_hidden_layers"]
    into, out = hidden**-0.5, 0.02  # scales of the matrices into a layer and out of it
    ones = np.ones(hidden, dtype=np.float32)
    tensors = {
        "model.embed_tokens.weight": _normal(rng, vocabulary, hidden, scale=0.3),
        "lm_head.weight": _normal(rng, vocabulary, hidden, scale=into),
        "model.norm.weight": ones,
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("q", "k", "v"):
            tensors[f"{prefix}.self_attn.{name}_proj.weight"] = _normal(rng, hidden, hidden, scale=into)
        tensors[f"{prefix}.self_attn.o_proj.weight"] = _normal(rng, hidden, hidden, scale=out)
        tensors[f"{prefix}.mlp.gate_proj.weight"] = _normal(rng, inner, hidden, scale=into)
        tensors[f"{prefix}.mlp.up_proj.weight"] = _normal(rng, inner, hidden, scale=into)
        tensors[f"{prefix}.mlp.down_proj.weight"] = _normal(rng, hidden, inner, scale=out)
        tensors[f"{prefix}.input_layernorm.weight"] = ones
        tensors[f"{prefix}.post_attention_layernorm.weight"] = ones
    return tensors


def vision_tower(seed: int) -> dict[str, np.ndarray]:
    """Return a random CLIP vision tower's tensors by their Hugging Face names.

    The filters are random but smooth (blurred noise), so that colours and edges pass; the layers add a
    little to what they get, so that the last hidden state but one still tells where a patch is and what it shows.
    """
    rng = np.random.default_rng([seed, 2])
    hidden, inner = VISION_TOWER["hidden_size"], VISION_TOWER["intermediate_size"]
    patch, positions = VISION_TOWER["patch_size"], (IMAGE_SIZE // VISION_TOWER["patch_size"]) ** 2 + 1
    filters = rng.standard_normal((hidden, 3, patch, patch))
    for axis in (2, 3):
        filters = filters + 0.7 * (np.roll(filters, 1, axis) + np.roll(filters, -1, axis))
    filters /= np.sqrt((filters**2).sum(axis=(1, 2, 3), keepdims=True))
    tensors = {
        "vision_model.embeddings.class_embedding": _normal(rng, hidden, scale=0.2),
        "vision_model.embeddings.patch_embedding.weight": (filters * 0.15).astype(np.float32),
        "vision_model.embeddings.position_embedding.weight": _normal(rng, positions, hidden, scale=0.2),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        tensors[f"vision_model.{name}.weight"] = np.ones(hidden, dtype=np.float32)
        tensors[f"vision_model.{name}.bias"] = np.zeros(hidden, dtype=np.float32)
    for layer in range(VISION_TOWER["num_hidden_layers"]):
        prefix = f"vision_model.encoder.layers.{layer}"
        linear = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (inner, hidden), "mlp.fc2": (hidden, inner)}
        for name, shape in linear.items():
            gain = 0.15 if name in ("self_attn.out_proj", "mlp.fc2") else 0.7
            tensors[f"{prefix}.{name}.weight"] = _normal(rng, *shape, scale=gain * shape[1] ** -0.5)
            tensors[f"{prefix}.{name}.bias"] = np.zeros(shape[0], dtype=np.float32)
        for name in ("layer_norm1", "layer_norm2"):
            tensors[f"{prefix}.{name}.weight"] = np.ones(hidden, dtype=np.float32)
            tensors[f"{prefix}.{name}.bias"] = np.zeros(hidden, dtype=np.float32)
    return tensors


def checkpoint_files(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Return the files of a Hugging Face checkpoint."""
    return {"config.json": _dump(config), "model.safetensors": save(tensors, metadata={"format": "pt"})}


def preprocessor_files() -> dict[str, bytes]:
    """Return the files of CLIP's image processor."""
    return {"preprocessor_config.json": _dump(PREPROCESSOR)}
