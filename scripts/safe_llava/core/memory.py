"""How much memory a step may take."""

from __future__ import annotations

import math
import re
from pathlib import Path


def usable_memory(root: Path = Path("/")) -> float:
    """Return the bytes of memory that a process may take: what is free, and what any of its cgroups allows.

    A cgroup bounds those below it, too: on a login node it is the user's that does. Source: cgroups(7), both versions.
    """
    free = re.search(r"^MemAvailable:\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    bounds = [int(free[1]) * 1024 if free else math.inf]
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mounted, file = ("memory", "memory.limit_in_bytes") if controllers == "memory" else ("", "memory.max")
        group = root / "sys/fs/cgroup" / mounted / path.lstrip("/")
        found = [(folder / file).read_text().strip() for folder in (group, *group.parents) if (folder / file).is_file()]
        bounds += [int(bound) for bound in found if bound != "max"]
    return min(bounds)
