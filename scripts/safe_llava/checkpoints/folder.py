"""A checkpoint's folder, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import read_json, require_replaceable

CONFIG = "config.json"


@contextmanager
def settings_of(folder: Path) -> Iterator[None]:
    """Name the folder where a block finds its settings or weights to be other than their format says.

    Raises:
        CheckpointError: a key is missing, or holds what it cannot hold.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{folder / CONFIG} does not describe such a model: {reason}", CHECKPOINT_AGAIN
        ) from error


@contextmanager
def whole_folder(out: Path, made_here: str = CONFIG) -> Iterator[Path]:
    """Yield a folder beside ``out`` for a checkpoint, and rename it into place when the block succeeds.

    Args:
        made_here: a file that shows that a folder in the place may be replaced.

    Raises:
        CheckpointError: ``out`` exists and is something else, or the disk does not take the checkpoint.
    """
    require_replaceable(out, made_here, CheckpointError)
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    except (OSError, SafetensorError) as error:
        remedy = "free space, then run the same command again; a training resumes from its last checkpoint"
        raise CheckpointError(f"{out}: the checkpoint cannot be written: {error}", remedy) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Put every file of a folder on disk, so that the rename does not outrun them."""
    read_json(folder / CONFIG)
    for file in folder.rglob("*"):
        if file.is_dir():
            continue
        if file.stat().st_nlink == 1:
            file.chmod(0o644)  # safetensors writes files that only their owner can read
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
