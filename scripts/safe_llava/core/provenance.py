"""What a result was made from and with: versions, commit, container image, seed, checksums of the inputs."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safe_llava import __version__
from safe_llava.core.files import file_digest, read_json

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "lmms-eval", "vllm", "snakemake")
# Apptainer names the container image in every process that runs in one, and puts its labels there.
CONTAINER_VARIABLE = "APPTAINER_CONTAINER"
LABELS_INSIDE = Path("/.singularity.d/labels.json")


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the installed version of each package, leaving out those that are not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_commit() -> str:
    """Return the commit of this code, ``+changes`` behind it for an edited tree, or ``unknown``.

    Container images may have no git: there ``SAFE_LLAVA_COMMIT`` carries the commit of the clone that they see.
    """
    if commit := os.environ.get("SAFE_LLAVA_COMMIT"):
        return commit
    root = Path(__file__).resolve().parent
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def container_record() -> dict[str, Any] | str:
    """Return what is known of the container image that this process runs in; ``none`` outside of one.

    The note beside the container image holds its sha256 and the labels that spython read; without a note, the labels
    inside the container image describe it.
    """
    path = os.environ.get(CONTAINER_VARIABLE)
    if not path:
        return "none"
    if (note := Path(f"{path}.json")).is_file():
        return {"path": path, **read_json(note, "make the container image again: snakemake images")}
    labels = read_json(LABELS_INSIDE) if LABELS_INSIDE.is_file() else {}
    return {"path": path, "sha256": "unknown", "labels": own_labels(labels)}


def own_labels(labels: dict[str, str]) -> dict[str, str]:
    """Return the labels that this project's definitions gave a container image."""
    return {
        key: value for key, value in sorted(labels.items()) if key.startswith(("safe-llava.", "org.opencontainers."))
    }


def record(inputs: Mapping[str, Path | str] | None = None, **facts: Any) -> dict[str, Any]:
    """Return a provenance record, ready for ``write_json``.

    The environment and the command line are left out on purpose: they may hold secrets.

    Args:
        inputs: files to checksum, by a name for each; a folder is named without a checksum.
        facts: whatever else made the result what it is (seed, resolved configuration, …).
    """
    checksums = {
        name: {"path": str(path), "sha256": file_digest(path) if Path(path).is_file() else "folder"}
        for name, path in (inputs or {}).items()
    }
    return {
        "version": __version__,
        "commit": code_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "image": container_record(),
        "inputs": checksums,
        **facts,
    }
