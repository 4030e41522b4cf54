"""A plugin of pytest: the published SLURM plugin's own tests, from its source distribution, try slurm-steady.

The classes that run workflows get this executor and the account of the test cluster; what does not apply here is left
out, with its reason. Everything else tests, as it stands, what slurm-steady takes from the published plugin: the sbatch
call, GPUs, the file of partitions and the program that writes one, times, the efficiency report.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import snakemake_executor_plugin_slurm as published
from snakemake.settings.types import ResourceSettings

from snakemake_executor_plugin_slurm_steady.settings import NO_ARRAYS, ExecutorSettings

# By the beginning of a test's name, file and all.
DOES_NOT_APPLY = {
    "test_array_": f"job arrays are refused: {NO_ARRAYS}",
    "tests.py::TestArrayJobs": "likewise",
    "test_cli.py::test_disable_memory_fudge": "likewise: only arrays need more memory than was asked for",
    "test_account.py": "the account that is named is given to sbatch, which says whether it is valid; none is guessed",
    "test_cli.py::test_jobname_prefix": "each submission has a name of its own, with the prefix (test_options.py)",
    "tests.py::TestSlurmJobIdValidation": "the number is read otherwise: tests/executor/test_parts.py",
}
MEMORY = {"mem_mb": 700}  # a job's own Snakemake needs more than the partition's default, and than a rule's 5 MB


class Settings(ExecutorSettings):
    """The settings that a published test chooses, and the test cluster's account and partition."""

    def __init__(self, **chosen: Any) -> None:
        chosen.pop("init_seconds_before_status_checks", None)  # refused: nothing waits for a first look
        super().__init__(**{"account": "lab", "partition": "cpu", **chosen})


def pytest_configure() -> None:
    """Be what the tests import as the published plugin's settings."""
    published.ExecutorSettings = Settings


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have workflows run by this executor; leave out what does not apply.

    Raises:
        UsageError: no test is what ``DOES_NOT_APPLY`` names, so that a newer version has to be looked at.
    """
    left_out = {
        name: [one for one in items if f"{one.nodeid.rpartition('/')[2]}".startswith(name)] for name in DOES_NOT_APPLY
    }
    if stale := [name for name, found in left_out.items() if not found]:
        raise pytest.UsageError(f"the published plugin has no tests {', '.join(stale)}")
    gone = {one for found in left_out.values() for one in found}
    config.hook.pytest_deselected(items=list(gone))
    items[:] = [one for one in items if one not in gone]
    for kind in {one.cls for one in items if isinstance(one, pytest.Function) and hasattr(one.cls, "get_executor")}:
        kind.get_executor = lambda _: "slurm-steady"
        kind.get_resource_settings = lambda _: ResourceSettings(
            default_resources=MEMORY, overwrite_resources={"c": MEMORY}
        )


@pytest.fixture(autouse=True)
def where_it_was() -> Any:
    """Undo what Snakemake does to its process: it works in the folder of a workflow, and stays there."""
    here = os.getcwd()  # noqa: PTH109
    yield
    os.chdir(here)
