"""What became of a job: from what SLURM says, what the rule's shell left behind, and the end of the job's log.

Everything here is a function of text. Sources: squeue(1), sacct(1) and slurm.conf(5) of SLURM 22.05; what each event
looks like was seen on the test clusters, of 22.05 and 26.05 (tests/slurm_cluster).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from safe_llava.core.cli import EXIT_RUN_AGAIN

SQUEUE_FORMAT = "%i|%T|%N|%P|%r"
SACCT_FORMAT = "JobIDRaw,State,NodeList"
SIGTERM_EXIT, SIGKILL_EXIT = 143, 137  # 128 + the signal, as a shell says it


class Fate(Enum):
    """What became of a job."""

    ACTIVE = "is queued or runs"
    DONE = "ended well"
    AGAIN = "has saved its work and asks to be run again"
    PREEMPTED = "was preempted"
    NODE_LOST = "lost its node"
    NODE_FAULTY = "met a fault of its node"
    CANCELLED = "was cancelled by somebody else"
    OUT_OF_MEMORY = "was killed for its memory"
    OUT_OF_TIME = "reached its time limit"
    LOST = "is not known to SLURM any more"
    IMPOSSIBLE = "can never start"
    FAILED = "failed"


# How often a job is submitted again after each event. A rule that failed by itself would fail again: never.
ALLOWED = {
    Fate.AGAIN: 50,
    Fate.PREEMPTED: 50,
    Fate.NODE_LOST: 5,
    Fate.NODE_FAULTY: 3,
    Fate.CANCELLED: 2,
    Fate.OUT_OF_MEMORY: 3,
    Fate.OUT_OF_TIME: 2,
    Fate.LOST: 2,
}

# What a job that was killed so is given more of.
GROWS = {Fate.OUT_OF_MEMORY: "memory", Fate.OUT_OF_TIME: "time"}

# SLURM holds the job by itself, until somebody releases it.
HELD_STATES = {"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
CLEAR_STATES = HELD_STATES | {
    "PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING", "REQUEUED",
    "REQUEUE_FED",
}  # fmt: skip
ENDS = {
    "COMPLETED": Fate.DONE,
    "PREEMPTED": Fate.PREEMPTED,
    "NODE_FAIL": Fate.NODE_LOST,
    "BOOT_FAIL": Fate.NODE_LOST,
    "CANCELLED": Fate.CANCELLED,
    "REVOKED": Fate.CANCELLED,
    "OUT_OF_MEMORY": Fate.OUT_OF_MEMORY,
    "TIMEOUT": Fate.OUT_OF_TIME,
    "DEADLINE": Fate.CANCELLED,
    "FAILED": Fate.FAILED,
}
# Reasons why a pending job never starts: what it asks for is more than its partition, account or QOS gives one job.
NEVER = re.compile(
    r"PartitionTimeLimit|PartitionNodeLimit|BadConstraints|Invalid(Account|QOS)|DependencyNeverSatisfied"
    r"|(QOS|Assoc)(Max|Grp).*(PerJob|PerNode)|QOSMin|MaxMemPerLimit|QOSNotAllowed|AccountNotAllowed"
    r"|JobHoldMaxRequeue"
)
# A node could not start the job (its prolog failed, for one): SLURM drains it, and holds the job where it may requeue.
NOT_LAUNCHED = re.compile(r"launch.failed.requeued.held")
# The job starts when what it waits for is there again, or never, if it asks for more than that.
LIMITED = re.compile(r"QOS|Assoc|AccountingPolicy|Max\w+PerAccount|PartitionConfig")
# Somebody holds the job, and may release it.
HELD_BY_SOMEBODY = ("JobHeldUser", "JobHeldAdmin", "job requeued in held state", "job_requeued_in_held_state")
# How slurmstepd says in a job's log that it killed for memory, with and without cgroups; since 26.05 without its name.
KILLED_FOR_MEMORY = re.compile(
    r"slurmstepd.*(exceeded memory limit|oom[-_ ]?kill|out of memory)"
    r"|error: (StepId=\S+ exceeded memory limit|Exceeded job memory limit|Detected \d+ oom[-_ ]?kill event)",
    re.IGNORECASE,
)


# A fault of the machine, as drivers, CUDA, file systems and Apptainer say it in a job's logs: an Xid, memory beyond
# correction, a GPU that is gone or nobody's to use, a driver of two versions, a file system that was mounted anew or
# cut off, no loop device for the container image.
HARDWARE = re.compile(
    r"\b(?-i:Xid)\b[^\n]*\d|uncorrectable (ECC|NVLink) error|ECC_?UNCORRECTABLE|fallen off the bus|\bGPU is lost\b"
    r"|hardware stack error|or a hardware error|\[Hardware Error\]|Unable to determine the device handle for GPU"
    r"|CUDA-capable devices?(\(s\) is/| )are busy or unavailable"
    r"|Driver/library version mismatch|stale (NFS )?file handle|after transport endpoint shutdown"
    r"|\b(no|find|get|allocate|attach|open|set ?up)\b[^\n]{0,40}\bloop device",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sight:
    """A job as SLURM shows it."""

    state: str
    nodes: str = ""
    reason: str = ""
    partition: str = ""

    @property
    def active(self) -> bool:
        """Whether the job may still run."""
        return self.state not in ENDS

    @property
    def unclear(self) -> bool:
        """Whether the state is no news of the job: it is being ended, or a newer SLURM has a state of its own."""
        return self.active and self.state not in CLEAR_STATES


@dataclass(frozen=True)
class Record:
    """What the job's own shells wrote: see ``script.py``; the image is that of the last one, if there was one."""

    started: int = 0
    exits: tuple[int, ...] = ()
    batch: int | None = None
    image: str = ""
    tasks: tuple[tuple[int, str], ...] = ()  # exit code and node of each launcher, the first to say so first

    @property
    def code(self) -> int | None:
        """The exit code of the rule's shell: its failure if there was one; None if it was killed or never began.

        Where a task failed by itself, srun killed the others: what it returns is their code, not the cause.
        """
        failures = [code for code in self.exits if code]
        if failures and failures[-1] in (SIGTERM_EXIT, SIGKILL_EXIT) and self._failed_tasks:
            return self._failed_tasks[0][0]
        if failures:
            return failures[-1]
        return 0 if self.exits and len(self.exits) == self.started else None

    @property
    def first_failed(self) -> str:
        """The node whose launcher was the first to fail by itself; "" where none said so."""
        return self._failed_tasks[0][1] if self._failed_tasks else ""

    @property
    def _failed_tasks(self) -> list[tuple[int, str]]:
        return [task for task in self.tasks if task[0] not in (0, EXIT_RUN_AGAIN)]

    @property
    def killed(self) -> bool:
        """Whether a rule's shell began and had no time to say how it ended."""
        return self.started > len(self.exits)


def parse_squeue(text: str) -> dict[str, Sight]:
    """Read what squeue prints in ``SQUEUE_FORMAT``; one line a job."""
    sights = {}
    for line in text.splitlines():
        job, state, nodes, partition, reason = (part.strip() for part in (line.split("|", 4) + [""] * 5)[:5])
        if job:
            sights[job] = Sight(_plain(state), nodes, reason, partition)
    return sights


def parse_sacct(text: str) -> dict[str, Sight]:
    """Read what ``sacct -X -P`` prints in ``SACCT_FORMAT``; of a requeued job the last line counts.

    Where a job never had nodes, sacct says "None assigned".
    """
    sights = {}
    for line in text.splitlines():
        job, state, nodes = (line.split("|") + [""] * 3)[:3]
        if job.strip():
            sights[job.strip()] = Sight(_plain(state), nodes.strip().removeprefix("None assigned"))
    return sights


def _plain(state: str) -> str:
    """A state without what may follow it ("CANCELLED by 0", "CANCELLED+").

    Of several in a list (newer versions: "CANCELLED,COMPLETING") the one counts that says the job is not over.
    """
    states = [one.rstrip("+") for one in (state.split() or [""])[0].split(",")]
    held = next((one for one in states if one in HELD_STATES), None)
    return held or next((one for one in states if one not in ENDS), states[0])


def parse_record(text: str) -> Record:
    """Read what a job's shells wrote; a last line that was cut off counts as absent."""
    started, batch, image = 0, None, ""
    exits: list[int] = []
    tasks: list[tuple[int, str]] = []
    for line in text.splitlines():
        word, _, code = line.partition(" ")
        if word == "started":
            started, image = started + 1, code
        elif word == "exit" and code.isdigit():
            exits.append(int(code))
        elif word == "started-batch":
            # SLURM ran the job once more: what the run before wrote is no longer true.
            started, batch, image, exits, tasks = 0, None, "", [], []
        elif word == "task" and (found := re.fullmatch(r"(\d+) ?(\S*)", code)):
            tasks.append((int(found[1]), found[2]))
        elif word == "batch" and code.isdigit():
            batch = int(code)
    return Record(started, tuple(exits), batch, image, tuple(tasks))


def parse_given(text: str) -> dict[str, int]:
    """Read what SLURM gave a job, from ``scontrol show job -o``, in the units of resources: MB and minutes.

    A job that asks for no memory, or no time, gets its partition's default: for a CPU, a node or, where it has GPUs, a
    GPU (``DefMemPerGPU``), of which only the sum over all nodes is shown. What has no limit is left out.
    """
    fields: dict[str, str] = {}
    for name, _, value in (word.partition("=") for word in text.split()):
        fields.setdefault(name, value)  # a comment or a path may hold the like, behind it
    given = {}
    for name, key in (("mem_mb_per_cpu", "MinMemoryCPU"), ("mem_mb", "MinMemoryNode")):
        if megabytes := _megabytes(fields.get(key, "")):
            given[name] = megabytes
    if not given and fields.get("MemPerTres", "").startswith("gpu:"):
        allocated = re.search(r"(?:^|,)mem=([^,]+)", fields.get("AllocTRES") or fields.get("TRES", ""))
        if megabytes := _megabytes(allocated[1]) if allocated else 0:
            given["mem_mb"] = -(-megabytes // int(fields.get("NumNodes", "1").partition("-")[0]))
    if found := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", fields.get("TimeLimit", "")):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        given["runtime"] = days * 1440 + hours * 60 + minutes + (seconds > 0)
    return given


def _megabytes(size: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", size)
    return int(float(found[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[found[2]]) if found else 0


def fate_of(sight: Sight, record: Record, log: str) -> Fate:
    """Say what became of a job that SLURM shows.

    Args:
        log: the last lines of the job's logs: SLURM's, where slurmstepd writes why it killed, and the rule's.
    """
    if sight.active and NOT_LAUNCHED.search(sight.reason):
        return Fate.NODE_FAULTY
    if sight.active:
        return Fate.IMPOSSIBLE if sight.state in HELD_STATES or _never(sight) else Fate.ACTIVE
    fate = ENDS[sight.state]
    if record.code == EXIT_RUN_AGAIN and fate in (Fate.FAILED, Fate.OUT_OF_TIME):
        return Fate.AGAIN
    return explain_failure(record, log) if fate is Fate.FAILED else fate


def _never(sight: Sight) -> bool:
    """Whether a pending job can never start. Of several partitions SLURM names one's reason: another may take it."""
    elsewhere = "," in sight.partition and sight.reason.startswith("Partition")
    return sight.state == "PENDING" and bool(NEVER.search(sight.reason)) and not elsewhere


def fate_of_unseen(record: Record, log: str) -> Fate:
    """Say what became of a job that SLURM does not show any more."""
    if record.batch is None:
        return Fate.LOST
    if record.batch == 0:
        return Fate.DONE
    return Fate.AGAIN if record.code == EXIT_RUN_AGAIN else explain_failure(record, log)


def why(slurm_id: str, fate: Fate, sight: Sight, times: int) -> str:
    """Say of a job that is not submitted again what became of it, and what helps."""
    reason = f" ({sight.state}: {sight.reason})" if fate is Fate.IMPOSSIBLE else ""
    often = f", {times} times" if times > 1 else ""
    remedy = {
        Fate.IMPOSSIBLE: "ask for less in the rule's resources, or name another partition in the profile",
        Fate.OUT_OF_MEMORY: "give the rule more mem_mb: --set-resources RULE:mem_mb=N",
        Fate.OUT_OF_TIME: "give the rule more runtime: --set-resources RULE:runtime=MINUTES",
        Fate.FAILED: "its log says why",
        Fate.NODE_FAULTY: "have the nodes looked at; --slurm-steady-exclude-failed-nodes leaves some out",
    }.get(fate, "see what befell the cluster, then run the same command again")
    return f"SLURM job {slurm_id} {fate.value}{reason}{often}.\n  remedy: {remedy}\n"


def explain_failure(record: Record, log: str) -> Fate:
    """Say why a job failed: a defect, or a signal from outside."""
    if record.code == SIGTERM_EXIT:
        return Fate.CANCELLED
    if HARDWARE.search(log):
        return Fate.NODE_FAULTY
    if record.code == SIGKILL_EXIT or KILLED_FOR_MEMORY.search(log):
        return Fate.OUT_OF_MEMORY
    # Without a word from anybody: the kernel kills so for memory, step and all.
    return Fate.OUT_OF_MEMORY if record.killed else Fate.FAILED
