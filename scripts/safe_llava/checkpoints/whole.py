"""Whether a checkpoint's files are what they should be; light enough for the steps that fetch and pin them."""

from __future__ import annotations

import json
from pathlib import Path

from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/"
FETCH_POINTER = "run `git lfs pull` in the clone that the file is from, or fetch the checkpoint again"
ADAPTER, PROJECTOR = "adapter_config.json", "mm_projector.bin"
BESIDE = {PROJECTOR, "training_args.bin", "trainer_state.bin"}  # pickles that hold no model


def file_fault(file: Path) -> str | None:
    """Return what is wrong with a file by its first bytes and its size, or None: a git-lfs pointer, or cut weights."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(POINTER))
        if head == POINTER:
            return f"a pointer of git-lfs ({size} bytes) stands in place of the file"
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


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no checkpoint, or whose files did not come whole; weights may be missing here.

    Raises:
        CheckpointError: naming the file, or what the folder is instead.
    """
    if (folder / ADAPTER).is_file() and not any(folder.glob("model*.safetensors")):
        raise CheckpointError(
            f"{folder}: a LoRA adapter alone ({ADAPTER}), not a checkpoint",
            "merge it into its base model (peft's merge_and_unload, then save_pretrained), and name that folder",
        )
    weights = [file for pattern in ("*.safetensors", "*.bin") for file in sorted(folder.glob(pattern))]
    if (folder / PROJECTOR).is_file() and {file.name for file in weights} <= BESIDE:
        raise CheckpointError(
            f"{folder}: a projector alone ({PROJECTOR}), not a checkpoint",
            f"convert it with --projector {folder / PROJECTOR}, or name the folder of the whole model",
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json there", CHECKPOINT_AGAIN)
    for file in [*weights, *sorted(folder.glob("*.json")), *sorted(folder.glob("*.model"))]:
        check_file(file)
