"""Folders of the machine that images see beside the working directory and /tmp."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLE = "APPTAINER_BIND"


def show(paths: Iterable[Path | str]) -> None:
    """Let every image that is started from here on see what lies at these paths, and the scratch of ``TMPDIR``."""
    shown = [*filter(None, os.environ.get(VARIABLE, "").split(",")), *outside(paths)]
    shown += outside(filter(None, [os.environ.get("TMPDIR")]))
    os.environ[VARIABLE] = ",".join(dict.fromkeys(shown))


def outside(paths: Iterable[Path | str]) -> Iterator[str]:
    """Yield the folders behind paths, each as far as it exists, that are not below the working directory."""
    for path in map(Path, paths):
        found = next(folder for folder in [path.resolve(), *path.resolve().parents] if folder.exists())
        if found != Path("/") and not found.is_relative_to(Path.cwd()):
            yield str(found)
