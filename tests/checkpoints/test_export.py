"""An exported checkpoint loads with the Auto classes and answers as the trained model does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from safe_llava.checkpoints.export import Form, save_projector, write_checkpoint
from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
from safe_llava.checkpoints.tower import PROJECTOR, read_tower
from safe_llava.checkpoints.weights import grown
from safe_llava.core.errors import CheckpointError
from safe_llava.formats.annotations import read_samples
from safe_llava.train.model.build import build_model
from safe_llava.train.model.loss import LossModel
from safe_llava.train.samples.annotated import ImageFormat, SampleDataset
from safe_llava.train.samples.batches import make_micro_batch
from safe_llava.train.samples.images import ImageGeometry, preprocess
from train.tiny import Tiny, make_row


class Exported:
    """The tiny model as the trainer holds it, and what it wrote."""

    def __init__(self, tiny: Tiny, out: Path, row: Any) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        tokenizer = load_tokenizer(tiny.language_model, row.max_length)
        image_token_id = add_image_token(tokenizer)
        tower = read_tower(tiny.tower, row.vision_feature_select)
        self.llava = build_model(row, tiny.language_model, tower, tiny.root / "projector.safetensors", image_token_id)
        self.trained = LossModel(self.llava, image_token_id).eval()
        self.dataset = SampleDataset(
            list(read_samples(tiny.root / "finetune.json")),
            tiny.images,
            tokenizer,
            "finetune",
            image_token_id=image_token_id,
            max_length=row.max_length,
            image=ImageFormat.of(tower, row.finetune.image_geometry),
        )
        state = {name: value.detach() for name, value in self.llava.named_parameters()}
        form = Form(row.finetune.template, row.finetune.image_geometry)
        write_checkpoint(self.llava.config, state, form, tower, tokenizer, out)
        self.model = AutoModelForImageTextToText.from_pretrained(out).eval()
        self.processor = AutoProcessor.from_pretrained(out)


@pytest.fixture(scope="module")
def exported(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tiny, tmp_path_factory.mktemp("exported") / "model", make_row())


def prompt(exported: Exported, index: int) -> tuple[dict[str, torch.Tensor], int]:
    """A sample's question through the exported processor, and the number of its tokens."""
    sample = exported.dataset.samples[index]
    text = sample.turns[0].text.replace("<image>\n", "")
    content: list[dict[str, str]] = [{"type": "image"}] if sample.image else []
    message = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
    rendered = exported.processor.apply_chat_template(message, add_generation_prompt=True)
    images = [Image.open(exported.dataset.images / sample.image)] if sample.image else None
    inputs = exported.processor(text=rendered, images=images, return_tensors="pt")
    return inputs, inputs["input_ids"].shape[1]


@pytest.mark.parametrize("index", [0, 1, 3, 5])
def test_ids_pixels_and_logits_are_the_trainers(exported: Exported, index: int) -> None:
    features = exported.dataset[index]
    inputs, length = prompt(exported, index)
    assert inputs["input_ids"][0].tolist() == features.input_ids[:length]
    assert length > len(features.input_ids) / 2
    if features.pixel_values is None:
        assert "pixel_values" not in inputs
    else:
        torch.testing.assert_close(inputs["pixel_values"][0], features.pixel_values, rtol=0, atol=1e-6)
    batch = make_micro_batch([features], [0], 0, exported.dataset.image.size).tensors
    with torch.no_grad():
        embeddings = exported.trained.embed(batch["input_ids"], batch["pixel_values"], batch["image_rows"])
        hidden = exported.llava.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        expected = exported.llava.lm_head(hidden)[0, :length]
        found = exported.model(**inputs).logits[0]
    vocabulary = expected.shape[-1]
    assert found.shape[-1] == vocabulary + 1, "the image token has a row of its own"
    torch.testing.assert_close(found[:, :vocabulary], expected, rtol=0, atol=1e-5)
    # The image token's logit is the mean of the others: it is never the greedy choice.
    torch.testing.assert_close(found[:, vocabulary], expected.mean(dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(28, 28), (100, 37), (31, 90), (500, 20), (1, 3)])
@pytest.mark.parametrize("geometry", ["pad", "crop", "resize"])
def test_pixels_of_every_geometry(tiny: Tiny, geometry: str, size: tuple[int, int], tmp_path: Path) -> None:
    from safe_llava.checkpoints.export import _processor

    row = make_row()
    tokenizer = load_tokenizer(tiny.language_model, 64)
    add_image_token(tokenizer)
    tower = read_tower(tiny.tower, row.vision_feature_select)
    image = Image.effect_noise(size, 80).convert("RGB")
    config = SimpleNamespace(vision_feature_select_strategy="default")
    processor = _processor(Form("v1", geometry), config, tower, tokenizer)
    found = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    expected = preprocess(image, ImageGeometry(geometry), 28, tower.mean, tower.std)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_greedy_generation_works_and_stops_at_the_limit(exported: Exported) -> None:
    inputs, length = prompt(exported, 0)
    answer = exported.model.generate(**inputs, max_new_tokens=5)
    assert length < answer.shape[1] <= length + 5
    assert exported.model.generation_config.do_sample is False
    assert exported.processor.tokenizer.eos_token_id == exported.model.generation_config.eos_token_id == 2


def test_files_can_be_read_by_others(exported: Exported, tiny: Tiny) -> None:
    folder = Path(exported.processor.tokenizer.name_or_path)
    assert (folder / "model.safetensors").stat().st_mode & 0o044 == 0o044
    assert not list(folder.parent.glob(".*.part"))


def test_a_vocabulary_with_spare_rows_is_kept() -> None:
    assert grown(torch.eye(5), 5).shape == (5, 5)
    assert grown(torch.eye(5), 6).shape == (6, 5)


def test_the_projector_goes_round(tiny: Tiny, exported: Exported, tmp_path: Path) -> None:
    state = dict(exported.llava.named_parameters())
    save_projector({name: value.detach() for name, value in state.items()}, tmp_path / "projector.safetensors")
    weights = load_file(tmp_path / "projector.safetensors")
    assert sorted(weights) == ["linear_1.bias", "linear_1.weight", "linear_2.bias", "linear_2.weight"]
    assert torch.equal(weights["linear_1.weight"], state[f"{PROJECTOR}linear_1.weight"])


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tiny: Tiny, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="was not made by this step"):
        write_checkpoint(exported.llava.config, {}, Form("v1", "pad"), read_tower(tiny.tower, "patch"), None, out)  # type: ignore[arg-type]
    assert (out / "thesis.tex").exists()
