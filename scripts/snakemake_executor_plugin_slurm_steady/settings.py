"""The executor's settings: those of the published plugin, and the site's names.

Snakemake reads the types of the fields as types: no postponed annotations here.
"""

from dataclasses import dataclass, field
from typing import Optional

from snakemake_executor_plugin_slurm import ExecutorSettings as PublishedSettings


@dataclass
class ExecutorSettings(PublishedSettings):
    """What may be set on the command line or in a profile, as ``slurm-steady-…``."""

    # The published default asks the controller while the command line is read.
    status_command: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "Not used: squeue is asked, and sacct for what it has forgotten."}
    )
    account: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "The account that is charged; none if it is not given."}
    )
    partition: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "The partition of jobs without GPUs; the site's default if it is not given."}
    )
    gpu_partition: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "The partition of jobs with GPUs; as for the others if it is not given."}
    )

    def __post_init__(self) -> None:
        """Have SLURM requeue nothing unless that is asked for: what was interrupted is submitted again."""
        super().__post_init__()
        self.no_requeue = not self.requeue
