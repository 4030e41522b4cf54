"""Read and write weights a tensor at a time: a model of 8 billion parameters passes through a few gigabytes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safe_llava.checkpoints.whole import check_file, check_folder, weight_files
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import write_json

SHARD_BYTES = 2 << 30
WEIGHTS_INDEX = "model.safetensors.index.json"
# What the classes of transformers 5 call their parts, and what published checkpoints call them: every version of
# transformers and vLLM reads these.
PUBLIC_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
    "model.vision_tower.": "vision_tower.",
}
VIT = "vision_tower.vision_model."  # a CLIP or SigLIP tower has one more level in published checkpoints


def public_name(name: str, tower: str = VIT) -> str:
    """Return a parameter's name in published checkpoints.

    Args:
        tower: what the names of the vision tower's weights begin with there.
    """
    for ours, public in PUBLIC_NAMES.items():
        if name.startswith(ours):
            return (tower if public == "vision_tower." else public) + name.removeprefix(ours)
    return name


def read_file(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of one file by name; safetensors one at a time, a pickle where it holds tensors alone.

    Raises:
        CheckpointError: the file cannot be read, or it is a pickle that could run code.
    """
    if file.is_dir():
        raise CheckpointError(f"{file}: a folder, not a file of weights", "name the file in it")
    try:
        check_file(file)
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield name, opened.get_tensor(name)
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: refused: the pickle holds more than tensors, and reading it could run code: "
            f"{str(error).splitlines()[0]}",
            "do not trust this file; fetch the checkpoint from its publisher, as safetensors if there is one",
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{file}: the weights cannot be read: {str(error).splitlines()[0]}", CHECKPOINT_AGAIN
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{file}: not a state dict: a mapping of names to tensors", CHECKPOINT_AGAIN)
    for name, value in state.items():
        yield str(name), value


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint by name, one in memory at a time where the files are safetensors.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    check_folder(folder)
    for file in weight_files(folder):
        yield from read_file(file)


class WeightsWriter:
    """Writes tensors to ``model-00001-of-….safetensors`` and an index, as many at once as ``SHARD_BYTES`` hold.

    Args:
        folder: where to; it exists.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._limit = folder, shard_bytes
        self._held: dict[str, torch.Tensor] = {}
        self._shards: list[tuple[Path, list[str]]] = []
        self._bytes = self.total = 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor.

        Raises:
            CheckpointError: one of that name came before.
        """
        if name in self.shapes:
            raise CheckpointError(f"two weights of the checkpoint become {name}", CHECKPOINT_AGAIN)
        if self._held and self._bytes + tensor.nbytes > self._limit:
            self._write()
        tensor = tensor.contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()  # a view, as a slice of a larger weight is, would keep all of that weight
        self.shapes[name] = tuple(tensor.shape)
        self._held[name] = tensor
        self._bytes += tensor.nbytes
        self.total += tensor.nbytes

    def close(self) -> None:
        """Write what is left, give the files their names, and write the index."""
        if self._held:
            self._write()
        weight_map = {}
        for number, (file, names) in enumerate(self._shards, start=1):
            final = f"model-{number:05}-of-{len(self._shards):05}.safetensors"
            file.rename(self._folder / final)
            weight_map.update(dict.fromkeys(names, final))
        write_json(self._folder / WEIGHTS_INDEX, {"metadata": {"total_size": self.total}, "weight_map": weight_map})

    def _write(self) -> None:
        file = self._folder / f"shard-{len(self._shards)}.safetensors"
        save_file(self._held, file, metadata={"format": "pt"})
        self._shards.append((file, list(self._held)))
        self._held, self._bytes = {}, 0


def grown(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Return an embedding or head with at least ``rows`` rows; new ones are the mean of the others.

    The mean of the logits is never the largest, so no greedy answer changes.
    """
    missing = rows - len(tensor)
    if missing <= 0:
        return tensor
    mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(missing, -1)])


def check_fit(model_class: Any, config: Any, shapes: Mapping[str, tuple[int, ...]], tower: str = VIT) -> None:
    """Check that weights by their published names are those of a model, none missing and none over.

    Args:
        tower: as for ``public_name``.

    Raises:
        CheckpointError: naming the first that differs.
    """
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in model_class(config).named_parameters()}
    except Exception as error:  # of values that make no model, it raises whatever comes
        fault = f"config.json makes no {model_class.__name__}: {type(error).__name__}: {error}"
        raise CheckpointError(fault, CHECKPOINT_AGAIN) from error
    expected = {public_name(name, tower): shape for name, shape in expected.items()}
    wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if wrong:
        raise CheckpointError(
            f"the weights do not fit {model_class.__name__}: {wrong[0]} is {shapes.get(wrong[0], 'absent')}, not "
            f"{expected.get(wrong[0], 'known')} ({len(wrong)} differ)",
            CHECKPOINT_AGAIN,
        )
