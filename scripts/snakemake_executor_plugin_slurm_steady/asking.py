"""What a job asks SLURM for: what its rule says, grown after a kill, on the partition of its kind."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_slurm_jobstep import get_cpu_setting, get_gpu_setting, get_node_setting
from snakemake_interface_common.exceptions import WorkflowError

from safe_llava.core.cli import NOTICE
from snakemake_executor_plugin_slurm_steady.published import get_submit_command, set_gres_string, validate_slurm_extra
from snakemake_executor_plugin_slurm_steady.script import PASS_ON

MEMORY = ("mem_mb", "mem_mb_per_cpu")
GROWING = {"memory": MEMORY, "time": ("runtime",)}
# Options of sbatch after which the number that it prints is not that of one job here, or is printed when all is over.
SEVERAL_OR_ELSEWHERE = re.compile(r"(?:^|\s)(?:-M|-a[ =]?\d|--array\b|-W\b|--wait\b|--requeue\b|--test-only\b)")


def asked_for(resources: dict[str, Any]) -> dict[str, Any]:
    """What a rule asks for of that which grows after a kill."""
    return {name: resources[name] for name in (*MEMORY, "runtime") if resources.get(name) is not None}


class Resources(dict[str, Any]):
    """Resources by name, as the published plugin reads them: as attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class AskedJob:
    """A job of Snakemake with other resources; everything else is the job's own."""

    def __init__(self, job: Any, resources: Resources) -> None:
        self._job, self.resources = job, resources

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


def enlarged(resources: dict[str, Any], times: dict[str, int]) -> Resources:
    """Return resources whose memory and time are doubled as often as ``times`` says.

    A rule's numbers are what it needs; only a kill for memory, or at the time limit, shows that they were too small.
    """
    asked = Resources(resources)
    for kind, names in GROWING.items():
        for name in names:
            if isinstance(asked.get(name), int):
                asked[name] = asked[name] << times.get(kind, 0)
    if asked.get("notice"):
        # A notice as long as the job would come at its start, every time.
        longest = int(asked["runtime"]) * 60 // 3 if asked.get("runtime") else int(asked["notice"])
        extra = asked.get("slurm_extra") or ""
        asked["slurm_extra"] = f"{extra} --signal={NOTICE:d}@{min(int(asked['notice']), longest)}".strip()
    if model := asked.pop("gpu_model", None):
        # Said for all rules of a site, it is nothing that a rule without GPUs could ask for.
        if asked.get("gpu"):
            asked["gpu_model"] = model
        elif str(asked.get("gres") or "").startswith("gpu:"):
            asked["gres"] = asked["gres"].replace("gpu:", f"gpu:{model}:", 1)
    if asked.get("nodes", 1) > 1 and not wants_gpu(asked):
        # With its default of one task, sbatch takes one node, whatever was asked for.
        asked.setdefault("tasks", asked["nodes"])
    return asked


def wants_gpu(resources: Resources) -> bool:
    """Whether a job asks for GPUs."""
    return bool(resources.get("gpu")) or "gpu" in str(resources.get("gres") or "")


def sbatch_call(asking: AskedJob, settings: Any, parts: dict[str, Any], avoided: set[str]) -> str:
    """Return the sbatch call, as a line for the shell; the script comes on standard input.

    Args:
        parts: job name, log, comment, account and partition arguments, working directory, by the published plugin's
            names for them.
        avoided: nodes on which the job shall not run.

    Raises:
        WorkflowError: the resources contradict each other, or ``slurm_extra`` says what resources, or this
            executor, are there for.
    """
    validate_slurm_extra(asking)
    if other := [name for name in ("cluster", "clusters", "slurm_cluster") if asking.resources.get(name)]:
        raise WorkflowError(
            f"resource `{other[0]}`: slurm-steady follows the jobs of one cluster, and this one would be on another\n"
            "  remedy: leave it out, and run Snakemake on a login node of that cluster"
        )
    if found := SEVERAL_OR_ELSEWHERE.search(str(asking.resources.get("slurm_extra") or "")):
        raise WorkflowError(
            f"slurm_extra: {found[0].strip()} is refused: slurm-steady submits each job once, does not wait in sbatch, "
            "and follows the jobs of one cluster\n  remedy: leave it out"
        )
    call = get_submit_command(asking, parts, settings=settings, failed_nodes=avoided)
    return f"{call}{set_gres_string(asking)} /dev/stdin"


def log_pattern(log: Path) -> str:
    """A log's path as sbatch takes it: ``%j`` of its name becomes the job's number, a percent of its folder stays."""
    return f"{str(log.parent).replace('%', '%%')}/{log.name}"


def step_call(asking: AskedJob, command: str) -> str:
    """Return a job's command as the one step of its batch script; a rule with ``mpi`` starts its steps itself.

    The published plugin puts a whole Snakemake between the two, whose start costs as much as a short job.
    """
    if "mpi" in asking.resources:
        return command
    sizes = [get_cpu_setting(asking, wants_gpu(asking.resources)), get_gpu_setting(asking), get_node_setting(asking)]
    return f"srun -n1 --cpu-bind=q {' '.join(sizes)} sh -c {shlex.quote(PASS_ON)} step {command}"
