"""Annotations, samples and batches."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
from safe_llava.checkpoints.tower import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN
from safe_llava.core.errors import TrainError
from safe_llava.core.files import read_jsonl
from safe_llava.formats.annotations import Sample, Turn
from safe_llava.train import inspect
from safe_llava.train.samples import annotated
from safe_llava.train.samples.annotated import (
    Features,
    ImageFormat,
    SampleDataset,
    collate,
)
from safe_llava.train.samples.conversation import IGNORE_INDEX
from safe_llava.train.samples.images import ImageGeometry, preprocess

MODEL = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
IMAGE_ID = 32000
SMALL = ImageFormat(size=28, tokens=4)


def row(identity: Any = "a", image: str | None = None, human: str = "Hi.", gpt: str = "Hello.") -> dict[str, Any]:
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": identity, "conversations": turns} | ({"image": image} if image else {})


def sample(identity: str = "a", image: str | None = None, human: str = "Hi.", gpt: str = "Hello.") -> Sample:
    return Sample(1, identity, image, (Turn("human", human), Turn("gpt", gpt)))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(MODEL, 2048)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "coco").mkdir(parents=True)
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(folder / "coco" / "1.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def dataset(
    samples: list[Sample],
    images: Path,
    tokenizer: PreTrainedTokenizerFast,
    stage: Any = "finetune",
    **options: Any,
) -> SampleDataset:
    options = {"image_token_id": IMAGE_ID, "max_length": 2048, "image": SMALL, **options}
    return SampleDataset(samples, images, tokenizer, stage, **options)


@pytest.mark.parametrize(("stage", "geometry"), [("pretrain", ImageGeometry.CROP), ("finetune", ImageGeometry.PAD)])
def test_a_stage_has_its_template_and_geometry(
    stage: Any, geometry: ImageGeometry, images: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    item = dataset([sample("a", "coco/1.png", "<image>\nWhat?", "A fade.")], images, tokenizer, stage)[0]
    with Image.open(images / "coco" / "1.png") as image:
        expected = preprocess(image.convert("RGB"), geometry, 28, CLIP_MEAN, CLIP_STD)
    assert item.pixel_values is not None
    assert torch.equal(item.pixel_values, expected)
    begin, end = item.image_span or (0, 0)
    assert item.input_ids[begin:end] == [IMAGE_ID] * 4
    assert item.input_ids.count(IMAGE_ID) == 4
    assert item.labels[begin:end] == [IGNORE_INDEX] * 4
    supervised = tokenizer.decode([label for label in item.labels if label != IGNORE_INDEX])
    assert supervised == {"pretrain": "A fade.\n", "finetune": "A fade.</s>"}[stage]
    assert (begin == 1) == (stage == "pretrain")
    assert (item.sample_id, item.words) == ("a", 4)


def test_the_geometry_of_the_tower_goes_before_that_of_the_stage(
    images: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = ImageFormat(28, 4, SIGLIP_MEAN, SIGLIP_MEAN, ImageGeometry.RESIZE)
    item = dataset([sample("a", "coco/1.png", "<image>")], images, tokenizer, "pretrain", image=plain)[0]
    with Image.open(images / "coco" / "1.png") as image:
        expected = preprocess(image.convert("RGB"), ImageGeometry.RESIZE, 28, SIGLIP_MEAN, SIGLIP_MEAN)
    assert item.pixel_values is not None
    assert torch.equal(item.pixel_values, expected)


def test_text_that_quotes_the_placeholder_shows_no_image(images: Path) -> None:
    tokenizer = load_tokenizer(MODEL, 2048)
    assert add_image_token(tokenizer) == IMAGE_ID
    item = dataset([sample(human="What is <image>?")], images, tokenizer)[0]
    assert IMAGE_ID not in item.input_ids
    assert item.pixel_values is None
    assert item.image_span is None


def test_an_image_that_no_turn_asks_for_is_not_opened(images: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    item = dataset([sample(image="broken.png")], images, tokenizer)[0]
    assert item.pixel_values is None


def test_the_cut_may_fall_into_the_image(images: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shown = sample("a", "coco/1.png", "<image>\nWhat?")
    begin, _ = dataset([shown], images, tokenizer)[0].image_span or (0, 0)
    item = dataset([shown], images, tokenizer, max_length=begin + 3)[0]
    assert item.image_span == (begin, begin + 3)
    assert len(item.input_ids) == begin + 3
    gone = dataset([shown], images, tokenizer, max_length=begin)[0]
    assert (gone.image_span, gone.pixel_values) == (None, None)


@pytest.mark.parametrize(("image", "fault"), [("coco/2.png", "no such image"), ("broken.png", "cannot be decoded")])
def test_an_image_that_cannot_be_had_names_sample_and_path(
    image: str, fault: str, images: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = dataset([sample("s17", image, "<image>\nWhat?")], images, tokenizer)
    with pytest.raises(TrainError, match=fault) as error:
        samples[0]
    assert "s17" in error.value.message
    assert str(images / image) in error.value.message


@pytest.mark.parametrize(
    ("stage", "faulty"),
    [
        ("pretrain", sample("s17")),
        ("pretrain", sample("s17", "coco/1.png", "Describe.")),
        ("pretrain", sample("s17", "coco/1.png", "<image>", "a <image>")),
        ("finetune", sample("s17", "coco/1.png", "<image>", "a <image>")),
    ],
)
def test_a_sample_that_does_not_suit_the_stage_is_found_before_the_run(
    stage: Any, faulty: Sample, images: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(TrainError, match="s17"):
        dataset([faulty], images, tokenizer, stage)


def test_another_template_goes_before_that_of_the_stage(images: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    item = dataset([sample("a", "coco/1.png", "<image>")], images, tokenizer, "pretrain", template="v1")[0]
    assert "USER: " in tokenizer.decode(item.input_ids[: (item.image_span or (0, 0))[0]])


def test_an_unknown_template_is_refused(images: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TrainError, match="plain, v1, qwen_1_5"):
        dataset([sample()], images, tokenizer, template="v0")


def test_lengths_are_signed(images: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert dataset([sample(), sample("b", "coco/1.png", "<image>")], images, tokenizer).lengths == [-2, 2]


def features(length: int, shade: float | None = None, identity: str = "a") -> Features:
    pixels = None if shade is None else torch.full((3, 2, 2), shade)
    span = None if shade is None else (1, 3)
    return Features(list(range(10, 10 + length)), [IGNORE_INDEX] * length, pixels, identity, 1, span)


def test_a_batch_is_padded_on_the_right() -> None:
    batch = collate([features(3), features(5)], pad_id=0)
    assert batch.input_ids.tolist() == [[10, 11, 12, 0, 0], [10, 11, 12, 13, 14]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch.labels.tolist() == [[IGNORE_INDEX] * 5] * 2
    assert {tensor.dtype for tensor in (batch.input_ids, batch.labels, batch.attention_mask)} == {torch.int64}


def test_a_pad_token_in_the_text_is_no_padding() -> None:
    assert collate([features(3)], pad_id=11).attention_mask.tolist() == [[1, 1, 1]]


def test_images_come_in_the_order_of_their_samples() -> None:
    batch = collate([features(3, 0.5, "a"), features(4, None, "b"), features(5, 0.25, "c")], pad_id=0)
    assert batch.pixel_values is not None
    assert batch.pixel_values.shape == (2, 3, 2, 2)
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [0.5, 0.25]
    assert batch.image_mask.tolist() == [
        [False, True, True, False, False],
        [False] * 5,
        [False, True, True, False, False],
    ]
    assert batch.sample_ids == ["a", "b", "c"]


def test_a_batch_of_text_has_no_pixels() -> None:
    batch = collate([features(3), features(2)], pad_id=0)
    assert batch.pixel_values is None
    assert not bool(batch.image_mask.any())


def inspected(tmp_path: Path, images: Path | None, *flags: str) -> list[dict[str, Any]]:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "tokenizer.model").write_bytes(MODEL.read_bytes())
    tower = {"vision_config": {"image_size": 28, "patch_size": 14}}
    (model / "config.json").write_text(json.dumps(tower), encoding="utf-8")
    rows = [row("a", "coco/1.png", "<image>\nWhat?", "A fade."), row("b")]
    (tmp_path / "mix.json").write_text(json.dumps(rows), encoding="utf-8")
    arguments = ["--model", model, "--annotations", tmp_path / "mix.json", "--out", tmp_path / "out" / "ids.jsonl"]
    arguments += ["--images", images] if images else []
    inspect.main([*map(str, arguments), "--stage", "finetune", *flags])
    return read_jsonl(tmp_path / "out" / "ids.jsonl")


def test_inspect_writes_what_is_trained_on(tmp_path: Path, images: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [sample("a", "coco/1.png", "<image>\nWhat?", "A fade."), sample("b")]
    expected = dataset(samples, images, tokenizer)
    assert inspected(tmp_path, images) == [
        {"id": item.sample_id, "input_ids": item.input_ids, "labels": item.labels}
        for item in (expected[0], expected[1])
    ]


def test_inspect_opens_no_image_without_an_image_folder(tmp_path: Path) -> None:
    rows = inspected(tmp_path, None, "--image-tokens", "7", "--max-length", "60")
    assert rows[0]["input_ids"].count(IMAGE_ID) == 7
    assert len(rows[0]["labels"]) <= 60


def test_inspect_shows_the_taught_parts_on_a_terminal(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inspected(tmp_path, images)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    inspected(tmp_path, images, "--show", "1")
    shown = capsys.readouterr().out
    assert f"{inspect.SUPERVISED}A fade.</s>{inspect.RESET}" in shown
    assert "<image> × 4" in shown
    assert "Hello." not in shown


def test_inspect_reads_the_tower_of_a_model_in_the_original_format(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "tower").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"mm_vision_tower": "../tower"}', encoding="utf-8")
    (tmp_path / "tower" / "config.json").write_text('{"image_size": 42, "patch_size": 14}', encoding="utf-8")
    pixels = '{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}'
    (tmp_path / "tower" / "preprocessor_config.json").write_text(pixels, encoding="utf-8")
    assert inspect.model_image_format(tmp_path / "model") == ImageFormat(42, 9, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert inspect.model_image_format(tmp_path) == ImageFormat()


def test_a_small_set_is_made_ready_once_and_a_large_one_every_time(
    images: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [sample("a", "coco/1.png", "<image>\nWhat?"), sample("b")]
    kept = dataset(rows, images, tokenizer)
    monkeypatch.setattr(annotated, "KEPT_BYTES", 2 * 3 * SMALL.size**2 * 4 - 1)
    made_again = dataset(rows, images, tokenizer)
    first, again = kept[0], made_again[0]
    (images / "coco" / "1.png").unlink()
    assert kept[0] is first
    with pytest.raises(TrainError, match="no such image"):
        made_again[0]
    assert torch.equal(first.pixel_values, again.pixel_values) and first.labels == again.labels
