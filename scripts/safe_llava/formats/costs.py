"""The table of what a run took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safe_llava.formats.tables import Count, Number, Text


@dataclass(frozen=True)
class StageCost:
    """What a stage took by one source: hours, GiB of the hungriest job, None where it is unknown."""

    stage: Text
    source: Literal["slurm", "steps"]
    jobs: int
    submissions: Count
    unaccounted: int
    wall_hours: Number
    gpu_hours: Number
    cpu_hours: Number
    max_memory_gib: Number
    states: str = ""
