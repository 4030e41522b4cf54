"""The families of models that the engine can ask: what their checkpoints call themselves, and their chat template.

A new family is a row here and a name in ``config.models.EvaluatedModel.family``. Nothing here loads torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safe_llava.checkpoints.whole import ADAPTER, NO_MODEL, check_folder
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError


@dataclass(frozen=True)
class Family:
    """What is known of a family.

    Attributes:
        model_types: ``model_type`` of its checkpoints in transformers' own format.
        template: name of the chat template (``templates.KNOWN``) that its published checkpoints are asked with.
        released_types: ``model_type`` of the formats that ``engine.convert`` turns into that one.
    """

    model_types: frozenset[str]
    template: str
    released_types: frozenset[str] = frozenset()


FAMILIES = {
    "llava": Family(frozenset({"llava"}), "llava"),
    "llava_next": Family(frozenset({"llava_next"}), "llava"),
    "llava_onevision": Family(frozenset({"llava_onevision"}), "llava_onevision"),
    "llava_qwen": Family(frozenset({"llava_onevision", "llava"}), "qwen_1_5", frozenset({"llava_qwen"})),
    "gemma3": Family(frozenset({"gemma3"}), "gemma3"),
    "qwen2_5_vl": Family(frozenset({"qwen2_5_vl"}), "qwen2_5_vl"),
    "internvl": Family(frozenset({"internvl"}), "internvl"),
    "internvl_chat": Family(frozenset({"internvl"}), "internvl2_5", frozenset({"internvl_chat"})),
}
# Families whose published checkpoints are converted before they are asked.
CONVERTED = frozenset(name for name, family in FAMILIES.items() if family.released_types)
ORIGINAL = "llava_llama"  # what LLaVA-1.5's own code writes; `train.convert` reads it


def model_type(model_dir: Path) -> str:
    """Return what a checkpoint calls itself in its ``config.json``.

    Raises:
        CheckpointError: there is none, or it is not the configuration of a model.
    """
    path = model_dir / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {NO_MODEL}: {error!r}", CHECKPOINT_AGAIN) from error


def check_family(model_dir: Path, row: EvaluatedModel) -> None:
    """Check that a folder holds a checkpoint of the row's family, in transformers' own format.

    Raises:
        CheckpointError: it does not.
    """
    check_folder(model_dir)
    _check_type(model_dir, model_type(model_dir), row)
    if (model_dir / ADAPTER).is_file():
        raise CheckpointError(
            f"{model_dir / ADAPTER}: a LoRA adapter beside a whole model: transformers adds it, vLLM does not",
            "move the adapter's files to another folder; merge them first if the model is to be asked with them",
        )


def check_source(model_dir: Path, row: EvaluatedModel) -> None:
    """Check, before anything runs, that a folder of the user's holds what its row says, converted or to be converted.

    Raises:
        CheckpointError: it holds another family, a format that is not converted by itself, or files that are not whole.
    """
    check_folder(model_dir)
    try:
        found = model_type(model_dir)
    except CheckpointError:
        return  # the step that loads it says what is wrong with it
    if found not in FAMILIES[row.family].released_types:
        _check_type(model_dir, found, row)


def _check_type(model_dir: Path, found: str, row: EvaluatedModel) -> None:
    family = FAMILIES[row.family]
    if found in family.model_types:
        return
    path = model_dir / "config.json"
    if found in family.released_types or found == ORIGINAL:
        step = f"engine.convert --family {row.family} --source {model_dir}"
        if found == ORIGINAL:
            step = f"train.convert --to huggingface --model {model_dir} --vision-tower CLIP"
        raise CheckpointError(
            f"{path}: the checkpoint is in its original format, `{found}`",
            f"python -m safe_llava.{step} --out FOLDER, then name FOLDER in the model's row",
        )
    raise CheckpointError(
        f"{path}: the checkpoint is of type `{found}`, its row says `family: {row.family}`",
        "set `family` of the model's row, or where its checkpoint comes from",
    )
