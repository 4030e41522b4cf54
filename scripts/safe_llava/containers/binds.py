"""Folders of the machine that container images see beside the working directory and /tmp."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLE = "APPTAINER_BIND"
# What `show` has put into that variable: a job inherits both from the login node, whose folders it need not have.
OURS = "SAFE_LLAVA_BIND"


def show(paths: Iterable[Path | str]) -> None:
    """Let every container image that is started from here on see what lies at these paths, and this machine's scratch.

    What an earlier call has shown is forgotten, on whichever machine that was; what the user shows stays as it is.
    """
    earlier = _listed(OURS)
    users = [bind for bind in _listed(VARIABLE) if bind not in earlier]
    # Not TMPDIR, which may be the login node's: Snakemake hands its shells the same folder as Python finds.
    ours = [bind for bind in dict.fromkeys(outside([*paths, tempfile.gettempdir()])) if bind not in users]
    os.environ[VARIABLE], os.environ[OURS] = ",".join([*users, *ours]), ",".join(ours)


def _listed(variable: str) -> list[str]:
    return [bind for bind in os.environ.get(variable, "").split(",") if bind]


def outside(paths: Iterable[Path | str]) -> Iterator[str]:
    """Yield the folders of paths, each as far as it exists, that are neither /tmp nor in the working directory.

    Steps go by the path as it was named, and its links lead them to where it is: both are yielded.
    """
    for path in map(Path, paths):
        for named in dict.fromkeys([path.resolve(), path.absolute()]):
            found = next(folder for folder in [named, *named.parents] if folder.exists())
            if found not in (Path("/"), Path("/tmp")) and not found.is_relative_to(Path.cwd()):
                yield str(found)
