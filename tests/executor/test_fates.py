"""What SLURM, the job's own record and its log say together, as seen on the test cluster and in SLURM's manuals."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from snakemake_executor_plugin_slurm_steady.fates import (
    ALLOWED,
    Fate,
    Record,
    Sight,
    fate_of,
    fate_of_unseen,
    parse_given,
    parse_record,
    parse_sacct,
    parse_squeue,
)
from snakemake_executor_plugin_slurm_steady.script import RECORD, TRAP, batch_script

OOM_LINE = "slurmstepd-n1: error: StepId=3.0 exceeded memory limit (375814144 > 209715200), being killed"
CGROUP_LINE = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
NEW_OOM_LINE = (
    "[2026-11-29T02:12:34.121] error: StepId=28.0 exceeded memory limit (111591424 > 104857600), being killed"
)
PLAIN, KILLED = Record(1, (1,), 1), Record(1, (), None)


def test_squeue_and_sacct_are_read() -> None:
    text = "6|PENDING||short,long|PartitionTimeLimit\n10|RUNNING|n[1-2]|gpu|None\n\n"
    assert parse_squeue(text) == {
        "6": Sight("PENDING", "", "PartitionTimeLimit", "short,long"),
        "10": Sight("RUNNING", "n[1-2]", "None", "gpu"),
    }
    assert parse_sacct("5|CANCELLED by 0|n1\n7|NODE_FAIL|n2\n") == {
        "5": Sight("CANCELLED", "n1"),
        "7": Sight("NODE_FAIL", "n2"),
    }


# As versions of SLURM print them: states in a list, with a word behind them, cut off; nodes and reasons of their own.
@pytest.mark.parametrize(
    ("line", "sight"),
    [
        ("7|CANCELLED,COMPLETING|n1|gpu|None", Sight("COMPLETING", "n1", "None", "gpu")),
        ("7|RUNNING,COMPLETING|n1|gpu|None", Sight("RUNNING", "n1", "None", "gpu")),
        ("7|TIMEOUT|n1|gpu|TimeLimit", Sight("TIMEOUT", "n1", "TimeLimit", "gpu")),
        ("7|PENDING||gpu|(Resources)", Sight("PENDING", "", "(Resources)", "gpu")),
        ("7|REQUEUED,PENDING||gpu|BeginTime", Sight("REQUEUED", "", "BeginTime", "gpu")),
        ("7|PENDING||gpu|ReqNodeNotAvail, UnavailableNodes:n[1-2]|x", Sight("PENDING", "", "", "gpu")),
    ],
)
def test_states_of_newer_versions_are_read(line: str, sight: Sight) -> None:
    (found,) = parse_squeue(line).values()
    assert (found.state, found.nodes, found.partition) == (sight.state, sight.nodes, sight.partition)
    (accounted,) = parse_sacct("|".join(line.split("|")[:3])).values()
    assert accounted.state == found.state


@pytest.mark.parametrize(
    ("state", "record", "log", "fate"),
    [
        ("RUNNING", Record(), "", Fate.ACTIVE),
        ("COMPLETING", Record(1, (0,), 0), "", Fate.ACTIVE),
        ("SOMETHING_NEW", Record(), "", Fate.ACTIVE),
        ("COMPLETED", Record(1, (0,), 0), "", Fate.DONE),
        ("FAILED", PLAIN, "", Fate.FAILED),
        ("FAILED", Record(), "Snakefile: syntax error", Fate.FAILED),
        ("FAILED", Record(1, (75,), 1), "", Fate.AGAIN),
        ("FAILED", Record(2, (75, 1), 1), "", Fate.FAILED),
        ("FAILED", Record(1, (143,), 1), "", Fate.CANCELLED),
        ("FAILED", Record(1, (137,), 1), "", Fate.OUT_OF_MEMORY),
        # One of two nodes failed, and srun killed the other; or one was killed for its memory.
        ("FAILED", Record(1, (137,), 1, tasks=((3, "n1"),)), "", Fate.FAILED),
        ("FAILED", Record(1, (137,), 1, tasks=((137, ""),)), "", Fate.OUT_OF_MEMORY),
        ("FAILED", Record(1, (75,), 1, tasks=((75, "n1"), (75, "n2"))), "", Fate.AGAIN),
        ("FAILED", KILLED, OOM_LINE, Fate.OUT_OF_MEMORY),
        ("FAILED", Record(), CGROUP_LINE, Fate.OUT_OF_MEMORY),
        ("FAILED", Record(), NEW_OOM_LINE, Fate.OUT_OF_MEMORY),
        ("FAILED", KILLED, "", Fate.OUT_OF_MEMORY),
        ("FAILED", PLAIN, "torch.OutOfMemoryError: CUDA out of memory", Fate.FAILED),
        ("FAILED", PLAIN, "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "RuntimeError: CUDA error: uncorrectable ECC error encountered", Fate.NODE_FAULTY),
        ("FAILED", KILLED, "OSError: [Errno 116] Stale file handle: 'data/x.json'", Fate.NODE_FAULTY),
        (
            "FAILED",
            Record(),
            "FATAL: while mounting image: failed to find loop device: no loop devices",
            Fate.NODE_FAULTY,
        ),
        ("FAILED", PLAIN, "Unable to determine the device handle for GPU0000:4E:00.0: Unknown Error", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "CUDA error: hardware stack error", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "Search for `cudaErrorECCUncorrectable' in the documentation", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "CUDA error: all CUDA-capable devices are busy or unavailable", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "CUDA error: CUDA-capable device(s) is/are busy or unavailable", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "Failed to initialize NVML: Driver/library version mismatch", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "[Errno 108] Cannot send after transport endpoint shutdown: 'x'", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "mount: /mnt: failed to setup loop device for /images/a.sif", Fate.NODE_FAULTY),
        ("FAILED", PLAIN, "all servers are busy or unavailable", Fate.FAILED),
        ("FAILED", PLAIN, "RuntimeError: No CUDA GPUs are available", Fate.FAILED),
        ("FAILED", PLAIN, "CUDA error: an illegal memory access was encountered", Fate.FAILED),
        ("FAILED", PLAIN, "a loop over devices that failed", Fate.FAILED),
        ("FAILED", PLAIN, "KeyError: xid 5", Fate.FAILED),
        ("FAILED", PLAIN, "not moving the loop device tensors", Fate.FAILED),
        ("FAILED", PLAIN, "NCCL error: unhandled cuda error", Fate.FAILED),
        ("OUT_OF_MEMORY", PLAIN, "Stale file handle", Fate.OUT_OF_MEMORY),
        ("OUT_OF_MEMORY", PLAIN, "", Fate.OUT_OF_MEMORY),
        ("TIMEOUT", KILLED, "", Fate.OUT_OF_TIME),
        ("TIMEOUT", Record(1, (75,), None), "", Fate.AGAIN),
        ("CANCELLED", Record(1, (75,), None), "", Fate.CANCELLED),
        ("PREEMPTED", KILLED, "", Fate.PREEMPTED),
        ("NODE_FAIL", KILLED, "", Fate.NODE_LOST),
        ("BOOT_FAIL", Record(), "", Fate.NODE_LOST),
        ("DEADLINE", KILLED, "", Fate.CANCELLED),
    ],
)
def test_what_became_of_a_job(state: str, record: Record, log: str, fate: Fate) -> None:
    assert fate_of(Sight(state), record, log) is fate


@pytest.mark.parametrize(
    ("reason", "fate"),
    [
        ("PartitionTimeLimit", Fate.IMPOSSIBLE),
        ("QOSMaxGRESPerJob", Fate.IMPOSSIBLE),
        ("QOSMaxCpuPerNode", Fate.IMPOSSIBLE),
        ("AssocMaxWallDurationPerJobLimit", Fate.IMPOSSIBLE),
        ("BadConstraints", Fate.IMPOSSIBLE),
        ("launch failed requeued held", Fate.NODE_FAULTY),
        ("launch_failed_requeued_held", Fate.NODE_FAULTY),
        ("QOSMinGRES", Fate.IMPOSSIBLE),
        ("MaxMemPerLimit", Fate.IMPOSSIBLE),
        ("JobHeldUser", Fate.ACTIVE),
        ("JobHeldAdmin", Fate.ACTIVE),
        ("Resources", Fate.ACTIVE),
        ("Priority", Fate.ACTIVE),
        ("QOSMaxJobsPerUserLimit", Fate.ACTIVE),
        ("QOSGrpGRES", Fate.ACTIVE),
        ("AssocGrpCpuLimit", Fate.ACTIVE),
        ("ReqNodeNotAvail, UnavailableNodes:n1", Fate.ACTIVE),
    ],
)
def test_a_pending_job_that_can_never_start(reason: str, fate: Fate) -> None:
    assert fate_of(Sight("PENDING", reason=reason), Record(), "") is fate


def test_of_several_partitions_one_may_still_take_the_job() -> None:
    two = Sight("PENDING", reason="PartitionTimeLimit", partition="short,long")
    assert fate_of(two, Record(), "") is Fate.ACTIVE
    assert fate_of(Sight("PENDING", reason="BadConstraints", partition="short,long"), Record(), "") is Fate.IMPOSSIBLE


@pytest.mark.parametrize("state", ["REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"])
def test_a_job_that_slurm_holds_never_starts(state: str) -> None:
    assert fate_of(Sight(state), Record(), "") is Fate.IMPOSSIBLE
    (sight,) = parse_squeue(f"7|PENDING,{state}||gpu|None").values()
    assert fate_of(sight, Record(), "") is Fate.IMPOSSIBLE


def test_states_that_do_not_say_what_becomes_of_a_job() -> None:
    states = ("COMPLETING", "SOMETHING_NEW", "RUNNING", "PENDING", "REQUEUE_HOLD", "COMPLETED")
    assert [Sight(state).unclear for state in states] == [True, True, False, False, False, False]
    assert [Sight(state).active for state in states] == [True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("record", "fate"),
    [
        (Record(1, (0,), 0), Fate.DONE),
        (Record(1, (75,), 1), Fate.AGAIN),
        (PLAIN, Fate.FAILED),
        (KILLED, Fate.LOST),
        (Record(), Fate.LOST),
    ],
)
def test_a_job_that_nobody_knows(record: Record, fate: Fate) -> None:
    assert fate_of_unseen(record, "") is fate


def test_a_record_that_was_cut_off_or_begun_anew() -> None:
    assert parse_record("started-batch\nstarted\nexit ") == Record(1, (), None)
    assert parse_record("started-batch\nstarted /images/a.sif\nexit 0\nbatch 0\n") == Record(
        1, (0,), 0, "/images/a.sif"
    )
    said = parse_record("started-batch\nstarted \ntask 3 gpu-01\ntask 1\ntask \ntask x n1\nexit 137\n")
    assert said == Record(1, (137,), None, "", ((3, "gpu-01"), (1, "")))
    assert parse_record("started-batch\nstarted\nstarted-batch\nstarted\nexit 0\nbatch 0\n") == Record(1, (0,), 0)


def test_what_a_rule_did_is_never_tried_again() -> None:
    assert not {Fate.FAILED, Fate.IMPOSSIBLE, Fate.DONE} & set(ALLOWED)
    assert all(times > 0 for times in ALLOWED.values())


@pytest.mark.parametrize(
    ("command", "record"),
    [
        ("true", Record(1, (0,), 0)),
        ("exit 75", Record(1, (75,), 75)),
        ("kill -9 $$", Record(1, (), 137)),
        # The program is told to stop, saves its work, and its shell waits for it.
        ("bash -c 'trap \"sleep 0.2; exit 75\" TERM; kill -TERM $PPID $$; sleep 5 & wait'", Record(1, (75,), 75)),
    ],
)
def test_the_shell_of_a_rule_says_how_it_ended(tmp_path: Path, command: str, record: Record) -> None:
    prefix = TRAP.format()
    (tmp_path / "rule.sh").write_text(f"set -euo pipefail; {prefix}{command}")
    script = batch_script(f"bash {tmp_path}/rule.sh", tmp_path / "a record", tmp_path / "events")
    done = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == record.batch
    assert parse_record((tmp_path / "a record").read_text()) == record
    assert (tmp_path / "events").stat().st_size == 1
    # Outside SLURM the same shell says nothing.
    bare = subprocess.run(["bash", tmp_path / "rule.sh"], check=False, capture_output=True, text=True)
    assert RECORD not in bare.stderr


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (
            "JobId=7 TimeLimit=00:10:00 MinCPUsNode=1 MinMemoryCPU=100M MinTmpDiskNode=0",
            {"mem_mb_per_cpu": 100, "runtime": 10},
        ),
        ("JobId=7 TimeLimit=2-03:00:30 MinMemoryNode=3.50G", {"mem_mb": 3584, "runtime": 3061}),
        ("JobId=7 TimeLimit=UNLIMITED MinMemoryNode=0", {}),
        # All memory of the node; a GPU's as the rule's own options ask for it, which no resource can stand beside.
        ("JobId=7 NumNodes=1 TRES=cpu=1,mem=16000M,node=1 MinMemoryNode=0", {}),
        ("JobId=7 NumNodes=1 AllocTRES=cpu=1,mem=500M MinMemoryTRES=250M MemPerTres=gres/gpu:250", {}),
        ("JobId=7 NumNodes=2-2 ReqTRES=mem=1G AllocTRES=cpu=2,mem=1.50G,node=2 MemPerTres=gpu:300", {"mem_mb": 768}),
        ("JobId=7 TimeLimit=00:10:00 MinMemoryNode=0 Comment=rule_x TimeLimit=9-00:00:00", {"runtime": 10}),
        ("", {}),
    ],
)
def test_what_slurm_gave_is_read(text: str, given: dict[str, int]) -> None:
    assert parse_given(text) == given
