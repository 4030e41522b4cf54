"""The results of a finished training: kept beside its checkpoints, and linked to their places.

Snakemake deletes what a job made when the job ends badly, also when its machine is lost after the last step. So the
results outlive the checkpoints, and the same command links them again. A link takes no room; where the model is deleted
later, its own size stays, not that of a checkpoint, which is six times it. They are of use to the same code alone
(``made_with``): who has changed it, and runs the stage again, wants it trained again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safe_llava
from safe_llava.core.files import atomic_path
from safe_llava.core.provenance import container_record, package_versions

MODEL, METRICS, SUMMARY = "model", "metrics.csv", "summary.json"  # as they are kept


def made_with() -> dict[str, Any]:
    """Return what a result follows from beside the fingerprint of its run: this package, the libraries, the image."""
    code = hashlib.sha256()
    for file in sorted(Path(safe_llava.__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    return {"code_sha256": code.hexdigest(), "packages": package_versions(), "image": container_record()}


def give(kept: Path, places: Mapping[str, Path]) -> None:
    """Put what is kept in its places, each whole or not at all.

    Raises:
        TrainError: a folder of another kind is in the place, or the disk does not take a copy.
    """
    from safe_llava.checkpoints.folder import whole_folder

    for name, target in places.items():
        source = kept / name
        if source.is_dir():
            with whole_folder(target) as partial:
                shutil.copytree(source, partial, copy_function=_link, dirs_exist_ok=True)
        else:
            with atomic_path(target) as temporary:
                temporary.unlink()
                _link(source, temporary)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
