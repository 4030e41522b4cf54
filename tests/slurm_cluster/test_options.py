"""What a site sets: each option of `--help` that is not refused reaches SLURM, or does what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import yaml

from slurm_cluster.conftest import Work, accounted, until

pytestmark = [pytest.mark.cluster, pytest.mark.newest]


@pytest.fixture
def reservation(work: Work) -> Iterator[str]:
    """Two cores of n2 that are kept for a while."""
    said = ("StartTime=now", "Duration=30", "Users=root", "Nodes=n2", "CoreCnt=2")
    name = work.cluster.ask("scontrol", "create", "reservation", *said).split()[-1]
    yield name
    work.cluster.ask("scontrol", "delete", f"reservationname={name}")


@pytest.fixture
def qos(work: Work) -> str:
    """A quality of service that the controller knows: the accounting tells it in its own time."""
    if not work.cluster.ask("sacctmgr", "-n", "show", "qos", "quick"):
        work.cluster.ask("sacctmgr", "-i", "add", "qos", "quick")
    known = ("scontrol", "show", "assoc_mgr", "flags=qos")
    until(lambda: "QOS=quick(" in work.cluster.ask(*known), "the quality of service at the controller")
    return "quick"


def test_what_sbatch_is_told(work: Work, qos: str, reservation: str) -> None:
    options = ["--slurm-steady-qos", qos, "--slurm-steady-reservation", reservation]
    options += ["--slurm-steady-no-account", "--slurm-steady-exclude-failed-nodes", "n1, n6"]
    options += ["--slurm-steady-requeue", "--slurm-steady-pass-command-as-script"]
    options += ["--slurm-steady-logdir", "kept/logs", "--slurm-steady-keep-successful-logs"]
    assert work.run("works", *options) == 0, work.log
    (job,) = work.runs("works")
    # A reservation that was made while the accounting was away has a name there only ten seconds after it is back.
    said = work.controlled(job)
    assert (said["QOS"], said["Reservation"], said["NodeList"]) == (qos, reservation, "n2")
    (call,) = accounted(work.cluster, [job], "SubmitLine")
    assert "-A " not in call
    assert " --requeue" in call
    (log,) = (work.folder / "kept/logs").rglob("*.log")
    assert log.name == f"{job}.log"


def test_a_percent_in_a_folder_is_none_of_the_patterns_of_sbatch(work: Work) -> None:
    work.folder /= "50%j%"
    work.folder.mkdir()
    assert work.run("works", "--slurm-steady-logdir", "a%N%/logs", "--slurm-steady-keep-successful-logs") == 0, work.log
    (job,) = work.runs("works")
    assert [file.name for file in (work.folder / "a%N%/logs").rglob("*.log")] == [f"{job}.log"]
    assert list(work.folder.parent.iterdir()) == [work.folder]


def test_what_is_left_when_it_ends(work: Work) -> None:
    profile = yaml.safe_load((work.profile / "config.yaml").read_text())
    assert profile.pop("slurm-steady-keep-successful-logs")
    work.profile = work.folder / "profile"
    work.profile.mkdir()
    (work.profile / "config.yaml").write_text(yaml.safe_dump(profile))
    logs = work.folder / profile["slurm-steady-logdir"]
    old = logs / "rule_before/1.log"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (time.time() - 3 * 86_400,) * 2)
    options = ["--slurm-steady-no-requeue", "--slurm-steady-delete-logfiles-older-than", "2"]
    options += ["--slurm-steady-efficiency-report", "--slurm-steady-efficiency-report-path", "reports"]
    assert work.run("slow", *options, "--slurm-steady-efficiency-threshold", "0.9", "--config", "seconds=15") == 0, (
        work.log
    )
    (job,) = work.runs("slow")
    assert " --no-requeue" in accounted(work.cluster, [job], "SubmitLine")[0]
    assert list(logs.rglob("*.log")) == []
    assert "low CPU efficiency" in work.log
    (report,) = (work.folder / "reports").glob("efficiency_report_*.csv")
    assert f",{job}.0," in report.read_text()


def test_a_file_of_partitions(work: Work) -> None:
    (work.folder / "partitions.yaml").write_text(
        "partitions:\n  short: {max_runtime: 2}\n  frail: {max_runtime: 1440, max_mem_mb: 8000}\n"
    )
    assert work.run("works", "--slurm-steady-partition-config", "partitions.yaml", partition="unknown") == 0, work.log
    assert accounted(work.cluster, work.runs("works"), "Partition")[-1] == "frail"


def test_a_file_of_partitions_that_the_site_s_own_program_wrote(work: Work) -> None:
    """As a user makes one: with the program that comes with the published plugin, on this cluster."""
    file = work.folder / "partitions.yaml"
    file.write_text(work.cluster.ask("generate-slurm-partition-config"))
    known = yaml.safe_load(file.read_text())["partitions"]
    assert known["short"]["max_runtime"] == "00:02:00"
    options = ["--slurm-steady-jobname-prefix", "paper", "--set-resources", "works:runtime=2"]
    assert work.run("works", *options, partition="unknown", SNAKEMAKE_SLURM_PARTITIONS=str(file)) == 0, work.log
    partition, name = accounted(work.cluster, work.runs("works"), "Partition,JobName%60")[-1].split("|")
    assert partition in known
    assert name.startswith("paper.works.")


def test_a_prefix_that_is_no_name_is_refused(work: Work) -> None:
    assert work.run("works", "--slurm-steady-jobname-prefix", "no name!") == 1
    assert "jobname_prefix may only contain" in work.log
