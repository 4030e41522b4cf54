"""Whether a partition's limits let the jobs start and end: what SLURM says of it against what the rules ask for."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safe_llava.cluster.checks.findings import CheckResult, CheckState

# Hidden partitions, to which jobs may be submitted, are among all only.
SINFO = ("sinfo", "--all", "--noheader", "--Node", "--format=%P|%l|%c|%m|%G|%a|%T")
SECONDS = 60.0
# With * behind it, a node does not answer.
DOWN = re.compile(r"down|drain|fail|maint|power|unk|inval|reboot|\*$", re.IGNORECASE)
WHERE = "SLURM"
BEST_FIRST: tuple[CheckState, ...] = ("ok", "open", "red")


@dataclass(frozen=True)
class Ask:
    """What one kind of job asks for.

    Args:
        job: the rule, and the model where its jobs differ by it.
        partition: several between commas: SLURM takes the one where the job starts first; null: the site's default.
        gpus, cpus, memory_mb: on each machine.
        minutes: time limit; None: the partition's.
        hours: how long it is estimated to take; None where nobody knows.
        resumes: whether it goes on from what it has saved, so that several jobs may share the work.
    """

    job: str
    partition: str | None
    nodes: int = 1
    gpus: int = 0
    cpus: int = 1
    memory_mb: int = 0
    minutes: int | None = None
    hours: float | None = None
    resumes: bool = False


@dataclass(frozen=True)
class ClusterNode:
    """A node as one of its partitions shows it; ``minutes`` is the partition's time limit, None: no limit."""

    partition: str
    default: bool
    minutes: int | None
    cpus: int
    memory_mb: int
    gpus: int
    up: bool


def ask_sinfo() -> str:
    """Return what sinfo prints; "" where there is none, or it gets no answer."""
    try:
        done = subprocess.run(SINFO, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def parse_sinfo(text: str) -> list[ClusterNode]:
    """Read what ``SINFO`` prints: a line a node and partition."""
    nodes = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 7:
            continue
        name, limit, cpus, memory, resources, available, state = cells
        up = available == "up" and not DOWN.search(state)
        numbers = (minutes_of(limit), _number(cpus), _number(memory), node_gpus(resources))
        nodes.append(ClusterNode(name.rstrip("*"), name.endswith("*"), *numbers, up))
    return nodes


def minutes_of(limit: str) -> int | None:
    """Return a time limit in minutes: `2-00:00:00`, `12:00:00`, `30:00`; None for `infinite`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (24 * days + hours) * 60 + minutes


def node_gpus(resources: str) -> int:
    """Return the GPUs, or slices of them (MIG), of a node's generic resources: `gpu:h200:8(S:0-1),shm:4` has eight."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu:(?:[^:,(]+:)*(\d+)(?=[(,]|$)", resources))


def check_asks(asks: Iterable[Ask], nodes: Sequence[ClusterNode]) -> list[CheckResult]:
    """Return a line for each kind of job: can it start, and does its time limit suffice?

    Args:
        nodes: none: there was no answer.
    """
    if not nodes:
        remedy = "run this on a login node whose sinfo answers"
        return [CheckResult(WHERE, "partitions", "red", "sinfo gives no answer", remedy)]
    return [_of(ask, nodes) for ask in asks]


def _of(ask: Ask, nodes: Sequence[ClusterNode]) -> CheckResult:
    if ask.partition is None:
        places = {"the default partition": [node for node in nodes if node.default]}
    else:
        places = {name: [n for n in nodes if n.partition == name] for name in ask.partition.split(",")}
    if absent := [name for name, here in places.items() if not here]:
        known = ", ".join(sorted({node.partition for node in nodes}))
        remedy = f"name one of {known} in workflow/profiles/slurm/config.yaml"
        return CheckResult(WHERE, ask.job, "red", f"there is no partition {', '.join(absent)}", remedy)
    found = [_never(ask, here, name) or _time(ask, name) for name, here in places.items()]
    return min(found, key=lambda one: BEST_FIRST.index(one.state))


def _never(ask: Ask, nodes: Sequence[ClusterNode], name: str) -> CheckResult | None:
    """Return what keeps a job from ever starting."""
    limit = nodes[0].minutes
    if limit is not None and ask.minutes is not None and ask.minutes > limit:
        said = f"asks for {ask.minutes} minutes, and {name} gives {limit}"
        remedy = f"--set-resources {ask.job.split()[0]}:runtime={limit}"
        remedy += "; the work goes on in the next job" if ask.resumes else ", or a partition that gives more"
        return CheckResult(WHERE, ask.job, "red", said, remedy)
    fit = [n for n in nodes if _fits(ask, n)]
    if len(fit) < ask.nodes:
        wanted = f"{ask.nodes} × ({ask.gpus} GPUs, {ask.cpus} CPUs, {ask.memory_mb} MB)"
        most = f"at most {max(n.gpus for n in nodes)} GPUs, {max(n.cpus for n in nodes)} CPUs and "
        most += f"{max(n.memory_mb for n in nodes)} MB a node"
        said = f"asks for {wanted}: {len(fit)} of {len(nodes)} nodes of {name} can give that ({most})"
        remedy = (
            "another partition; or fewer processes a node (train.models.NAME.processes, .nodes), or --set-resources"
        )
        return CheckResult(WHERE, ask.job, "red", said, remedy)
    if sum(node.up for node in fit) < ask.nodes:
        said = f"{len(fit)} nodes of {name} could run it, and {sum(node.up for node in fit)} of them are up"
        return CheckResult(
            WHERE, ask.job, "open", said, "it waits until they are back; sinfo -R says why they are away"
        )
    return None


def _fits(ask: Ask, node: ClusterNode) -> bool:
    return node.gpus >= ask.gpus and node.cpus >= ask.cpus and node.memory_mb >= ask.memory_mb


def _time(ask: Ask, name: str) -> CheckResult:
    """Return whether the job's time limit suffices for what it is estimated to take."""
    allowed = f"{name} can run it" if ask.minutes is None else f"{ask.minutes} minutes on {name}"
    if ask.hours is None:
        remedy = f"the first job tells; --set-resources {ask.job.split()[0]}:runtime=MINUTES if it needs more"
        return CheckResult(WHERE, ask.job, "open", f"{allowed}; how long it takes was never measured", remedy)
    estimate = f"estimated {60 * ask.hours:.0f} minutes on the GPUs that were measured"
    if ask.minutes is None or 60 * ask.hours <= ask.minutes:
        return CheckResult(WHERE, ask.job, "ok", f"{allowed}; {estimate}")
    jobs = int(60 * ask.hours // ask.minutes) + 1
    if ask.resumes:
        return CheckResult(WHERE, ask.job, "ok", f"{allowed}; {estimate}, in {jobs} jobs one after the other")
    remedy = f"--set-resources {ask.job.split()[0]}:runtime={int(60 * ask.hours) + 1}"
    return CheckResult(WHERE, ask.job, "open", f"{allowed}; {estimate}", remedy)


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0
