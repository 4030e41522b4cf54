"""Folders that hold no whole checkpoint are refused, with what they are and a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoints.tiny_released import released_llava_qwen, siglip_tower
from safe_llava.checkpoints.families import check_family, check_source
from safe_llava.checkpoints.tokenizer import load_tokenizer
from safe_llava.checkpoints.tower import load_config
from safe_llava.checkpoints.weights import read_file, read_tensors
from safe_llava.checkpoints.whole import check_folder, file_fault
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import CheckpointError
from safe_llava.engine import convert as engine_convert
from safe_llava.train import convert as train_convert

TOKENS = {"refusal_soft": 6, "refusal_hard": 6, "implicit_leakage": 9}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 13000000000\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_checkpoint_passes(folder: Path) -> None:
    check_folder(folder)
    assert dict(read_tensors(folder)).keys() == {"a", "b"}


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.model", "tokenizer.json", "merges.txt"),
        *("chat_template.jinja", "additional_chat_templates/tool.jinja"),
    ],
)
def test_a_pointer_of_git_lfs_is_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(POINTER)
    for use in (check_folder, load_config, lambda path: list(read_tensors(path))):
        with pytest.raises(CheckpointError, match=rf"{name}: a pointer of git-lfs") as caught:
            use(folder)
        assert "git lfs pull" in caught.value.remedy


def test_weights_cut_anywhere_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert file_fault(file) is not None, length
    file.write_bytes(whole + b"x")
    assert "did not come whole" in str(file_fault(file))


def test_a_pickle_cut_anywhere_is_refused(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    torch.save({"a": torch.ones(3)}, file)
    whole = file.read_bytes()
    check_folder(folder)
    for length in [*range(8), *range(8, len(whole), 7)]:
        file.write_bytes(whole[:length])
        assert file_fault(file) is not None, length
    file.unlink()
    file.symlink_to(folder / "gone")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: a link to a file that is not there"):
        check_folder(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "[" * 200_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_settings_that_are_no_object_are_named(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"/{name}: "):
        check_folder(folder)


def test_a_header_that_is_nested_without_end_is_refused(folder: Path) -> None:
    header = b"[" * 200_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file: its header does not read"):
        check_folder(folder)


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize(
    ("files", "kind", "remedy"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "a LoRA adapter alone", "merge"),
        (["adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin"], "a LoRA adapter alone", "merge"),
        (["adapter_model.safetensors"], "a LoRA adapter alone", "merge"),
        (["mm_projector.bin", "training_args.bin"], "a projector alone", "--projector"),
        (["mm_projector.safetensors"], "a projector alone", "--projector"),
        (["projector.safetensors"], "a projector alone", "--projector"),
    ],
)
def test_parts_of_a_model_are_named(
    files: list[str], kind: str, remedy: str, configured: bool, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "model.safetensors").unlink()
    if not configured:
        (folder / "config.json").unlink()
    for name in files:
        (folder / name).write_text("{}")
    out = tmp_path_factory.mktemp("out") / "model"
    row = EvaluatedModel.model_validate({"description": "x", "folder": "x", "family": "llava", "new_tokens": TOKENS})
    uses: list[Callable[[], object]] = [
        lambda: check_folder(folder),
        lambda: list(read_tensors(folder)),
        lambda: check_source(folder, row),
        lambda: check_family(folder, row),
        lambda: train_convert.main(["--to", "huggingface", "--model", str(folder), "--out", str(out)]),
        lambda: train_convert.main(["--to", "original", "--model", str(folder), "--out", str(out)]),
        lambda: engine_convert.convert("llava_qwen", folder, out),
    ]
    for use in uses:
        with pytest.raises(CheckpointError, match=kind) as caught:
            use()
        assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_an_adapter_beside_a_whole_model_is_read_over_and_not_asked(name: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").write_text('{"model_type": "llava"}')
    if name != "model.safetensors":
        (folder / "model.safetensors").unlink()
        torch.save({"a": torch.ones(1), "b": torch.ones(1)}, folder / name)
    assert dict(read_tensors(folder)).keys() == {"a", "b"}
    row = EvaluatedModel.model_validate({"description": "x", "folder": "x", "family": "llava", "new_tokens": TOKENS})
    with pytest.raises(CheckpointError, match="beside a whole model"):
        check_family(folder, row)


def test_shards_of_a_pickle_are_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for number in (1, 2):
        torch.save({f"w{number}": torch.ones(number)}, folder / f"pytorch_model-{number}.bin")
    index = '{"weight_map": {"w1": "pytorch_model-1.bin", "w2": "pytorch_model-2.bin"}}'
    (folder / "pytorch_model.bin.index.json").write_text(index)
    assert {name: len(value) for name, value in read_tensors(folder)} == {"w1": 1, "w2": 2}


@pytest.mark.parametrize(("stem", "kind"), [("model", "safetensors"), ("pytorch_model", "bin")])
@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}']
)
def test_an_index_that_names_no_files_is_refused(stem: str, kind: str, index: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / f"{stem}.{kind}.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=rf"{stem}\.{kind}\.index\.json: "):
        check_folder(folder)


@pytest.mark.parametrize(("stem", "kind"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_a_part_that_an_index_names_is_there(stem: str, kind: str, folder: Path) -> None:
    parts = [f"{stem}-{number:05}-of-00002.{kind}" for number in (1, 2)]
    (folder / "model.safetensors").rename(folder / parts[0])
    if kind == "bin":
        torch.save({"a": torch.ones(1)}, folder / parts[0])
    index = json.dumps({"weight_map": {"a": parts[0], "b": parts[1]}})
    (folder / f"{stem}.{kind}.index.json").write_text(index)
    for use in (check_folder, load_config, lambda path: list(read_tensors(path))):
        with pytest.raises(CheckpointError, match=rf"{parts[1]}: no such file, and {stem}"):
            use(folder)
    (folder / f"{stem}.{kind}.index.json").unlink()
    with pytest.raises(CheckpointError, match="1 of 2 parts" if kind == "safetensors" else "neither"):
        list(read_tensors(folder))


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "mm_projector_type", "image_aspect_ratio"])
@pytest.mark.parametrize("value", [None, "x", [], {}, -1])
def test_a_setting_that_makes_no_model_is_one_error(key: str, value: object, tmp_path: Path) -> None:
    released_llava_qwen(tmp_path / "released")
    siglip_tower(tmp_path / "siglip", weights=False)
    file = tmp_path / "released" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    try:
        engine_convert.convert("llava_qwen", tmp_path / "released", tmp_path / "out", tmp_path / "siglip")
    except CheckpointError:
        assert not (tmp_path / "out").exists()
    else:  # what the original takes for its default
        assert key == "image_aspect_ratio" and not value


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_pointer_in_place_of_a_tokenizer_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=rf"{name}: a pointer of git-lfs"):
            load_tokenizer(path, 2048)


def test_a_folder_is_no_projector(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder, not a file of weights"):
        list(read_file(folder))
