"""The executor's settings: those of the published plugin, and the site's names.

Snakemake reads the types of the fields as types: no postponed annotations here.
"""

# ruff: noqa: UP045
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Optional

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_slurm_steady.published import PublishedSettings

NO_ARRAYS = "what happens to one job is undone by submitting that one again, so each job is an sbatch of its own"


def _refused(default: Any, why: str) -> Any:
    return field(default=default, metadata={"help": f"Refused: {why}.", "refused": why})


@dataclass
class ExecutorSettings(PublishedSettings):
    """What may be set on the command line or in a profile, as ``slurm-steady-…``."""

    # Those of this process: a dry run hides them from the Snakefile, which says what a run will miss.
    given: ClassVar[Any] = None

    account: Optional[str] = field(
        default=None, metadata={"help": "The account that is charged; none if it is not given."}
    )
    partition: Optional[str] = field(
        default=None, metadata={"help": "The partition of jobs without GPUs; the site's default if it is not given."}
    )
    gpu_partition: Optional[str] = field(
        default=None, metadata={"help": "The partition of jobs with GPUs; as for the others if it is not given."}
    )
    no_account: bool = field(
        default=False, metadata={"help": "Name no account to SLURM, whatever a rule or the profile says."}
    )
    pass_command_as_script: bool = field(default=False, metadata={"help": "Always so: sbatch reads a script."})
    # The published default asks the controller while the command line is read.
    status_command: Optional[str] = _refused(None, "squeue is asked, and sacct for what it has forgotten")
    status_attempts: Optional[int] = _refused(5, "the controller is waited for, a day while jobs run")
    init_seconds_before_status_checks: Optional[int] = _refused(
        40, "a job that ends says so itself, and squeue is asked 2 s after a change, then ever more seldom"
    )
    array_jobs: Optional[str] = _refused(None, NO_ARRAYS)
    array_limit: Optional[int] = _refused(1000, NO_ARRAYS)
    disable_memory_fudge: bool = _refused(False, NO_ARRAYS)

    def __post_init__(self) -> None:
        """Refuse what has no effect here, and have SLURM requeue nothing unless that is asked for.

        Raises:
            WorkflowError: an option of the published plugin is set that this executor does not have.
        """
        for one in fields(self):
            if (why := one.metadata.get("refused")) and getattr(self, one.name) not in (one.default, None):
                raise WorkflowError(
                    f"--slurm-steady-{one.name.replace('_', '-')} is refused: {why}\n  remedy: leave it out"
                )
        super().__post_init__()
        self.no_requeue = not self.requeue
        ExecutorSettings.given = self
