"""Read and write weights a tensor at a time: a model of 8 billion parameters passes through a few gigabytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safe_llava.core.errors import CHECKPOINT_AGAIN, EngineError
from safe_llava.core.files import read_json, write_json

SHARD_BYTES = 2 << 30
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint.

    Raises:
        EngineError: there are none, or a file that the index names is missing. Pickles are never read.
    """
    index = folder / INDEX
    if index.is_file():
        named = sorted(set(read_json(index, CHECKPOINT_AGAIN)["weight_map"].values()))
        files = [folder / Path(name).name for name in named]
    else:
        files = sorted(folder.glob("*.safetensors"))
    for file in files:
        if not file.is_file():
            raise EngineError(f"{file}: no such file, and {index.name} names it", CHECKPOINT_AGAIN)
    if files:
        return files
    if pickles := sorted(folder.glob("*.bin")):
        raise EngineError(
            f"{pickles[0]}: the weights are a pickle, and reading one can run code",
            "fetch the checkpoint as safetensors, or have its publisher's library write them",
        )
    raise EngineError(f"{folder}: no *.safetensors there", CHECKPOINT_AGAIN)


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint by name, one in memory at a time.

    Raises:
        EngineError: a file cannot be read.
    """
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise EngineError(f"{file}: the weights cannot be read: {error}", CHECKPOINT_AGAIN) from error


class ShardWriter:
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
            EngineError: one of that name came before.
        """
        if name in self.shapes:
            raise EngineError(f"two weights of the checkpoint become {name}", CHECKPOINT_AGAIN)
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
        write_json(self._folder / INDEX, {"metadata": {"total_size": self.total}, "weight_map": weight_map})

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


def check_fit(model_class: Any, config: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Check that weights by their published names are those of a model, none missing and none over.

    Raises:
        EngineError: naming the first that differs.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in model_class(config).named_parameters()}
    expected = {public_name(name): shape for name, shape in expected.items()}
    wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if wrong:
        raise EngineError(
            f"the weights do not fit {model_class.__name__}: {wrong[0]} is {shapes.get(wrong[0], 'absent')}, not "
            f"{expected.get(wrong[0], 'known')} ({len(wrong)} differ)",
            CHECKPOINT_AGAIN,
        )


# What the classes of transformers 5 call their parts, and what published checkpoints call them.
PUBLIC = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
    "model.vision_tower.": "vision_tower.",
}


def public_name(name: str) -> str:
    """Return a parameter's name in published checkpoints, which transformers and vLLM read.

    A SigLIP tower has one more level there: ``vision_tower.vision_model``.
    """
    for ours, public in PUBLIC.items():
        if name.startswith(ours):
            return public + name.removeprefix(ours)
    return name
