"""The original's format comes in and goes out without a change, and nothing unsafe is unpickled."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_llava.core.errors import CheckpointError, TrainError
from safe_llava.core.files import read_jsonl
from safe_llava.train import convert, inspect
from train.tiny import Tiny


@pytest.fixture(scope="module")
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's tiny checkpoint with its tokenizer, the tower beside it."""
    root = tmp_path_factory.mktemp("golden")
    shutil.copytree(shared / "golden" / "tiny_llava", root, dirs_exist_ok=True)
    shutil.copyfile(
        str(files("mistral_common") / "data" / "tokenizer.model.v1"), root / "checkpoint" / "tokenizer.model"
    )
    return root


@pytest.fixture(scope="module")
def converted(golden: Path) -> Path:
    """The same as a Hugging Face checkpoint."""
    out = golden / "huggingface"
    convert.main(["--to", "huggingface", "--model", str(golden / "checkpoint"), "--out", str(out)])
    return out


def look(model: Path, golden: Path, stage: str, rows: list[dict[str, Any]], *extra: str) -> list[dict[str, Any]]:
    """Rows that ``inspect`` writes for samples of the golden values."""
    annotations = golden / "annotations.json"
    annotations.write_text(json.dumps(rows))
    paths = {"model": model, "annotations": annotations, "images": golden / "images", "out": golden / "out.jsonl"}
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    inspect.main([*arguments, "--stage", stage, *extra])
    return read_jsonl(golden / "out.jsonl")


@pytest.mark.parametrize("form", ["checkpoint", "huggingface"])
def test_losses_of_samples_are_the_originals(form: str, golden: Path, converted: Path, shared: Path) -> None:
    for name, case in json.loads((golden / "losses.json").read_text()).items():
        stage = "pretrain" if case["geometry"] == "crop" else "finetune"
        rows = {item["id"]: item for item in read_jsonl(shared / "golden" / f"{stage}_samples.jsonl")}
        found = look(golden / form, golden, stage, [rows[identity] for identity in case["ids"]], "--loss")
        assert [row["id"] for row in found] == case["ids"]
        assert [row["loss"] for row in found] == pytest.approx(case["loss_per_sample"], rel=1e-5), name


@pytest.mark.parametrize(("stage", "count"), [("finetune", 200), ("pretrain", 40)])
def test_the_exported_tokenizer_gives_the_golden_ids(
    stage: str, count: int, golden: Path, converted: Path, shared: Path
) -> None:
    rows = read_jsonl(shared / "golden" / f"{stage}_samples.jsonl")
    assert not (converted / "tokenizer.model").exists()
    found = look(converted, golden, stage, rows)
    assert len(found) == count
    for row, wanted in zip(found, rows, strict=True):
        ids, labels = [], []
        for token, label in zip(wanted["input_ids"], wanted["labels"], strict=True):
            ids.extend([32000] * 576 if token == -200 else [token])
            labels.extend([-100] * 576 if token == -200 else [label])
        assert (row["input_ids"], row["labels"]) == (ids[:2048], labels[:2048]), row["id"]


def test_a_prompt_begins_with_one_bos_however_it_is_rendered(golden: Path, converted: Path) -> None:
    from transformers import AutoProcessor, AutoTokenizer

    processor, tokenizer = AutoProcessor.from_pretrained(converted), AutoTokenizer.from_pretrained(converted)
    message = [{"role": "user", "content": [{"type": "text", "text": "What is  this? 你好"}]}]
    conversation = [{"from": "human", "value": "What is  this? 你好"}, {"from": "gpt", "value": "x"}]
    trained = look(converted, golden, "finetune", [{"id": "a", "conversations": conversation}])[0]
    prompt = trained["input_ids"][: next(k for k, label in enumerate(trained["labels"]) if label != -100)]
    rendered = processor.apply_chat_template(message, add_generation_prompt=True)
    ways = {
        "processor, rendered first": processor(text=rendered)["input_ids"][0],
        "processor, in one": processor.apply_chat_template(
            message, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0],
        # A server tokenises a rendered chat without adding special tokens, and a plain prompt with them.
        "server, chat": tokenizer(rendered, add_special_tokens=False)["input_ids"],
        "server, prompt": tokenizer(rendered)["input_ids"],
        "tokenizer": tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False),
    }
    assert prompt[0] == 1
    for way, ids in ways.items():
        assert list(ids) == prompt, way


def test_the_round_trip_changes_no_weight(golden: Path, converted: Path, tmp_path: Path) -> None:
    out = tmp_path / "original"
    arguments = ["--model", str(converted), "--tokenizer", str(golden / "checkpoint"), "--out", str(out)]
    convert.main(["--to", "original", *arguments])
    for old, new in (("checkpoint", out), ("vision_tower", out / "vision_tower")):
        expected, found = load_file(golden / old / "model.safetensors"), load_file(new / "model.safetensors")
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), old
    before = json.loads((golden / "checkpoint" / "config.json").read_text())
    after = json.loads((out / "config.json").read_text())
    # Where the tower lies, a flag of the original's training, and who wrote the file.
    free = {"mm_vision_tower", "tune_mm_mlp_adapter", "transformers_version"}
    assert {key: after.get(key) for key in before.keys() - free} == {key: before[key] for key in before.keys() - free}
    convert.main(["--to", "huggingface", "--model", str(out), "--out", str(tmp_path / "again")])
    for file in converted.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_pickled_checkpoints_in_parts_are_read(golden: Path, converted: Path, tmp_path: Path) -> None:
    weights = load_file(golden / "checkpoint" / "model.safetensors")
    # As the published ones: without the tower, in two files.
    weights = {name: value for name, value in weights.items() if "vision_tower" not in name}
    names = sorted(weights)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, members in parts.items():
        torch.save({name: weights[name] for name in members}, tmp_path / file)
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.model"):
        shutil.copyfile(golden / "checkpoint" / name, tmp_path / name)
    arguments = ["--model", str(tmp_path), "--vision-tower", str(golden / "vision_tower")]
    convert.main(["--to", "huggingface", *arguments, "--out", str(tmp_path / "out")])
    expected, found = load_file(converted / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_projector_goes_round(golden: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "projector.safetensors", tmp_path / "mm_projector.bin"
    convert.main(["--to", "huggingface", "--projector", str(golden / "mm_projector.bin"), "--out", str(ours)])
    assert sorted(load_file(ours)) == ["linear_1.bias", "linear_1.weight", "linear_2.bias", "linear_2.weight"]
    convert.main(["--to", "original", "--projector", str(ours), "--out", str(theirs)])
    expected = torch.load(golden / "mm_projector.bin", weights_only=True)
    found = torch.load(theirs, weights_only=True)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model.mm_projector.0.weight": Evil()}, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="refused: the pickle holds more than tensors") as caught:
        convert.main(
            ["--to", "huggingface", "--projector", str(tmp_path / "mm_projector.bin"), "--out", str(tmp_path / "out")]
        )
    assert str(tmp_path / "mm_projector.bin") in caught.value.message
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": None, "model_type": "llama"}, "not a LLaVA checkpoint"),
        ({"image_aspect_ratio": "anyres"}, "anyres"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "--vision-tower"),
    ],
)
def test_what_cannot_be_converted_says_why(changes: dict[str, Any], message: str, golden: Path, tmp_path: Path) -> None:
    values = json.loads((golden / "checkpoint" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(CheckpointError) as caught:
        convert.main(["--to", "huggingface", "--model", str(tmp_path), "--out", str(tmp_path / "out")])
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_weights_are_named(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "cut.bin").write_bytes(b"PK\x03\x04half")
    (tmp_path / "page.bin").write_bytes(b"<html>not found</html>")
    torch.save([1, 2], tmp_path / "list.bin")
    save_file({"linear_1.weight": torch.zeros(1)}, tmp_path / "half.safetensors")
    for name, to in (("cut.bin", "huggingface"), ("page.bin", "huggingface"), ("list.bin", "huggingface")):
        with pytest.raises(CheckpointError, match=name):
            convert.main(["--to", to, "--projector", str(tmp_path / name), "--out", str(tmp_path / "out")])
    with pytest.raises(CheckpointError, match=r"half\.safetensors: no linear_1\.bias"):
        convert.main(
            ["--to", "original", "--projector", str(tmp_path / "half.safetensors"), "--out", str(tmp_path / "out")]
        )
    with pytest.raises(CheckpointError, match="neither --model nor --projector"):
        convert.main(["--to", "original", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_loss_needs_weights_and_images(golden: Path, tmp_path: Path, tiny: Tiny) -> None:
    arguments = ["--annotations", str(tiny.root / "finetune.json"), "--stage", "finetune", "--out", str(tmp_path / "o")]
    with pytest.raises(TrainError, match="--loss without --images"):
        inspect.main(["--model", str(tiny.language_model), *arguments, "--loss"])
    with pytest.raises(TrainError, match="not a LLaVA checkpoint"):
        inspect.main(["--model", str(tiny.language_model), *arguments, "--images", str(tiny.images), "--loss"])
