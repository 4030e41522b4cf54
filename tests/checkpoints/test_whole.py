"""Folders that hold no whole checkpoint are refused, with what they are and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safe_llava.checkpoints.tower import load_config
from safe_llava.checkpoints.weights import read_tensors
from safe_llava.checkpoints.whole import check_folder, file_fault
from safe_llava.core.errors import CheckpointError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 13000000000\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_checkpoint_passes(folder: Path) -> None:
    check_folder(folder)
    assert dict(read_tensors(folder)).keys() == {"a", "b"}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.model", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_refused(name: str, folder: Path) -> None:
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


def test_a_header_that_is_nested_without_end_is_refused(folder: Path) -> None:
    header = b"[" * 200_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file: its header does not read"):
        check_folder(folder)


def test_an_adapter_alone_is_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="a LoRA adapter alone") as caught:
        list(read_tensors(folder))
    assert "merge" in caught.value.remedy


def test_a_projector_alone_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.mm_projector.0.weight": torch.ones(1)}, folder / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="a projector alone") as caught:
        list(read_tensors(folder))
    assert "--projector" in caught.value.remedy


def test_shards_of_a_pickle_are_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for number in (1, 2):
        torch.save({f"w{number}": torch.ones(number)}, folder / f"pytorch_model-{number}.bin")
    index = '{"weight_map": {"w1": "pytorch_model-1.bin", "w2": "pytorch_model-2.bin"}}'
    (folder / "pytorch_model.bin.index.json").write_text(index)
    assert {name: len(value) for name, value in read_tensors(folder)} == {"w1": 1, "w2": 2}
