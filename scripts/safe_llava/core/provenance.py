"""What a result was made from and with: versions, commit, seed, checksums of the inputs."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safe_llava import __version__
from safe_llava.containers.tag import image_record
from safe_llava.core.files import file_digest

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "lmms-eval", "vllm", "snakemake", "pandas")


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

    Images may have no git: there ``SAFE_LLAVA_COMMIT`` carries the commit of the clone that they see.
    """
    if commit := os.environ.get("SAFE_LLAVA_COMMIT"):
        return commit
    root = Path(__file__).resolve().parent
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


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
        "image": image_record(),
        "inputs": checksums,
        **facts,
    }
