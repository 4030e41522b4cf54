"""The tests that Snakemake ships for executors, on the test cluster: a chain of rules, and jobs in groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import snakemake.common.tests
from snakemake.settings import types as settings

from slurm_cluster.conftest import Cluster
from snakemake_executor_plugin_slurm_steady.settings import ExecutorSettings

pytestmark = [pytest.mark.cluster, pytest.mark.newest]


class TestWorkflows(snakemake.common.tests.TestWorkflowsLocalStorageBase):
    __test__ = True

    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        here = os.getcwd()  # noqa: PTH109 (Snakemake works in the folder of the test, and stays there)
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name in ("PATH", "PYTHONPATH"):
            monkeypatch.setenv(name, cluster.environment[name])
        yield
        os.chdir(here)

    def get_executor(self) -> str:
        return "slurm-steady"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(account="lab", partition="cpu")

    def get_resource_settings(self) -> Any:
        """Ask for memory: a job's own Snakemake needs more than the partition's default, and than a rule's 5 MB."""
        memory = {"mem_mb": 700}
        return settings.ResourceSettings(default_resources=memory, overwrite_resources={"c": memory})
