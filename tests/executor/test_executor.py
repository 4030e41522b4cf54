"""What the executor does with jobs, where SLURM's commands answer as they are told to."""

from __future__ import annotations

import asyncio
import csv
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_common.exceptions import WorkflowError

import snakemake_executor_plugin_slurm_steady as steady
from snakemake_executor_plugin_slurm_steady import Executor, efficiency, slurm
from snakemake_executor_plugin_slurm_steady.fates import Fate, Sight
from snakemake_executor_plugin_slurm_steady.ledger import Entry, Ledger, key_of
from snakemake_executor_plugin_slurm_steady.polling import PollInterval


def executor(folder: Path | None = None) -> Executor:
    """An executor without a workflow; with a ledger where a folder is given."""
    made = object.__new__(Executor)
    made._away, made._leaving, made._stopping = None, False, threading.Event()
    made._faulty, made._numbers = set(), []
    made._guard, made._entries, made._since, made._said, made._unanswered = threading.Lock(), {}, {}, set(), []
    made.logger = logging.getLogger("test")
    if folder:
        made._ledger = Ledger(folder)
    return made


def left(made: Executor, slurm_id: str | None, record: str = "") -> Entry:
    """A submission of that executor, and what its record says."""
    entry = made._ledger.entry(key_of("train", ["model"]), "train")
    entry.begin("logs/%j.log")
    if slurm_id:
        entry.taken(slurm_id)
        made._entries[slurm_id] = entry
    entry.content = "same"
    made._ledger.save(entry)
    made._ledger.record_file(entry).write_text(record)
    return entry


JOB = SimpleNamespace(jobid=1, input=[], output=[], resources={})


def info(slurm_id: str, **resources: Any) -> Any:
    return SimpleNamespace(external_jobid=slurm_id, job=SimpleNamespace(jobid=1, resources=resources))


def test_a_job_whose_number_was_not_written_down_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake was killed when SLURM had taken the job: the next one takes it over, and submits no second."""
    entry = left(executor(tmp_path), None)
    monkeypatch.setattr(slurm, "named", {entry.job_name: "7"}.get)
    monkeypatch.setattr(slurm, "mine", lambda: {"7": Sight("RUNNING")})
    following = executor(tmp_path)
    again = following._ledger.entry(entry.key, "train")
    assert following._taken_over(JOB, again, "same")
    assert (again.slurm_id, again.log) == ("7", "logs/7.log")
    assert following._entries == {"7": again}
    # One that has ended is looked for no more.
    following._ledger.ended(again, Fate.FAILED, "n1")
    monkeypatch.setattr(slurm, "named", lambda name: pytest.fail(name))
    assert not following._taken_over(JOB, again, "same")


def test_an_unanswered_submission_is_cancelled_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[str] = []
    monkeypatch.setattr(slurm, "named", {"train.a.1-b": "8"}.get)
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    ending = executor()
    ending._unanswered = ["train.a.1-b", "train.c.1-d"]
    ending._cancel_all(["7"])
    assert cancelled == ["7", "8"]


@pytest.mark.parametrize(
    ("state", "record", "seconds", "fate"),
    [
        ("COMPLETING", "started-batch\nstarted\nexit 0\nbatch 0\n", 61, Fate.DONE),
        ("COMPLETING", "started-batch\nstarted\nexit 75\nbatch 1\n", 61, Fate.AGAIN),
        ("COMPLETING", "started-batch\nstarted\n", 61, Fate.ACTIVE),
        ("COMPLETING", "started-batch\nstarted\n", 86_401, Fate.LOST),
        ("SOMETHING_NEW", "", 61, Fate.ACTIVE),
        ("SOMETHING_NEW", "", 86_401, Fate.LOST),
        ("RUNNING", "started-batch\nstarted\nexit 0\nbatch 0\n", 10**6, Fate.ACTIVE),
    ],
)
def test_no_state_is_borne_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, record: str, seconds: int, fate: Fate
) -> None:
    made = executor(tmp_path)
    left(made, "7", record)
    now = [0.0]
    monkeypatch.setattr(steady.time, "monotonic", lambda: now[0])
    assert made._fate(info("7"), Sight(state)) is Fate.ACTIVE
    now[0] = float(seconds)
    assert made._fate(info("7"), Sight(state)) is fate


def test_a_job_that_somebody_holds_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = executor(tmp_path)
    left(made, "7")
    for _ in range(3):
        assert made._fate(info("7"), Sight("PENDING", reason="JobHeldUser")) is Fate.ACTIVE
    assert [record.getMessage() for record in caplog.records] == [
        "SLURM job 7 is held (JobHeldUser): `scontrol release 7`."
    ]


def test_a_limit_that_jobs_wait_for_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = executor(tmp_path)
    for slurm_id in ("7", "8"):
        left(made, slurm_id)
        assert made._fate(info(slurm_id), Sight("PENDING", reason="AssocGrpCPUMinutesLimit")) is Fate.ACTIVE
        assert made._fate(info(slurm_id), Sight("PENDING", reason="Priority")) is Fate.ACTIVE
    (said,) = (record.getMessage() for record in caplog.records)
    assert "SLURM job 7 waits (AssocGrpCPUMinutesLimit)" in said


def test_a_job_that_can_never_start_is_kept_until_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = executor(tmp_path)
    entry = left(made, "7")
    answers = [slurm.NoAnswer("away"), None]

    def cancel(jobs: list[str]) -> None:
        if answer := answers.pop(0):
            raise answer

    async def look() -> list[Any]:
        return [one async for one in made.check_active_jobs([job])]

    job, errors = info("7"), []
    made._polling = PollInterval(0.0)
    monkeypatch.setattr(made, "_look", lambda jobs: {"7": Sight("PENDING", reason="PartitionTimeLimit")})
    monkeypatch.setattr(made, "report_job_error", lambda job, msg, aux_logs: errors.append(msg))
    monkeypatch.setattr(steady, "NEVER_SECONDS", -1.0)
    monkeypatch.setattr(slurm, "cancel", cancel)
    assert asyncio.run(look()) == [job]
    assert made._ledger.entry(entry.key, "train").slurm_id == "7"
    assert asyncio.run(look()) == []
    assert "PartitionTimeLimit" in errors[0]
    assert made._ledger.entry(entry.key, "train").slurm_id is None


def test_a_job_that_a_node_could_not_start_is_cancelled_and_submitted_again_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM holds it where it may requeue, and the last one would be held for ever."""
    made, cancelled, again, errors = executor(tmp_path), list[str](), list[Any](), list[str]()
    made._polling = PollInterval(0.0)
    monkeypatch.setattr(made, "_look", lambda jobs: {"7": Sight("PENDING", reason="launch failed requeued held")})
    monkeypatch.setattr(made, "_again", lambda *arguments: again.append(arguments))
    monkeypatch.setattr(made, "report_job_error", lambda job, msg, aux_logs: errors.append(msg))
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)

    async def look() -> list[Any]:
        return [one async for one in made.check_active_jobs([info("7")])]

    for _ in range(4):
        left(made, "7")
        assert asyncio.run(look()) == []
    assert (cancelled, len(again), len(errors)) == (["7"] * 4, 3, 1)
    assert made._faulty == set()


def grows(folder: Path, fate: Fate, times: int, **resources: Any) -> dict[str, int]:
    """What has grown when that has happened to a job so often."""
    made = executor(folder)
    made._again = made.report_job_error = lambda *_, **__: None
    for number in range(times):
        entry = left(made, str(number))
        made._settle(info(str(number), **resources), fate, {})
    return made._ledger.entry(entry.key, "train").grown


def test_a_job_grows_only_when_it_is_submitted_again(tmp_path: Path) -> None:
    asked = {"mem_mb": 100, "runtime": 5}
    assert grows(tmp_path / "a", Fate.OUT_OF_MEMORY, 3, **asked) == {"memory": 3, "time": 0}
    assert grows(tmp_path / "b", Fate.OUT_OF_MEMORY, 4, **asked) == {"memory": 3, "time": 0}
    assert grows(tmp_path / "c", Fate.OUT_OF_TIME, 3, **asked) == {"memory": 0, "time": 2}
    # What has saved its work goes on with it.
    assert grows(tmp_path / "d", Fate.OUT_OF_TIME, 2, notice=600) == {"memory": 0, "time": 0}


@pytest.mark.parametrize(("content", "mem_mb", "memory"), [("same", 4000, 2), ("other", 4000, 0), ("same", 9000, 0)])
def test_growth_is_forgotten_when_the_rule_asks_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, mem_mb: int, memory: int
) -> None:
    made = executor(tmp_path)
    entry = left(made, None)
    entry.token, entry.grown["memory"], entry.asked = "", 2, {"mem_mb": 4000}
    submitted: list[Entry] = []
    job = SimpleNamespace(rules=["train"], input=[], resources={"mem_mb": mem_mb, "gpu": 1})
    made._polling = PollInterval(0.0)
    monkeypatch.setattr(made, "_entry", lambda job: entry)
    monkeypatch.setattr(steady, "digest_of", lambda value: content)
    monkeypatch.setattr(made, "_submit", lambda job, entry: submitted.append(entry))
    monkeypatch.setattr(made, "_report_job_submission_threadsafe", lambda info: None)
    made.run_job(job)
    assert [one.grown["memory"] for one in submitted] == [memory]
    assert (entry.content, entry.asked) == (content, {"mem_mb": mem_mb})


def test_growth_that_slurm_refuses_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = executor(tmp_path)
    entry = left(made, None)
    entry.grown["memory"] = 3
    calls: list[str] = []

    def refused(job: Any, entry: Entry, away: set[str]) -> None:
        calls.append(" ".join(away))
        raise slurm.SlurmError("Memory specification can not be satisfied")

    monkeypatch.setattr(made, "_submit_once", refused)
    with pytest.raises(slurm.SlurmError, match="Memory"):
        made._submit(JOB, entry, "n-1")
    assert calls == ["n-1", ""], "without regard to the avoided node before it is an error"
    assert made._ledger.entry(entry.key, "train").grown == {"memory": 0, "time": 0}


@pytest.mark.parametrize(
    ("fate", "state", "ended"),
    [
        (Fate.AGAIN, "FAILED", False),
        (Fate.AGAIN, "COMPLETING", True),
        (Fate.LOST, "", True),
        (Fate.PREEMPTED, "PREEMPTED", True),
    ],
)
def test_what_slurm_may_still_run_is_ended_before_it_is_submitted_again(
    monkeypatch: pytest.MonkeyPatch, fate: Fate, state: str, ended: bool
) -> None:
    made, order = executor(), []
    made._polling = PollInterval(0.0)
    monkeypatch.setattr(slurm, "end", lambda job, stopped: order.append(f"end {job}"))
    monkeypatch.setattr(made, "_submit", lambda job, entry, avoided: order.append("submit"))
    monkeypatch.setattr(made, "_report_job_submission_threadsafe", lambda info: None)
    made._resubmit(JOB, Entry("key", "train"), fate, Sight(state), "7", "")
    assert order == (["end 7"] if ended else []) + ["submit"]


TASKS = "started-batch\nstarted\nexit 1\nbatch 1\ntask 75 n1\ntask 1 n3\ntask 1 n2\n"


@pytest.mark.parametrize(
    ("fate", "nodes", "record", "avoided", "excluded"),
    [
        (Fate.NODE_LOST, "gpu-01", "", "gpu-01", set()),
        (Fate.NODE_LOST, "n[1-2]", "", "", set()),
        (Fate.NODE_LOST, "n1,n3", "", "", set()),
        (Fate.NODE_LOST, "", "", "", set()),
        (Fate.NODE_FAULTY, "n2", "", "", {"n2"}),
        (Fate.NODE_FAULTY, "n[1-3]", TASKS, "", {"n3"}),
        # Which of them it was is not known: that is no reason to keep other jobs from all.
        (Fate.NODE_FAULTY, "n[1-3]", "started-batch\nstarted\ntask 1\n", "n[1-3]", set()),
        (Fate.NODE_FAULTY, "", "", "", set()),
        (Fate.PREEMPTED, "n2", "", "", set()),
    ],
)
def test_which_nodes_the_next_submission_avoids_and_which_all_jobs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fate: Fate,
    nodes: str,
    record: str,
    avoided: str,
    excluded: set[str],
) -> None:
    made, asked = executor(tmp_path), []
    left(made, "7", record)
    monkeypatch.setattr(made, "_again", lambda *arguments: asked.append(arguments[-1]))
    made._settle(info("7"), fate, {"7": Sight("FAILED", nodes)})
    assert (asked, made._faulty) == ([avoided], excluded)


def test_a_controller_that_is_away_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> dict[str, Sight]:
        raise slurm.NoAnswer("Unable to contact slurm controller")

    monkeypatch.setattr(slurm, "mine", nobody)
    waiting = executor()
    assert waiting._look([]) is None
    monkeypatch.setattr(steady, "ABSENCE", 0.0)
    with pytest.raises(WorkflowError, match="same command when it does"):
        waiting._look([])
    assert waiting._leaving, "its jobs are left to the next run"


@pytest.mark.parametrize(
    ("said", "grown", "given"),
    [
        ({"mem_mb_per_cpu": 100, "runtime": 10}, {"memory": 1, "time": 0}, {"mem_mb_per_cpu": 100}),
        ({}, {"memory": 0, "time": 0}, {}),
    ],
)
def test_where_a_rule_asks_for_no_memory_what_slurm_gave_is_doubled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said: dict[str, int],
    grown: dict[str, int],
    given: dict[str, int],
) -> None:
    monkeypatch.setattr(slurm, "given", lambda job: said)
    made = executor(tmp_path)
    monkeypatch.setattr(made, "_again", lambda *_: None)
    entry = left(made, "7")
    made._settle(info("7"), Fate.OUT_OF_MEMORY, {})
    again = made._ledger.entry(entry.key, "train")
    assert (again.grown, again.given) == (grown, given)
    assert ("with twice the memory" in caplog.text) == bool(given)


def test_a_node_with_a_fault_is_excluded_for_all_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, away = executor(tmp_path), list[set[str]]()
    log = tmp_path / "rule.log"
    log.write_text("step 3\nRuntimeError: CUDA error: uncorrectable ECC error encountered\n")
    left(made, "7", "started-batch\nstarted\nexit 1\nbatch 1\n")
    job = info("7")
    job.job.log = [str(log)]
    monkeypatch.setattr(made, "_again", lambda *_: None)
    sight = Sight("FAILED", "gpu-03")
    assert made._fate(job, sight) is Fate.NODE_FAULTY
    made._settle(job, Fate.NODE_FAULTY, {"7": sight})
    assert "Node gpu-03 is excluded" in caplog.text
    monkeypatch.setattr(made, "_submit_once", lambda job, entry, nodes: away.append(nodes))
    made._submit(JOB, Entry("key", "train"))
    assert away == [{"gpu-03"}]


def test_a_log_of_an_earlier_run_says_nothing_of_a_job_that_did_not_begin(tmp_path: Path) -> None:
    """A rule writes its log anew when its shell begins; before that it is the one of the submission before."""
    log = tmp_path / "rule.log"
    log.write_text("RuntimeError: CUDA error: uncorrectable ECC error encountered\n")
    job = info("7")
    job.job.log = [str(log)]
    made = executor(tmp_path)
    left(made, "7", "started-batch\nbatch 1\n")
    assert made._fate(job, Sight("FAILED", "gpu-04")) is Fate.FAILED
    left(made, "7", "started-batch\nstarted \nexit 1\nbatch 1\n")
    assert made._fate(job, Sight("FAILED", "gpu-04")) is Fate.NODE_FAULTY


def test_the_efficiency_report_is_of_this_runs_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "7|train.k.1-t|rule_train|00:10:00|00:20:00|1|4|?|4000M\n7.0|sh|rule_train|00:10:00|00:20:00|1|4|1000M|\n"
    monkeypatch.setattr(slurm, "remembered", lambda jobs: {"7": Sight("COMPLETED"), "8": Sight("COMPLETED")})
    asked: list[list[str]] = []
    monkeypatch.setattr(slurm, "call", lambda command: asked.append(command) or rows + "what is this\n")
    efficiency.write_report(["7", "8"], 0.8, tmp_path / "reports", "run", logging.getLogger("test"))
    assert "7,8" in asked[0]
    text = (tmp_path / "reports" / "efficiency_report_run.csv").read_text()
    assert "50.0" in text, "20 minutes of 4 CPUs for 10"
    assert "25.0" in text, "1000 of 4000 MB"
    assert "low CPU efficiency" in caplog.text


def test_the_efficiency_report_names_rules_whatever_they_are_called_and_where_a_site_keeps_no_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "7|paper.answer_batches.k.1-t||00:10:00|00:30:00|1|4||1500000M\n7.extern|extern||00:10:00|00:00:00|1|4||\n"
    rows += "7.0|sh||00:10:00|00:30:00|1|4|750000.00M|\n8|train.k.1-t||00:10:00|00:40:00|1|4||4000M\n"
    asked: list[list[str]] = []
    monkeypatch.setattr(slurm, "remembered", lambda jobs: dict.fromkeys(jobs, Sight("COMPLETED")))
    monkeypatch.setattr(slurm, "call", lambda command: asked.append(command) or rows)
    efficiency.write_report(["7", "8"], 0.8, tmp_path, "run", logging.getLogger("test"))
    assert "--units=M" in asked[0]
    (row,) = csv.DictReader((tmp_path / "efficiency_report_run.csv").open())
    assert (row["JobID"], row["RuleName"]) == ("7.0", "rule_answer_batches")
    assert (float(row["CPU Efficiency (%)"]), float(row["Memory Usage (%)"])) == (75.0, 50.0)
    assert "rule 'rule_answer_batches'" in caplog.text


def test_without_accounting_there_is_no_efficiency_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> Any:
        raise slurm.SlurmError("Slurm accounting storage is disabled")

    monkeypatch.setattr(efficiency, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "remembered", lambda jobs: {})
    monkeypatch.setattr(slurm, "call", away)
    efficiency.write_report(["7"], 0.8, tmp_path, "run", logging.getLogger("test"))
    assert "No efficiency report: the accounting does not answer" in caplog.text
    assert list(tmp_path.iterdir()) == []
