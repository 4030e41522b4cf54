"""What training takes beside its GPUs: disk, memory of the host, and the time in which it saves itself.

``costs``, ``preflight``, the rules and README say what follows from here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safe_llava.cluster.estimates.estimate import StageName, model_size
from safe_llava.cluster.estimates.measured import Measured
from safe_llava.config.schema import Config
from safe_llava.train.loop.planner import OFFLOADED_BYTES, STATE_BYTES

GB = 1e9
SAVED_BYTES = 2  # of an element of a finished model, in bf16
LOADING_MB = 16_000  # of a GPU's loader processes
LEAST_STATE_MB = 128_000  # for models whose size nobody noted
CPU_MB = 4_000  # of a job without GPUs
# The step under way, the first of which compiles (31 s were seen), and the end of the processes (10 s).
NOTICE_SECONDS = 120
UNKNOWN_SECONDS = 600
WRITES = 2  # the checkpoint that is being written when the notice comes, and the last one
MARGIN = 1.5
OTHER_DISK = 11.0  # instead, where the rate was measured on a RAM disk: about 0.5 GB/s


@dataclass(frozen=True)
class Footprint:
    """What a stage takes, in bytes.

    Attributes:
        model: what stays.
        checkpoint: one of its checkpoints, all processes together.
        count: checkpoints that are there at a time: the kept ones, and the new one before the oldest goes.
        staging: memory of each machine's host from which checkpoints are written beside the steps.
        offloaded: memory of each machine's host where the optimizer's state does not fit on the GPUs.
    """

    model: int
    checkpoint: int
    count: int
    staging: int
    offloaded: int

    @property
    def checkpoints(self) -> int:
        """All checkpoints that are there at a time."""
        return self.count * self.checkpoint


def footprint(config: Config, measured: Measured, name: str, stage: StageName = "finetune") -> Footprint | None:
    """Return what a stage of a trained model takes; None where the sizes of the model's parts are not noted."""
    row = config.train.models[name]
    size = model_size(measured, row, stage)
    if size is None:
        return None
    state = STATE_BYTES * size.trained
    return Footprint(
        model=SAVED_BYTES * size.parameters,
        checkpoint=state,
        count=row.checkpoints.keep + 1,
        staging=state // row.nodes,
        offloaded=OFFLOADED_BYTES * size.trained // row.nodes,
    )


def memory_mb(name: str, config: Config, measured: Measured) -> int:
    """Return the memory of each machine that a stage's job asks for, in MB: loaders, and the state in the host."""
    row = config.train.models[name]
    if row.accelerator == "cpu":
        return CPU_MB
    found = footprint(config, measured, name)
    # No more than this lies there at a time: an offloaded state is written from where it is.
    state = math.ceil(max(found.staging, found.offloaded) / 1e6) if found else 0
    return LOADING_MB * row.processes // row.nodes + max(LEAST_STATE_MB, state)


def last_write_seconds(checkpoints: Path) -> float | None:
    """Return how long the newest checkpoint of a run took to write; None without one, or where it does not say."""
    for manifest in sorted(checkpoints.glob("step-????????/manifest.json"), reverse=True):
        try:
            return float(json.loads(manifest.read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def notice_seconds(config: Config, measured: Measured, name: str, stage: StageName, checkpoints: Path) -> int:
    """Return how many seconds before its time limit a job is told to save itself.

    Args:
        checkpoints: folder of the stage's checkpoints: one that was written there says how long the next one takes.
    """
    took, margin = last_write_seconds(checkpoints), MARGIN
    if took is None:
        found, rate = footprint(config, measured, name, stage), config.train.checkpoint_gb_per_s
        if found is None:
            return UNKNOWN_SECONDS
        if rate is None:
            rate, margin = measured.checkpoint.gb_per_s, OTHER_DISK
        took = found.checkpoint / GB / rate
    return NOTICE_SECONDS + round(margin * WRITES * took)
