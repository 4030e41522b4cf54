"""What a site's jobs have to say: the account and the partition, from the rule, the profile or a file of partitions."""

from __future__ import annotations

import os
import shlex
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_slurm_steady.asking import wants_gpu
from snakemake_executor_plugin_slurm_steady.published import get_best_partition

UNKNOWN = "unknown"  # what the profile says until somebody fills it in


def unfilled(settings: Any) -> list[str]:
    """Return the settings that still say ``unknown`` where a value is needed."""
    chosen = settings.partition_config or os.getenv("SNAKEMAKE_SLURM_PARTITIONS")
    needed = ["account"] * (not settings.no_account) + ["partition", "gpu_partition"] * (not chosen)
    return [f"slurm-steady-{name.replace('_', '-')}" for name in needed if getattr(settings, name) == UNKNOWN]


def check_site(settings: Any) -> None:
    """Check that the profile was filled in.

    Raises:
        WorkflowError: it still says ``unknown`` where it is needed.
    """
    if names := unfilled(settings):
        others = f", and so are {', '.join(names[1:])}" if names[1:] else ""
        raise WorkflowError(
            f"{names[0]} is still `{UNKNOWN}`{others}\n  remedy: write your site's into "
            "workflow/profiles/slurm/config.yaml; `sacctmgr show associations user=$USER` and `sinfo` list them"
        )


def account_argument(job: Any, settings: Any) -> str:
    """The account: the rule's, the profile's, or none; whether it is valid is left to sbatch."""
    account = job.resources.get("slurm_account") or settings.account
    return f" -A {shlex.quote(str(account))}" if account and not settings.no_account else ""


def partition_argument(job: Any, settings: Any, known: Any, logger: Any) -> str:
    """The partition: the rule's, the best of a file of partitions, the profile's for its kind, or the site's default.

    Args:
        known: the partitions of ``partition_config``; None: there is no such file.
    """
    partition = job.resources.get("slurm_partition")
    if not partition and known:
        partition = get_best_partition(known, job, logger)
    gpu = settings.gpu_partition if wants_gpu(job.resources) else None
    partition = partition or gpu or settings.partition
    return f" -p {shlex.quote(str(partition))}" if partition and partition != UNKNOWN else ""
