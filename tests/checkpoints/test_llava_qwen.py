"""A tiny checkpoint in the format of LLaVA-NeXT's code computes the same once it is converted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from checkpoints import tiny_released
from engine import tiny
from safe_llava.checkpoints.llava_qwen import read_image_handling
from safe_llava.checkpoints.weights import WeightsWriter, grown
from safe_llava.core.errors import CheckpointError
from safe_llava.core.files import file_digest
from safe_llava.engine import convert as step
from safe_llava.engine.convert import convert

PLACE = -200  # what the original writes where an image goes


@pytest.fixture(scope="module")
def image() -> PIL.Image.Image:
    noise = np.random.default_rng(1).integers(0, 255, (37, 90, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)


class Original:
    """What the original computes, written down from its code: SigLIP, projector, tiles, Qwen2."""

    def __init__(self, state: dict[str, torch.Tensor], tower: dict[str, torch.Tensor]) -> None:
        self.state, self.tower = state, tower

    def _linear(self, name: str, hidden: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.linear(hidden, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected features ``[N, 16, 32]`` of squares ``[N, 3, 28, 28]``, after two of SigLIP's layers."""
        own, prefix = self.tower, "vision_model."
        patches = F.conv2d(
            pixels,
            own[f"{prefix}embeddings.patch_embedding.weight"],
            own[f"{prefix}embeddings.patch_embedding.bias"],
            stride=7,
        )
        hidden = patches.flatten(2).transpose(1, 2) + own[f"{prefix}embeddings.position_embedding.weight"]
        for layer in (f"{prefix}encoder.layers.{number}." for number in range(2)):
            normed = F.layer_norm(
                hidden, (16,), own[f"{layer}layer_norm1.weight"], own[f"{layer}layer_norm1.bias"], 1e-6
            )
            q, k, v = (
                self._linear(f"{layer}self_attn.{name}_proj", normed, own).unflatten(-1, (2, 8)).transpose(1, 2)
                for name in "qkv"
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            hidden = hidden + self._linear(f"{layer}self_attn.out_proj", mixed, own)
            normed = F.layer_norm(
                hidden, (16,), own[f"{layer}layer_norm2.weight"], own[f"{layer}layer_norm2.bias"], 1e-6
            )
            inner = F.gelu(self._linear(f"{layer}mlp.fc1", normed, own), approximate="tanh")
            hidden = hidden + self._linear(f"{layer}mlp.fc2", inner, own)
        inner = F.gelu(self._linear("model.mm_projector.0", hidden, self.state))
        return self._linear("model.mm_projector.2", inner, self.state)

    def logits(self, ids: list[int], features: torch.Tensor) -> torch.Tensor:
        """Logits ``[T, V]`` of a prompt with ``features [n, 32]`` in the place of the image."""
        from transformers import Qwen2Config, Qwen2ForCausalLM

        rows = len(self.state["lm_head.weight"])
        text = {key: value for key, value in tiny.TEXT.items() if key != "initializer_range"}
        model = Qwen2ForCausalLM(Qwen2Config(**text, vocab_size=rows, rope_theta=1e6, rms_norm_eps=1e-6))
        own = {
            name: value for name, value in self.state.items() if name.startswith(("model.layers", "model.norm", "lm_"))
        }
        own["model.embed_tokens.weight"] = self.state["model.embed_tokens.weight"]
        model.load_state_dict(own, strict=True)
        place = ids.index(PLACE)
        words = self.state["model.embed_tokens.weight"]
        embedded = torch.cat([words[ids[:place]], features, words[ids[place + 1 :]]])
        with torch.no_grad():
            return model(inputs_embeds=embedded[None]).logits[0]


def pixels_of(image: PIL.Image.Image) -> torch.Tensor:
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy((array - 0.5) / 0.5).permute(2, 0, 1)


def best_grid(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Columns and rows of tiles, as the original picks them among ``most`` times ``most``."""
    width, height = size
    best, key = (1, 1), (-1.0, 0.0)
    for columns in range(1, most + 1):
        for rows in range(1, most + 1):
            scale = min(columns * 28 / width, rows * 28 / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            wasted = columns * rows * 28 * 28 - effective
            if (effective, -wasted) > key:
                best, key = (columns, rows), (effective, -wasted)
    return best


def tiled(original: Original, image: PIL.Image.Image, most: int, limit: int | None) -> torch.Tensor:
    """Features of an image under ``anyres`` (``anyres_max_limit``) with ``spatial_unpad``."""
    columns, rows = best_grid(image.size, most)
    scale = min(columns * 28 / image.width, rows * 28 / image.height)
    fitted = (
        min(math.ceil(image.width * scale), columns * 28),
        min(math.ceil(image.height * scale), rows * 28),
    )
    canvas = PIL.Image.new("RGB", (columns * 28, rows * 28))
    canvas.paste(
        image.resize(fitted, PIL.Image.Resampling.BICUBIC),
        ((columns * 28 - fitted[0]) // 2, (rows * 28 - fitted[1]) // 2),
    )
    tiles = [
        canvas.crop((28 * column, 28 * row, 28 * column + 28, 28 * row + 28))
        for row in range(rows)
        for column in range(columns)
    ]
    views = [image.resize((28, 28), PIL.Image.Resampling.BICUBIC), *tiles]
    whole, *parts = original.features(torch.stack([pixels_of(view) for view in views]))
    # From tiles of 4 x 4 features to one map [32, 4 rows, 4 columns].
    grid = torch.stack(parts).reshape(rows, columns, 4, 4, 32).permute(4, 0, 2, 1, 3).reshape(32, rows * 4, columns * 4)
    if image.width / image.height > columns / rows:
        kept = int(image.height * (columns * 4 / image.width))
        cut = (rows * 4 - kept) // 2
        grid = grid[:, cut : rows * 4 - cut]
    else:
        kept = int(image.width * (rows * 4 / image.height))
        cut = (columns * 4 - kept) // 2
        grid = grid[:, :, cut : columns * 4 - cut]
    if limit is not None:
        times = math.sqrt(grid.shape[1] * grid.shape[2] / (limit * 16))
        if times > 1.1:
            size = [int(grid.shape[1] // times), int(grid.shape[2] // times)]
            grid = F.interpolate(grid[None], size, mode="bilinear")[0]
    line = original.state["model.image_newline"][:, None, None].expand(32, grid.shape[1], 1)
    return torch.cat([whole, torch.cat([grid, line], dim=2).flatten(1).T])


def converted(tmp_path: Path, tower_inside: bool = True, **changes: Any) -> tuple[Path, Original]:
    source, out, siglip = tmp_path / "source", tmp_path / "out", tmp_path / "siglip"
    state = tiny_released.released_llava_qwen(source, tower=tower_inside, **changes)
    own = tiny_released.siglip_tower(siglip, weights=not tower_inside)
    convert("llava_qwen", source, out, siglip)
    if tower_inside:
        prefix = "model.vision_tower.vision_tower."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return out, Original(state, own)


def found(out: Path, image: PIL.Image.Image) -> tuple[list[int], torch.Tensor, Any]:
    """Ids with the image's positions as one ``PLACE``, logits without those of the new rows, the model."""
    from transformers import AutoModelForImageTextToText

    from safe_llava.checkpoints.processors import load_processor

    processor = load_processor(out)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    content = [{"type": "image"}, {"type": "text", "text": "How old is he?\nAnswer"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[[image]], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    mark = model.config.image_token_id
    ids = inputs["input_ids"][0].tolist()
    first, count = ids.index(mark), ids.count(mark)
    return [*ids[:first], PLACE, *ids[first + count :]], logits, model


@pytest.mark.parametrize(
    ("ratio", "limit", "tower_inside"), [("anyres_max_4", 4, True), ("anyres_max_9", 9, False), ("anyres", None, True)]
)
def test_tiles_give_the_originals_logits(
    tmp_path: Path, image: PIL.Image.Image, ratio: str, limit: int | None, tower_inside: bool
) -> None:
    out, original = converted(tmp_path, tower_inside, image_aspect_ratio=ratio)
    ids, logits, model = found(out, image)
    assert type(model).__name__ == "LlavaOnevisionForConditionalGeneration"
    expected = original.logits(ids, tiled(original, image, 3, limit))
    assert logits.shape == (len(expected), expected.shape[1] + 1), "a row for each of the two tokens that came"
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
    assert logits[-1].argmax() < expected.shape[1], "the new rows are never the greedy answer"


@pytest.mark.parametrize("ratio", ["pad", "square", None])
def test_one_square_gives_the_originals_logits(tmp_path: Path, image: PIL.Image.Image, ratio: str | None) -> None:
    out, original = converted(tmp_path, image_aspect_ratio=ratio, mm_patch_merge_type="flat")
    ids, logits, model = found(out, image)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    square = image
    if ratio == "pad":
        square = PIL.Image.new("RGB", (90, 90), (127, 127, 127))
        square.paste(image, (0, (90 - 37) // 2))
    features = original.features(pixels_of(square.resize((28, 28), PIL.Image.Resampling.BICUBIC))[None])[0]
    expected = original.logits(ids, features)
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)


def test_files_of_a_converted_checkpoint(tmp_path: Path) -> None:
    out, original = converted(tmp_path)
    vocabulary = json.loads((tmp_path / "source" / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    record = json.loads((out / "conversion.json").read_text())
    weights = sorted((tmp_path / "source").glob("*.safetensors"))
    assert len(weights) == 2
    assert record["from"] == "llava_qwen"
    for file in weights:
        assert record["sha256"]["source"][file.name] == file_digest(file)
    assert not list(tmp_path.glob(".*.part"))
    convert("llava_qwen", tmp_path / "source", out, tmp_path / "siglip")  # and once more over itself
    names = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight" in names
    assert len(names) == len(original.state)


def test_a_tied_head_is_left_out(tmp_path: Path, image: PIL.Image.Image) -> None:
    out, original = converted(tmp_path, tie_word_embeddings=True)
    ids, logits, model = found(out, image)
    original.state["lm_head.weight"] = original.state["model.embed_tokens.weight"]
    expected = original.logits(ids, tiled(original, image, 3, 4))
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_aspect_ratio": "pad"}, "`pad` with mm_patch_merge_type `spatial_unpad`"),
        ({"image_aspect_ratio": "highres"}, "no class computes that"),
        ({"image_grid_pinpoints": "all"}, "no list of sizes"),
        ({"mm_projector_type": "linear"}, "not mlp2x_gelu"),
        ({"mm_vision_tower": "openai/clip"}, "no SigLIP"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is set"),
        ({"model_type": "llava_llama"}, "not one of family"),
        ({"num_hidden_layers": 3}, "do not fit"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        converted(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_holds_more_than_tensors_is_never_read(tmp_path: Path) -> None:
    tiny_released.released_llava_qwen(tmp_path / "source", shards=1)
    tiny_released.siglip_tower(tmp_path / "siglip", weights=False)
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save({"weight": Path()}, tmp_path / "source" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="refused: the pickle holds more than tensors"):
        convert("llava_qwen", tmp_path / "source", tmp_path / "out", tmp_path / "siglip")


def test_a_tower_that_is_nowhere_is_asked_for(tmp_path: Path) -> None:
    tiny_released.released_llava_qwen(
        tmp_path / "source", tower=False, mm_vision_tower="google/siglip-so400m-patch14-384"
    )
    with pytest.raises(CheckpointError, match="not in it") as caught:
        convert("llava_qwen", tmp_path / "source", tmp_path / "out")
    assert "--vision-tower" in caught.value.remedy
    changed = tmp_path / "source" / "config.json"
    changed.write_text(changed.read_text().replace("so400m-patch14-384", "base"))
    with pytest.raises(CheckpointError, match="geometry of `google/siglip-base`"):
        convert("llava_qwen", tmp_path / "source", tmp_path / "out")


def test_a_weight_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_released.released_llava_qwen(tmp_path / "source", shards=1)
    tiny_released.siglip_tower(tmp_path / "siglip", weights=False)
    file = tmp_path / "source" / "model.safetensors"
    save_file(load_file(file) | {"model.vision_resampler.query": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"model\.vision_resampler\.query"):
        convert("llava_qwen", tmp_path / "source", tmp_path / "out", tmp_path / "siglip")


def test_the_published_grid() -> None:
    values = {
        "image_aspect_ratio": "anyres_max_9",
        "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
    }
    images = read_image_handling(values, 384, Path("config.json"))
    assert (images.tiles, images.most, len(images.grid)) == (True, 9, 36)
    assert images.grid[:2] == ((384, 384), (768, 384)), "height first; the original counts widths outside"
    listed = read_image_handling(
        {**values, "image_grid_pinpoints": [[384, 768], [1152, 384]]}, 384, Path("config.json")
    )
    assert listed.grid == ((768, 384), (384, 1152))


def test_shards_hold_what_fits(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    writer = WeightsWriter(tmp_path, shard_bytes=50)
    tensors = {f"t{number}": torch.arange(10.0) + number for number in range(3)}
    for name, tensor in tensors.items():
        writer.add(name, tensor[:8])
    with pytest.raises(CheckpointError, match="t1"):
        writer.add("t1", tensors["t1"])
    writer.close()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert all(file.stat().st_size < 200 for file in files), "a slice is written without the rest"
    assert torch.equal(load_file(files[1])["t1"], tensors["t1"][:8])


def test_new_rows_are_the_mean() -> None:
    words = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert torch.equal(grown(words, 4)[2:], torch.tensor([[2.0, 4.0]] * 2))
    assert grown(words, 1) is words


def test_the_command(tmp_path: Path) -> None:
    tiny_released.released_llava_qwen(tmp_path / "source")
    tiny_released.siglip_tower(tmp_path / "siglip", weights=False)
    paths = {"source": tmp_path / "source", "out": tmp_path / "out", "vision-tower": tmp_path / "siglip"}
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    assert step.main(["--family", "llava_qwen", *arguments]) is None
    # A checkpoint that is in transformers' format already is taken over.
    arguments = ["--source", str(tmp_path / "out"), "--out", str(tmp_path / "again")]
    assert step.main(["--family", "llava_qwen", *arguments]) is None
    first, second = tmp_path / "out", tmp_path / "again"
    assert {file.name for file in first.iterdir()} == {file.name for file in second.iterdir()}
    weights = next(first.glob("*.safetensors"))
    assert weights.samefile(second / weights.name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(CheckpointError, match="not made by this step"):
        convert("llava_qwen", tmp_path / "out", tmp_path / "mine")
