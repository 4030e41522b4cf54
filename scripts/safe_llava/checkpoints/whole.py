"""Whether a checkpoint's files are what they should be; light enough for the steps that fetch and pin them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError, DataError
from safe_llava.core.files import read_json

POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
FETCH_POINTER = "run `git lfs pull` in the clone that the file is from, or fetch the checkpoint again"
PICKLES = (".bin", ".pt", ".pth")
ADAPTER = "adapter_config.json"
ADAPTERS = (ADAPTER, "adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin")
PROJECTORS = ("mm_projector.bin", "mm_projector.safetensors", "projector.safetensors")
# Files with the names of weights that hold no model.
BESIDE = {*ADAPTERS, *PROJECTORS, "training_args.bin", "trainer_state.bin", "optimizer.bin", "scheduler.bin"}
NO_MODEL = "not the configuration of a model"
MERGE = (
    "merge it into its base model (peft's merge_and_unload, then save_pretrained; LLaVA's own: "
    "scripts/merge_lora_weights.py), and name that folder"
)
# What loaders read as a JSON object, beside the indices of weights.
OBJECTS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.json"),
)


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins so is a pointer of git-lfs, in place of the file itself."""
    return head.startswith(POINTERS)


def file_fault(file: Path) -> str | None:
    """Return what is wrong with a file by its ends and its size, or None: a git-lfs pointer, or cut weights."""
    if not file.exists():
        return "a link to a file that is not there"
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(POINTERS[0]))
        if is_pointer(head):
            return f"a pointer of git-lfs ({size} bytes) stands in place of the file"
        if file.suffix in PICKLES:
            cut = b"PK\x03\x04".startswith(head[:4]) and not zipfile.is_zipfile(file)
            return f"cut off: {size} bytes, and not the end that torch writes" if cut else None
        if file.suffix != ".safetensors":
            return None
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or length + 8 > size:
            return f"cut off: {size} bytes are less than its header"
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return "not a safetensors file: its header does not read"
    expected = 8 + length + max(ends, default=0)
    return None if expected == size else f"{size} bytes, and its header says {expected}: it did not come whole"


def check_file(file: Path) -> None:
    """Refuse a file that is a pointer of git-lfs, or weights that did not come whole.

    Raises:
        CheckpointError: it is.
    """
    if fault := file_fault(file):
        raise CheckpointError(f"{file}: {fault}", FETCH_POINTER if "git-lfs" in fault else CHECKPOINT_AGAIN)


def other_kind(names: Collection[str]) -> tuple[str, str] | None:
    """Return what the files of a folder are instead of a checkpoint, with the remedy; None where nothing shows it."""
    if any(Path(name).suffix in (".safetensors", *PICKLES) and name not in BESIDE for name in names):
        return None
    for found in (name for name in ADAPTERS if name in names):
        return f"a LoRA adapter alone ({found}), not a checkpoint", MERGE
    for found in (name for name in PROJECTORS if name in names):
        remedy = f"convert it with --projector FOLDER/{found}, or name the folder of the whole model"
        return f"a projector alone ({found}), not a checkpoint", remedy
    return None


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no checkpoint, or whose files did not come whole; weights may be missing here.

    Raises:
        CheckpointError: naming the file, or what the folder is instead.
    """
    names = sorted(file.name for file in folder.iterdir() if not file.is_dir()) if folder.is_dir() else []
    if kind := other_kind(names):
        raise CheckpointError(f"{folder}: {kind[0]}", kind[1].replace("FOLDER", str(folder)))
    if "config.json" not in names:
        raise CheckpointError(f"{folder}/config.json: {NO_MODEL}: no such file", CHECKPOINT_AGAIN)
    for name in names:
        check_file(folder / name)
    for file in folder.glob("additional_chat_templates/*.jinja"):
        check_file(file)
    for name in OBJECTS:
        if name in names:
            _read_object(folder / name)
    indexed_files(folder)


def _read_object(file: Path) -> dict[str, object]:
    try:
        value = read_json(file, CHECKPOINT_AGAIN)
    except DataError as error:
        said = error.message.removeprefix(f"{file}: ")
        what = f"{NO_MODEL}: {said}" if file.name == "config.json" else said
        raise CheckpointError(f"{file}: {what}", error.remedy) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: not a JSON object", CHECKPOINT_AGAIN)
    return value


def indexed_files(folder: Path) -> list[Path]:
    """Return the parts of the weights that an index names; none where the weights have no index.

    Raises:
        CheckpointError: the index is none, or a part that it names is missing.
    """
    for stem, kind in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{kind}.index.json"
        if not index.is_file():
            if (folder / f"{stem}.{kind}").exists():
                return []  # the file itself goes before an index of the other kind
            continue
        parts = _read_object(index).get("weight_map")
        if not isinstance(parts, dict) or not parts or not all(isinstance(name, str) for name in parts.values()):
            raise CheckpointError(f"{index}: its `weight_map` names no files", CHECKPOINT_AGAIN)
        names = sorted(set(parts.values()))
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(f"{index}: {name!r} is not in this folder", CHECKPOINT_AGAIN)
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / name}: no such file, and {index.name} names it", CHECKPOINT_AGAIN)
        return [folder / name for name in names]
    return []


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights, whole or in parts: safetensors before pickles.

    Raises:
        CheckpointError: there are none, or a part is missing.
    """
    if parts := indexed_files(folder):
        return parts
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
    if files := sorted(file for file in folder.glob("*.safetensors") if file.name not in BESIDE):
        numbered = [found for file in files if (found := re.fullmatch(r".*-(\d+)-of-(\d+)", file.stem))]
        if numbered and {int(found[1]) for found in numbered} != set(range(1, int(numbered[0][2]) + 1)):
            raise CheckpointError(f"{folder}: {len(numbered)} of {int(numbered[0][2])} parts", CHECKPOINT_AGAIN)
        return files
    raise CheckpointError(
        f"{folder}: neither model.safetensors nor pytorch_model.bin, whole or in parts", CHECKPOINT_AGAIN
    )
