"""Turn a checkpoint in its publisher's format into one that transformers and vLLM load without the publisher's code.

``python -m safe_llava.engine.convert --family llava_qwen --source SNAPSHOT --out FOLDER`` reads a checkpoint of
LLaVA-NeXT's code, ``--family internvl_chat`` one of OpenGVLab's. Weights are read as tensors
alone: no code of the checkpoint is run. A few gigabytes of memory do for 8 billion parameters. A checkpoint that is
already in transformers' format is taken over as it is, its large files linked.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from safe_llava.checkpoints.families import CONVERTED, FAMILIES, model_type
from safe_llava.checkpoints.folder import settings_of, whole_folder
from safe_llava.checkpoints.whole import check_folder
from safe_llava.core import cli
from safe_llava.core.errors import CheckpointError
from safe_llava.core.files import file_digest, write_json
from safe_llava.core.imports import light_transformers

LOG = logging.getLogger(__name__)
RECORD = "conversion.json"
READ = ("*.safetensors", "*.bin", "*.json", "*.model", "merges.txt")  # what a checkpoint consists of


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.engine.convert", description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=sorted(CONVERTED), required=True, help="family of the checkpoint")
    parser.add_argument("--source", type=Path, required=True, help="folder of the checkpoint as it was published")
    parser.add_argument("--vision-tower", type=Path, help="folder of its vision tower, where the checkpoint lacks it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser


def convert(family: str, source: Path, out: Path, vision_tower: Path | None = None) -> None:
    """Write a published checkpoint to the folder ``out`` in transformers' format, whole or not at all.

    Args:
        vision_tower: folder of the vision tower's checkpoint (``llava_qwen`` only).

    Raises:
        CheckpointError: the checkpoint is of another kind or incomplete, or ``out`` cannot be written.
    """
    check_folder(source)
    found = model_type(source)
    if found not in FAMILIES[family].released_types | FAMILIES[family].model_types:
        raise CheckpointError(
            f"{source}/config.json: the checkpoint is of type `{found}`, not one of family `{family}`",
            "set `family` of the model's row, or where its checkpoint comes from",
        )
    with whole_folder(out, RECORD) as partial:
        if found in FAMILIES[family].model_types:
            _take_over(source, partial)
        else:
            with settings_of(source):
                _converter(family, vision_tower)(source, partial)
        folders = {"source": source} | ({"vision_tower": vision_tower} if vision_tower else {})
        digests = {name: _digests(folder) for name, folder in folders.items()}
        write_json(partial / RECORD, {"family": family, "from": found, "sha256": digests})


def _converter(family: str, vision_tower: Path | None) -> Callable[[Path, Path], None]:
    from safe_llava.checkpoints import internvl, llava_qwen

    if family == "internvl_chat":
        return internvl.convert
    return lambda source, folder: llava_qwen.convert(source, folder, vision_tower)


def _take_over(source: Path, folder: Path) -> None:
    for file in sorted(source.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:  # another file system
            shutil.copyfile(file, folder / file.name)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted({file for pattern in READ for file in folder.glob(pattern)})
    return {file.name: file_digest(file) for file in files}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Convert a checkpoint."""
    arguments = parser().parse_args(argv)
    light_transformers()
    convert(arguments.family, arguments.source, arguments.out, arguments.vision_tower)
    LOG.info("wrote %s", arguments.out)
    return None


if __name__ == "__main__":
    cli.run(main)
