"""Whatever happens to a job on a cluster, the run goes on or ends; each of these waited for ever, or might have."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from slurm_cluster.conftest import FOR_EVER, Work, accounted, until

pytestmark = [pytest.mark.cluster, pytest.mark.newest]


def test_a_job_that_works_is_seen_by_whoever_knows(work: Work, view: str) -> None:
    assert work.run("works") == 0, work.log
    assert work.fates == ["DONE"]


def test_a_bug_fails_at_once_and_asks_for_nothing_more(work: Work, view: str) -> None:
    assert work.run("bug") == 1
    assert len(work.runs("bug")) == 1
    assert work.fates == ["FAILED"]
    # The next run asks for what this one asked for.
    assert work.run("bug") == 1
    first, second = accounted(work.cluster, work.runs("bug"), "ReqMem,Timelimit")
    assert first == second


def test_run_me_again_is_no_failure(work: Work) -> None:
    assert work.run("again") == 0, work.log
    assert work.fates == ["AGAIN", "AGAIN", "DONE"]
    assert len(set(accounted(work.cluster, work.runs("again"), "ReqMem,Timelimit"))) == 1


def test_after_a_kill_for_memory_there_is_twice_of_it(work: Work) -> None:
    assert work.run("memory") == 0, work.log
    assert work.fates == ["OUT_OF_MEMORY", "DONE"]
    assert accounted(work.cluster, work.runs("memory"), "ReqMem") == ["450M", "900M"]


def test_a_rule_without_memory_gets_twice_what_slurm_gave(work: Work) -> None:
    # A job's own Snakemake takes most of 100 MB, so that more than one kill is no surprise.
    assert work.run("memory_unsaid") == 0, work.log
    assert set(work.fates[:-1]) == {"OUT_OF_MEMORY"}
    assert work.fates[-1] == "DONE"
    assert "with twice the memory" in work.log


def test_a_node_with_a_hardware_fault_is_excluded(work: Work) -> None:
    assert work.run("faulty") == 0, work.log
    assert work.fates == ["NODE_FAULTY", "DONE"]
    first, second = (work.folder / "nodes").read_text().split()
    assert first != second
    assert f"Node {first.split('=')[1]} is excluded" in work.log


def test_a_kill_by_nobody_counts_as_one_for_memory(work: Work) -> None:
    assert work.run("killed") == 0, work.log
    assert work.fates == ["OUT_OF_MEMORY", "DONE"]


def test_at_the_time_limit_there_is_twice_of_it(work: Work) -> None:
    assert work.run("time") == 0, work.log
    assert work.fates == ["OUT_OF_TIME", "DONE"]
    assert accounted(work.cluster, work.runs("time"), "Timelimit") == ["00:01:00", "00:02:00"]


def test_with_notice_a_program_saves_its_work_before_the_limit(work: Work) -> None:
    assert work.run("notice") == 0, work.log
    assert work.fates == ["AGAIN", "DONE"]
    assert len(set(accounted(work.cluster, work.runs("notice"), "Timelimit"))) == 1


def test_cancelled_by_somebody_else(work: Work, view: str) -> None:
    process = work.start("interrupted")
    work.cluster.ask("scancel", work.running("interrupted"))
    assert process.wait(timeout=FOR_EVER) == 0, work.log
    # Without accounting and after the controller has forgotten it, nobody knows why the job is gone.
    assert work.fates == ["LOST" if view == "record" else "CANCELLED", "DONE"]


@pytest.mark.parametrize(("partition", "node"), [("low", "n5"), ("lowcancel", "n6")])
def test_preempted(work: Work, partition: str, node: str) -> None:
    """SLURM would requeue in the one partition, and cancels in the other; both are submitted again at once."""
    process = work.start("preempted", "--set-resources", f"preempted:slurm_extra='-w {node}'", partition=partition)
    other = work.preempt(work.running("preempted"), node)
    assert process.wait(timeout=FOR_EVER) == 0, work.log
    # It may get the node back for a moment before the other job has it.
    assert work.fates[-1] == "DONE"
    assert set(work.fates[:-1]) == {"PREEMPTED"}
    assert other not in work.runs("preempted")


def test_node_lost(work: Work) -> None:
    process = work.start("interrupted", partition="frail")
    job = work.running("interrupted")
    node = work.cluster.ask("squeue", "-h", "-j", job, "-o", "%N")
    work.cluster.lose_node(node, job)
    try:
        assert process.wait(timeout=FOR_EVER) == 0, work.log
        assert work.fates == ["NODE_LOST", "DONE"]
    finally:
        work.cluster.start("slurmd", "-N", node)


def test_controller_away(work: Work) -> None:
    """Away while a job runs, while it ends, and while the next one is to be submitted."""
    process = work.start("again")
    work.running("again")
    work.cluster.stop("slurmctld")
    time.sleep(15)
    work.cluster.start("slurmctld")
    assert process.wait(timeout=FOR_EVER) == 0, work.log
    assert work.fates == ["AGAIN", "AGAIN", "DONE"]


def test_accounting_away(work: Work) -> None:
    process = work.start("again")
    work.running("again")
    work.cluster.stop("slurmdbd")
    try:
        assert process.wait(timeout=FOR_EVER) == 0, work.log
    finally:
        work.cluster.start("slurmdbd")
    assert work.fates == ["AGAIN", "AGAIN", "DONE"]


def test_a_job_that_can_never_start_is_an_error_with_its_remedy(work: Work) -> None:
    assert work.run("impossible", partition="short") == 1
    assert work.fates == ["IMPOSSIBLE"]
    assert "PartitionTimeLimit" in work.log
    assert "ask for less" in work.log
    assert work.unfinished == []


def test_a_partition_that_is_not_there_is_an_error(work: Work) -> None:
    assert work.run("works", partition="nowhere") == 1
    assert "invalid partition" in work.log


def test_ctrl_c_cancels_the_jobs(work: Work) -> None:
    process = work.start("interrupted")
    work.running("interrupted")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=FOR_EVER) != 0
    until(lambda: not work.unfinished, "the end of the cancelled job")
    assert work.run("interrupted") == 0, work.log
    assert len(work.runs("interrupted")) == 2


# A job that is there, however long the next Snakemake takes to start, until it is taken over.
LEFT = ("slow", "--config", "seconds=240")


def is_taken_over(work: Work, job: str) -> None:
    """Run Snakemake again: it waits for the job, and submits none."""
    process = work.start(*LEFT)
    until(lambda: " is taken over" in work.log or process.poll() is not None, "taking over")
    (work.folder / "go").touch()
    assert process.wait(timeout=FOR_EVER) == 0, work.log
    assert f"SLURM job {job} of an earlier run is taken over" in work.log
    assert work.runs("slow") == [job], "the rule ran once, in the job that was left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_left_jobs_are_taken_over(work: Work, number: signal.Signals) -> None:
    """A login node that goes down, a lost connection, a kill: the job goes on, and the next run waits for it."""
    process = work.start(*LEFT)
    job = work.running("slow")
    process.send_signal(number)
    assert process.wait(timeout=FOR_EVER) != 0
    assert work.unfinished == [job]
    is_taken_over(work, job)


def test_a_left_job_whose_number_was_not_written_down_is_taken_over(work: Work) -> None:
    """Snakemake was killed when SLURM had just taken the job: its name finds it."""
    process = work.start(*LEFT)
    job = work.running("slow")
    process.kill()
    process.wait()
    (file,) = (work.folder / ".snakemake/slurm-steady").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "slurm_id": None}))
    is_taken_over(work, job)


def test_after_a_reboot_of_the_login_node_the_same_command_goes_on(work: Work) -> None:
    """Everything of the first run there is dead; its locks are still in the folder."""
    process = work.start(*LEFT)
    job = work.running("slow")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for kind in ("input", "output"):
        (work.folder / f".snakemake/locks/0.{kind}.lock").write_text("slow\n")
    assert (work.folder / ".snakemake/slurm-steady/lock").read_text().startswith(f"process {process.pid} on")
    is_taken_over(work, job)


def test_a_left_job_that_is_no_longer_wanted_is_ended_first(work: Work) -> None:
    process = work.start("slow", "--config", "seconds=900")
    job = work.running("slow")
    process.kill()
    process.wait()
    assert work.run("slow", "--config", "seconds=1") == 0, work.log
    assert job not in work.runs("slow")[1:]
    assert accounted(work.cluster, [job], "State")[0].startswith("CANCELLED")


def test_left_jobs_that_are_done_meanwhile_need_nothing(work: Work) -> None:
    process = work.start("slow")
    job = work.running("slow")
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not work.unfinished, "the end of the job")
    assert work.run("slow") == 0, work.log
    assert work.runs("slow") == [job]


def test_a_left_job_that_slurm_requeues_still_does_its_work(work: Work) -> None:
    process = work.start(*LEFT, "--slurm-steady-requeue")
    job = work.running("slow")
    process.send_signal(signal.SIGKILL)
    process.wait()
    work.cluster.ask("scontrol", "requeue", job)
    until(lambda: work.controlled(job)["JobState"] == "PENDING", "requeueing")
    (work.folder / "go").touch()
    # SLURM lets a requeued job wait two minutes.
    assert work.run(*LEFT, "--slurm-steady-requeue") == 0, work.log
    assert set(work.runs("slow")) == {job}
    assert len(work.runs("slow")) == 2


def test_two_snakemakes_do_not_submit_from_one_folder(work: Work) -> None:
    process = work.start(*LEFT)
    work.running("slow")
    assert work.run(*LEFT) == 1
    assert "another Snakemake submits jobs from this folder: process" in work.log
    (work.folder / "go").touch()
    assert process.wait(timeout=FOR_EVER) == 0, work.log
    assert len(work.runs("slow")) == 1


def test_no_secret_goes_with_a_job(work: Work) -> None:
    assert work.run("works", JUDGE_API_KEY="sk-hush", HF_TOKEN="hf_hush", KEPT="yes") == 0, work.log
    environment = (work.folder / "environment").read_text()
    assert "KEPT=yes" in environment
    job = work.runs("works")[0]
    parts = [("--env-vars", "KEPT=yes"), ("--batch-script", "works")]
    for part, word in parts:
        until(lambda part=part, word=word: word in work.cluster.ask("sacct", "-j", job, part), f"sacct {part}", 60)
    kept = "".join(work.cluster.ask("sacct", "-j", job, part) for part, _ in parts)
    logs = "".join(file.read_text() for file in (work.folder / "results").rglob("*.log"))
    assert "hush" not in environment + kept + work.log + logs
