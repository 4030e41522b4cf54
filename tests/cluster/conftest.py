"""The paper's configuration, what was measured, and what a GPU node of two H200s says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safe_llava.cluster.estimates.measured import Measured, read_measured
from safe_llava.config.load import load
from safe_llava.config.schema import Config
from safe_llava.config.selection import config_files

H200 = {"name": "NVIDIA H200", "memory": 150109880320}


@pytest.fixture(scope="session")
def paper() -> Config:
    return load(config_files())


@pytest.fixture(scope="session")
def measured() -> Measured:
    return read_measured()


@pytest.fixture
def facts() -> dict[str, Any]:
    """What ``cluster.node`` wrote on a machine with two H200s (2026-11-21), in the train image of a job."""
    room = {"free_bytes": 137411338240, "free_files": 16653165, "error": None}
    return {
        "host": "node7",
        "slurm_job": "4711",
        "python": "3.12.3",
        "cpus": 32,
        "image": {"path": "/images/train.sif", "labels": {"safe-llava.tag": "0123abcd"}},
        "packages": {"torch": "2.11.0", "transformers": "5.17.0", "deepspeed": "0.19.8", "pydantic": "2.14.3"},
        "gpus": {"devices": [H200, H200], "why_none": None, "cuda": "13.0"},
        "loaded": {},
        "all_reduce": {"backend": "nccl", "gb_per_s": 251.02, "right": True},
        "folders": [{"path": "results", **room}],
        "scratch": {"path": "/tmp", **room},
    }


def configured(changes: Path | str, folder: Path) -> Config:
    """The paper's configuration with YAML text laid over it."""
    file = folder / "changes.yaml"
    file.write_text(str(changes))
    return load(config_files([file]))
