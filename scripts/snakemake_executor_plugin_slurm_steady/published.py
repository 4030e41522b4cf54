"""What is taken over from the published plugin, in one place.

Snakemake imports every executor that is installed whenever it starts. The published one imports pandas, for its
efficiency report alone, which takes a quarter of a second: here that happens when a report is made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _ImportedWhenUsed(ModuleType):
    """Stands for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def imported_when_used(name: str) -> Iterator[None]:
    """Within it, ``import NAME`` binds a stand-in, which imports the module when it is used; nobody else sees that."""
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _ImportedWhenUsed(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


with imported_when_used("pandas"):
    from snakemake_executor_plugin_slurm import Executor as PublishedExecutor
    from snakemake_executor_plugin_slurm import ExecutorSettings as PublishedSettings
    from snakemake_executor_plugin_slurm import common_settings
    from snakemake_executor_plugin_slurm.efficiency_report import parse_sacct_data
    from snakemake_executor_plugin_slurm.partitions import get_best_partition
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import get_job_wildcards, set_gres_string
    from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

__all__ = [
    "PublishedExecutor",
    "PublishedSettings",
    "common_settings",
    "get_best_partition",
    "get_job_wildcards",
    "get_submit_command",
    "parse_sacct_data",
    "set_gres_string",
    "validate_slurm_extra",
]
