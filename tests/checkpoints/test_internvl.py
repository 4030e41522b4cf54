"""A tiny checkpoint in OpenGVLab's format computes the same once it is converted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import sentencepiece
import torch
from torch.nn import functional as F

from checkpoints import tiny_released
from engine import tiny
from safe_llava.checkpoints.internvl import split_wqkv
from safe_llava.checkpoints.sentencepieces import read_internlm2_tokenizer
from safe_llava.core.errors import CheckpointError
from safe_llava.engine.convert import convert

HEADS, GROUPS, SIZE = 4, 2, 8
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def image() -> PIL.Image.Image:
    noise = np.random.default_rng(2).integers(0, 255, (40, 83, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)


def linear(state: State, name: str, hidden: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state: State, name: str, hidden: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def vision(state: State, pixels: torch.Tensor) -> torch.Tensor:
    """Features ``[N, 4, 32]`` of tiles ``[N, 3, 28, 28]``: the transformer, 2 x 2 patches to one, the projector."""
    start = "vision_model.embeddings."
    patches = F.conv2d(pixels, state[f"{start}patch_embedding.weight"], state[f"{start}patch_embedding.bias"], stride=7)
    hidden = patches.flatten(2).transpose(1, 2)
    hidden = torch.cat([state[f"{start}class_embedding"].expand(len(hidden), 1, 16), hidden], dim=1)
    hidden = hidden + state[f"{start}position_embedding"]
    for layer in (f"vision_model.encoder.layers.{number}." for number in range(2)):
        fused = linear(state, f"{layer}attn.qkv", norm(state, f"{layer}norm1", hidden))
        q, k, v = fused.unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        hidden = hidden + state[f"{layer}ls1"] * linear(state, f"{layer}attn.proj", mixed)
        inner = F.gelu(linear(state, f"{layer}mlp.fc1", norm(state, f"{layer}norm2", hidden)))
        hidden = hidden + state[f"{layer}ls2"] * linear(state, f"{layer}mlp.fc2", inner)
    square = hidden[:, 1:].reshape(-1, 4, 4, 16)
    # Each 2 x 2 block of patches becomes one position: its four patches side by side, row by row.
    blocks = square.reshape(-1, 2, 2, 2, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 64)
    inner = linear(state, "mlp1.1", norm(state, "mlp1.0", blocks, 1e-5))
    return linear(state, "mlp1.3", F.gelu(inner))


def rms(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-5)


def rotated(heads: torch.Tensor) -> torch.Tensor:
    """Rotary positions on ``[H, T, 8]``: halves of a head turn together."""
    angles = torch.outer(torch.arange(heads.shape[1]), 1e6 ** (-torch.arange(0, SIZE, 2) / SIZE))
    cos, sin = angles.cos(), angles.sin()
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def internlm2(state: State, hidden: torch.Tensor) -> torch.Tensor:
    """Logits ``[T, V]`` of InternLM2 on embeddings ``[T, 32]``, its fused weight read head by head."""
    for layer in (f"language_model.model.layers.{number}." for number in range(2)):
        fused = linear(state, f"{layer}attention.wqkv", rms(hidden, state[f"{layer}attention_norm.weight"]))
        each = HEADS // GROUPS
        mixed = []
        for group in range(GROUPS):
            heads = fused[:, group * (each + 2) * SIZE :].unflatten(-1, (-1, SIZE)).transpose(0, 1)
            q, k, v = heads[:each], heads[each : each + 1], heads[each + 1 : each + 2]
            keys, values = rotated(k).expand_as(q), v.expand_as(q)
            mixed += [*F.scaled_dot_product_attention(rotated(q), keys, values, is_causal=True)]
        hidden = hidden + linear(state, f"{layer}attention.wo", torch.cat(mixed, dim=-1))
        normed = rms(hidden, state[f"{layer}ffn_norm.weight"])
        gate = F.silu(linear(state, f"{layer}feed_forward.w1", normed))
        hidden = hidden + linear(
            state, f"{layer}feed_forward.w2", gate * linear(state, f"{layer}feed_forward.w3", normed)
        )
    return linear(state, "language_model.output", rms(hidden, state["language_model.model.norm.weight"]))


def qwen2(state: State, hidden: torch.Tensor) -> torch.Tensor:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    own = {n.removeprefix("language_model."): v for n, v in state.items() if n.startswith("language_model.")}
    text = {key: value for key, value in tiny.TEXT.items() if key != "initializer_range"}
    rows = len(own["lm_head.weight"])
    model = Qwen2ForCausalLM(Qwen2Config(**text, vocab_size=rows, rope_theta=1e6, rms_norm_eps=1e-6))
    model.load_state_dict(own, strict=True)
    return model(inputs_embeds=hidden[None]).logits[0]


def tiles(image: PIL.Image.Image) -> torch.Tensor:
    """The views of an image of 83 x 40 as the released script cuts them: 2 x 1 tiles and a whole view."""
    bicubic = PIL.Image.Resampling.BICUBIC
    wide = image.resize((56, 28), bicubic)
    views = [wide.crop((0, 0, 28, 28)), wide.crop((28, 0, 56, 28)), image.resize((28, 28), bicubic)]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    arrays = [((np.asarray(view) / 255 - mean) / std).astype(np.float32) for view in views]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("language_model", ["internlm2", "qwen2"])
def test_logits_are_the_originals(tmp_path: Path, image: PIL.Image.Image, language_model: str) -> None:
    from transformers import AutoModelForImageTextToText

    from safe_llava.checkpoints.processors import load_processor

    state = tiny_released.released_internvl(tmp_path / "source", language_model)
    convert("internvl_chat", tmp_path / "source", tmp_path / "out")
    processor = load_processor(tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    content = [{"type": "image"}, {"type": "text", "text": "How old is he?\nAnswer"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[[image]], return_tensors="pt")
    ids = inputs["input_ids"][0]
    words = "model.tok_embeddings" if language_model == "internlm2" else "model.embed_tokens"
    embedded = state[f"language_model.{words}.weight"][ids].clone()
    mark = processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    embedded[ids == mark] = vision(state, tiles(image)).flatten(0, 1)
    with torch.no_grad():
        expected = (internlm2 if language_model == "internlm2" else qwen2)(state, embedded)
        logits = model(**inputs).logits[0]
    assert (ids == mark).sum() == 3 * 4
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)
    text = processor.tokenizer.decode(ids)
    beginning = "<s><|im_start|>system" if language_model == "internlm2" else "<|im_start|>system"
    assert text.startswith(beginning)
    assert "<img>" + "<IMG_CONTEXT>" * 12 + "</img>\nHow old is he?\nAnswer<|im_end|>" in text
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_fused_weight_comes_apart_group_by_group() -> None:
    # Row r of group g's part p says 100 g + 10 p + r: parts 0 and 1 are queries, 2 the key, 3 the value.
    rows = [100 * group + 10 * part + row for group in range(2) for part in range(4) for row in range(3)]
    split = split_wqkv(torch.tensor(rows)[:, None].float(), heads=4, groups=2)
    assert split["q"][:, 0].tolist() == [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]
    assert split["k"][:, 0].tolist() == [20, 21, 22, 120, 121, 122]
    assert split["v"][:, 0].tolist() == [30, 31, 32, 130, 131, 132]


def test_the_tokenizer_gives_sentencepieces_ids(tmp_path: Path) -> None:
    tiny_released.internlm2_tokenizer(tmp_path)
    tokenizer = read_internlm2_tokenizer(tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    letters = random.Random(0)
    texts = ["".join(letters.choices("aehinorst  .?\n\t你ü", k=30)) for _ in range(200)]
    assert [tokenizer(text, add_special_tokens=False).input_ids for text in texts] == [pieces.encode(t) for t in texts]
    turn = tokenizer("<|im_start|>user\nHow old?<|im_end|>\n", add_special_tokens=False).input_ids
    assert turn == [
        tokenizer.convert_tokens_to_ids("<|im_start|>"),
        *pieces.encode("user\nHow old?"),
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        *pieces.encode("\n"),
    ]
    assert pieces.id_to_piece(turn[0]) == "[UNUSED_TOKEN_0]", "a piece that was replaced"
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(turn, skip_special_tokens=True) == "user\nHow old?\n"


def test_another_kind_of_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.CORPUS * 3),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="other ids outside SentencePiece"):
        read_internlm2_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"select_layer": -4}, "select_layer is -4"),
        ({"llm_config": {"architectures": ["Phi3ForCausalLM"]}}, "`Phi3ForCausalLM`"),
        ({"llm_config": {}}, "`None`"),
        ({"model_type": "gemma3"}, "not one of family"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    tiny_released.released_internvl(tmp_path / "source", "qwen2", **changes)
    with pytest.raises(CheckpointError, match=words):
        convert("internvl_chat", tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = tiny_released.released_internvl(tmp_path / "source", "qwen2")
    file = tmp_path / "source" / "model.safetensors"
    save_file({name: value for name, value in state.items() if name != "mlp1.3.bias"}, file)
    with pytest.raises(CheckpointError, match=r"multi_modal_projector\.linear_2\.bias is absent"):
        convert("internvl_chat", tmp_path / "source", tmp_path / "out")
    save_file({**state, "vision_model.encoder.layers.0.gate": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"not known: vision_model\.encoder\.layers\.0\.gate"):
        convert("internvl_chat", tmp_path / "source", tmp_path / "out")
