"""The executor's parts that need no SLURM: what is asked for and remembered, how often one asks, who may submit."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_executor_plugin_slurm import ExecutorSettings as PublishedSettings
from snakemake_executor_plugin_slurm.partitions import read_partition_file
from snakemake_interface_common.exceptions import WorkflowError

from safe_llava.train import launch
from snakemake_executor_plugin_slurm_steady import slurm
from snakemake_executor_plugin_slurm_steady.asking import (
    AskedJob,
    Resources,
    enlarged,
    log_pattern,
    sbatch_call,
    wants_gpu,
)
from snakemake_executor_plugin_slurm_steady.fates import Fate, Record, Sight
from snakemake_executor_plugin_slurm_steady.ledger import Entry, Ledger, key_of
from snakemake_executor_plugin_slurm_steady.polling import PollInterval
from snakemake_executor_plugin_slurm_steady.script import PASS_ON, RECORD, batch_script
from snakemake_executor_plugin_slurm_steady.settings import ExecutorSettings
from snakemake_executor_plugin_slurm_steady.site import account_argument, check_site, partition_argument

PARTS = {"run_uuid": "rule.key.1", "slurm_logfile": "log", "comment_str": "rule_x", "account": " -A lab"}
PARTS |= {"partition": " -p cpu", "workdir": "/tmp"}


def call(resources: dict[str, Any], avoided: set[str] | None = None) -> str:
    job = SimpleNamespace(threads=2, is_group=lambda: False)
    return sbatch_call(AskedJob(job, Resources(resources)), ExecutorSettings(), PARTS, avoided or set())


def test_memory_and_time_grow_only_by_what_happened() -> None:
    rule = {"mem_mb": 4000, "runtime": 60, "gpu": 2}
    assert enlarged(rule, {"memory": 0, "time": 0}) == rule
    assert enlarged(rule, {"memory": 2, "time": 0})["mem_mb"] == 16000
    assert enlarged(rule, {"memory": 0, "time": 1}) == {**rule, "runtime": 120}


def test_a_notice_leaves_time_to_work() -> None:
    assert enlarged({"runtime": 60, "notice": 600}, {})["slurm_extra"] == "--signal=28@600"
    assert enlarged({"runtime": 5, "notice": 600}, {})["slurm_extra"] == "--signal=28@100"
    assert "slurm_extra" not in enlarged({"runtime": 5}, {})


def test_a_profile_that_was_not_filled_in_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "tests/slurm_cluster/faults.smk"), "works"]
    command += ["--profile", str(root / "workflow/profiles/slurm")]
    env = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    said = "slurm-steady-account is still `unknown`, and so are slurm-steady-partition, slurm-steady-gpu-partition"
    assert said in done.stdout + done.stderr
    assert "sacctmgr" in done.stdout + done.stderr


def test_the_sbatch_call() -> None:
    line = call(enlarged({"mem_mb": 4000, "runtime": 60, "nodes": 1, "notice": 300, "gpu": 2}, {}), {"n7"})
    for part in ("--mem 4000", "-t 60", "--nodes=1", "--gpus=2", "--signal=28@300", "--no-requeue", "--exclude=n7"):
        assert part in line, part
    assert line.endswith(" /dev/stdin")


def test_several_nodes_with_gpus_each() -> None:
    line = call(Resources(mem_mb=4000, nodes=2, mpi=0, gpu=0, gres="gpu:8"))
    assert "--nodes=2" in line
    assert "--gres=gpu:8" in line
    assert "--gpus" not in line
    assert "--ntasks" not in line.replace("--ntasks=1", "")


def test_a_model_of_gpu_is_said_only_where_there_are_gpus() -> None:
    assert "gpu_model" not in enlarged({"gpu_model": "a100"}, {})
    assert "--gpus=a100:2" in call(enlarged({"gpu_model": "a100", "gpu": 2, "nodes": 1}, {}))
    assert "--gres=gpu:a100:8" in call(
        enlarged({"gpu_model": "a100", "gpu": 0, "gres": "gpu:8", "mpi": 0, "nodes": 2}, {})
    )


# Variables that would make several jobs of one, send it elsewhere, or hide it.
HIDING = (
    "SBATCH_ARRAY_INX",
    "SBATCH_CLUSTERS",
    "SLURM_CLUSTERS",
    "SQUEUE_PARTITION",
    "SACCT_FEDERATION",
    "SCANCEL_STATE",
)

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGWINCH, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGWINCH])
def test_a_signal_to_the_first_process_of_a_step_reaches_the_program_as_a_notice(
    number: signal.Signals, shell: str
) -> None:
    """With cgroups SLURM signals that process alone; the shell between the two and the image outlive it."""
    between = ["sh", "-c", '"$@"; code=$?; echo after; exit $code', "between", sys.executable, "-c", PROGRAM]
    command = [shell, "-c", PASS_ON, "step", *between]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as step:
        assert step.stdout and step.stdout.readline() == "ready\n"
        step.send_signal(number)
        assert step.stdout.read() == "after\n"
        assert step.wait() == 75


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(("program", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 143", 143), ("kill -9 $$", 137)])
def test_a_step_ends_as_its_program_does(program: str, code: int, shell: str) -> None:
    assert subprocess.run([shell, "-c", PASS_ON, "step", "sh", "-c", program], check=False).returncode == code


# The first wait returns what a signal makes of it, when its child is gone and was waited for, as bash does it.
INTERRUPTED = """
wait() {
    if [ -z "$interrupted" ]; then
        interrupted=yes
        while kill -0 "$1" 2> /dev/null; do sleep 0.01; done
        return 143
    fi
    command wait "$1"
}
"""


def test_a_wait_that_is_interrupted_as_the_program_ends_is_not_its_end() -> None:
    program = ["bash", "-c", "sleep 0.1; exit 75"]
    done = subprocess.run(["bash", "-c", INTERRUPTED + PASS_ON, "step", *program], check=False, timeout=60)
    assert done.returncode == 75


def test_several_nodes_without_gpus() -> None:
    assert "--nodes=2 --no-requeue --ntasks=2" in call(enlarged({"mem_mb": 4000, "nodes": 2, "mpi": 0, "gres": ""}, {}))


def test_slurm_extra_does_not_say_what_resources_are_there_for() -> None:
    with pytest.raises(WorkflowError, match="mem"):
        call({"slurm_extra": "--mem=1"})


@pytest.mark.parametrize("extra", ["-M big", "--array=0-3", "-a 0-3", "--wait", "--requeue", "--test-only"])
def test_slurm_extra_makes_no_several_jobs_and_sends_none_elsewhere(extra: str) -> None:
    with pytest.raises(WorkflowError, match=re.escape(extra.split("=")[0].split()[0])):
        call({"slurm_extra": f"--nice=5 {extra}"})
    assert "--nice=5 --mail-type=END" in call({"slurm_extra": "--nice=5 --mail-type=END"})


def test_gpu_jobs_are_known() -> None:
    assert wants_gpu(Resources(gpu=1))
    assert wants_gpu(Resources(gres="gpu:h200:2"))
    assert not wants_gpu(Resources(gpu=0, gres=""))


def test_secrets_stay_where_they_are() -> None:
    secret = ("OPENAI_API_KEY", "HF_TOKEN", "KEY", "api_key_2", "GITHUB_PAT", "MYSQL_PASSWD", "PgPassword", "a_secret")
    public = {"PATH": "/bin", "TOKENIZERS_PARALLELISM": "no", "MONKEY": "x", "KEYBOARD": "x", "PATTERN": "x"}
    public |= {"MIRROR": "https://host/a@b", "MAIL": "me@host", "http_proxy": "http://proxy:3128"}
    addresses = {"INDEX": "https://user:pw@host/simple", "EXTRA": "https://host/a https://token@host/b"}
    assert slurm.without_secrets({**dict.fromkeys(secret, "hush"), **public, **addresses}) == public


def test_gpus_are_asked_for_by_rules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs would not see those of the environment where a site's accounting counts none."""
    for name in (
        "SBATCH_GPUS",
        "SBATCH_GPUS_PER_NODE",
        "SBATCH_GRES",
        "SBATCH_TRES_PER_TASK",
        "SBATCH_EXCLUSIVE",
        *HIDING,
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SBATCH_CONSTRAINT", "a100")
    seen = re.findall(r"^(?:SBATCH|SQUEUE|SACCT|SCANCEL|SLURM_CLUSTERS).*", slurm.call(["env"]), re.MULTILINE)
    assert seen == ["SBATCH_CONSTRAINT=a100"]


@pytest.mark.parametrize(
    ("message", "later"),
    [
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
        ("sbatch: error: AssocGrpSubmitJobsLimit", True),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", False),
        ("sbatch: error: Memory specification can not be satisfied", False),
    ],
)
def test_no_answer_is_not_no(message: str, later: bool) -> None:
    with pytest.raises(slurm.SlurmError) as caught:
        slurm.call(["sh", "-c", f"echo '{message}' >&2; exit 1"])
    assert isinstance(caught.value, slurm.NoAnswer) is later


def test_a_submission_without_an_answer_is_looked_for_before_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM took the job, but its answer was lost: no second one is submitted."""
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls; echo 'Socket timed out' >&2; exit 1\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 42\n")
    for name in ("sbatch", "squeue"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert slurm.submit("sbatch --parsable", "", "name", lambda _: False, 60) == "42"
    assert (tmp_path / "calls").read_text() == "x\n"


def test_at_a_limit_of_submitted_jobs_one_waits_as_long_as_others_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait is needed while there are others; when there are none, their end makes no room."""
    others = [{"1": Sight("RUNNING")}, {"1": Sight("RUNNING")}, {"1": Sight("COMPLETED")}]
    left = list(others)
    monkeypatch.setattr(slurm, "mine", lambda: left.pop(0))
    clock = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(slurm.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(slurm.NoAnswer, match="MaxSubmitJob"):
        slurm.submit("echo QOSMaxSubmitJobPerUserLimit >&2; exit 1", "", "name", lambda _: False, 1500)
    assert left == []


def test_of_the_accounting_only_ends_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose end was never told to the accounting runs there for ever."""
    monkeypatch.setattr(slurm, "call", lambda command: "1|RUNNING|n1\n2|NODE_FAIL|n2\n3|NEW_STATE|n3\n4|PENDING|\n")
    assert slurm.remembered(["1", "2", "3", "4"]) == {"2": Sight("NODE_FAIL", "n2")}


def test_a_job_is_ended_when_the_controller_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [slurm.NoAnswer("away"), {"7": Sight("RUNNING")}, slurm.NoAnswer("away"), {"7": Sight("CANCELLED")}]
    cancelled: list[str] = []

    def mine() -> dict[str, Sight]:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "mine", mine)
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    slurm.end("7", lambda seconds: False)
    assert cancelled == ["7"]
    assert answers == []


def test_a_cancelled_job_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "mine", lambda: {"7": Sight("COMPLETING", "n1")})
    monkeypatch.setattr(slurm, "cancel", lambda jobs: None)
    monkeypatch.setattr(slurm, "END_SECONDS", -1.0)
    with pytest.raises(slurm.SlurmError, match=r"job 7 was cancelled and does not end \(COMPLETING on n1"):
        slurm.end("7", lambda seconds: False)


def test_a_site_may_say_more_than_the_number(tmp_path: Path) -> None:
    assert slurm.submit("echo 'Welcome to 2 clusters'; echo '17;toy'", "", "name", lambda _: False, 1) == "17"
    with pytest.raises(slurm.SlurmError, match="job's number"):
        slurm.submit("echo no", "", "name", lambda _: False, 1)


def test_one_asks_soon_after_a_change_and_seldom_later() -> None:
    interval = PollInterval(0.0)
    asked, now = [], 0.0
    while now < 3600:
        now += 0.5
        if interval.due(now):
            asked.append(now)
            interval.asked(now)
    assert asked[:2] == [2.0, 4.0]
    assert asked[-1] - asked[-2] == 30
    assert len(asked) < 150
    interval.happened(now)
    assert interval.due(now + 2)


def test_the_ledger_outlives_its_process(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    entry = first.entry(key_of("train", ["model"]), "train")
    entry.number, entry.slurm_id, entry.grown["memory"] = 3, "99", 1
    first.save(entry)
    first.record_file(entry).write_text("started-batch\nstarted\n")
    again = Ledger(tmp_path).entry(entry.key, "train")
    assert again == entry
    assert Ledger(tmp_path).record(again) == Record(1, (), None)
    first.ended(again, Fate.OUT_OF_MEMORY, "n1")
    # The job is no longer there, but what it needs is known.
    assert Ledger(tmp_path).entry(entry.key, "train").slurm_id is None
    assert Ledger(tmp_path).entry(entry.key, "train").grown["memory"] == 1
    first.ended(again, Fate.DONE, "n1")
    assert Ledger(tmp_path).entry(entry.key, "train") == Entry(entry.key, "train")
    assert len((tmp_path / "jobs.jsonl").read_text().splitlines()) == 2


def test_no_two_submissions_have_the_same_name(tmp_path: Path) -> None:
    """Nor the same record: two clones make the same files, and numbers begin anew when a job is done."""
    entries = [Entry(key_of("train", ["model"]), "train") for _ in range(2)]
    for entry in entries:
        entry.begin("log")
    assert [entry.number for entry in entries] == [1, 1]
    assert entries[0].job_name != entries[1].job_name
    assert entries[0].job_name.rsplit(".", 1)[0] == entries[1].job_name.rsplit(".", 1)[0]
    assert Ledger(tmp_path).record_file(entries[0]) != Ledger(tmp_path).record_file(entries[1])


def test_a_percent_of_a_folder_is_none_of_the_patterns_of_sbatch() -> None:
    log = Path("/scratch/50%j/a%/%j.log")
    assert log_pattern(log) == "/scratch/50%%j/a%%/%j.log"
    entry = Entry("key", "train")
    entry.begin(str(log))
    entry.taken("7")
    assert entry.log == "/scratch/50%j/a%/7.log"


def test_each_launcher_says_its_code_in_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to end is the cause; a job that SLURM runs once more begins without what was said before."""
    ledger, entry = Ledger(tmp_path), Entry(key_of("train", ["model"]), "train")
    entry.begin("log")
    record = ledger.record_file(entry)
    record.write_text("started-batch\nstarted \nexit 137\n")
    monkeypatch.setenv(RECORD, str(record))
    for node, code, second in (("0", 1, 2000), ("1", 3, 1000)):
        monkeypatch.setenv("SLURM_NODEID", node)
        monkeypatch.setenv("SLURMD_NODENAME", f"gpu-{node}")
        launch.say(code)
        os.utime(f"{record}.{node}", (second, second))
    assert ledger.record(entry).tasks == ((3, "gpu-1"), (1, "gpu-0"))
    assert ledger.record(entry).first_failed == "gpu-1"
    assert ledger.record(entry).code == 3
    subprocess.run(["sh", "-c", batch_script("true", record, ledger.events)], check=True)
    assert ledger.record(entry).tasks == ()
    launch.say(0)
    ledger.ended(entry, Fate.DONE, "n1")
    assert list((tmp_path / "records").iterdir()) == []


def test_a_file_system_without_locks_is_told_apart_from_a_lock_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(stream: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    ledger = Ledger(tmp_path)
    assert ledger.lock() is None
    assert not ledger.has_locks


def test_a_ledger_that_was_cut_off_counts_as_absent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (ledger.folder / "key.json").write_text('{"key": "key", "na')
    assert ledger.entry("key", "train") == Entry("key", "train")


def test_only_one_process_submits_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from snakemake_executor_plugin_slurm_steady.ledger import Ledger\n"
    code += f"ledger = Ledger(Path({str(tmp_path)!r})); print(ledger.lock(), flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout
    assert other.stdout.readline() == "None\n"
    held = Ledger(tmp_path).lock()
    assert held
    assert str(other.pid) in held
    other.kill()
    other.communicate()
    assert Ledger(tmp_path).lock() is None


PUBLISHED = {one.name for one in fields(PublishedSettings)}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("array_jobs", "all"),
        ("array_limit", 10),
        ("disable_memory_fudge", True),
        ("status_command", "squeue"),
        ("status_attempts", 2),
        ("init_seconds_before_status_checks", 5),
    ],
)
def test_an_option_without_effect_is_refused_with_its_reason(option: str, value: Any) -> None:
    assert option in PUBLISHED
    with pytest.raises(
        WorkflowError, match=f"--slurm-steady-{option.replace('_', '-')} is refused: .*\n.*leave it out"
    ):
        ExecutorSettings(**{option: value})


def test_every_option_of_the_help_is_refused_or_tried_on_a_cluster(root: Path) -> None:
    """A newer published plugin may have more: each is refused with its reason, or a cluster's test gives it."""
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm-steady", "--help"]
    env = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout
    option = re.compile(r"--slurm-steady-([a-z-]+)")
    offered = set(option.findall(shown))
    assert offered == {one.name.replace("_", "-") for one in fields(ExecutorSettings)}
    refused = {one.name.replace("_", "-") for one in fields(ExecutorSettings) if one.metadata.get("refused")}
    assert {f"--slurm-steady-{name}" for name in refused} <= set(re.findall(r"(\S+)[^\n]*\n?\s+Refused:", shown))
    tests = "".join(file.read_text() for file in (root / "tests/slurm_cluster").glob("*.py"))
    assert offered - refused == set(option.findall(tests)), "each is tried, and nothing else"


def test_a_qos_a_reservation_and_nodes_left_out_are_said(tmp_path: Path) -> None:
    settings = ExecutorSettings(qos="long", reservation="mine", requeue=True)
    job = AskedJob(SimpleNamespace(threads=2, is_group=lambda: False), Resources(mem_mb=1))
    line = sbatch_call(job, settings, PARTS, {"'n[1-2]'", "n7"})
    for part in ("--qos=long", "--reservation=mine", "--requeue", "'n[1-2]'", "n7"):
        assert part in line, part


def test_a_job_on_another_cluster_is_refused() -> None:
    with pytest.raises(WorkflowError, match="follows the jobs of one cluster"):
        call({"slurm_cluster": "other"})


PARTITIONS = """
partitions:
  small: {max_runtime: 60, max_mem_mb: 8000, max_cpus_per_task: 8}
  large: {max_runtime: 2880, max_mem_mb: 500000, max_cpus_per_task: 64}
  gpus: {max_runtime: 1440, max_mem_mb: 500000, max_gpu: 8, available_gpu_models: [a100]}
"""


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"mem_mb": 4000, "runtime": 30}, " -p small"),
        ({"mem_mb": 16000, "runtime": 30}, " -p large"),
        ({"mem_mb": 4000, "runtime": 600, "gpu": 2, "gpu_model": "a100"}, " -p gpus"),
        ({"mem_mb": 4000, "slurm_partition": "mine"}, " -p mine"),
        # No partition of the file has room: the profile's, or the site's default.
        ({"mem_mb": 10**6, "runtime": 30}, " -p cpu"),
        ({"mem_mb": 4000, "runtime": 60, "gpu": 9}, ""),
    ],
)
def test_a_file_of_partitions_chooses_the_partition(tmp_path: Path, resources: dict[str, Any], expected: str) -> None:
    file = tmp_path / "partitions.yaml"
    file.write_text(PARTITIONS)
    settings = ExecutorSettings(partition_config=file, partition="cpu", gpu_partition="unknown")
    check_site(settings)
    job = SimpleNamespace(name="train", threads=1, resources=Resources(resources), is_group=lambda: False)
    assert partition_argument(job, settings, read_partition_file(file), logging.getLogger("test")) == expected


def test_no_account_names_none() -> None:
    job = SimpleNamespace(resources=Resources(slurm_account="theirs"))
    assert account_argument(job, ExecutorSettings(account="lab")) == " -A theirs"
    assert account_argument(job, ExecutorSettings(account="unknown", no_account=True)) == ""
    check_site(ExecutorSettings(account="unknown", no_account=True))


def test_a_prefix_of_job_names_is_found_again() -> None:
    entry = Entry("key", "train")
    entry.begin("log", "paper.")
    assert entry.job_name.startswith("paper.train.key.1-")
