"""Whether a job can start and end on its partition, from what sinfo prints."""

from __future__ import annotations

import subprocess

import pytest

from safe_llava.cluster.checks import partitions
from safe_llava.cluster.checks.partitions import (
    Ask,
    ClusterNode,
    ask_sinfo,
    check_asks,
    minutes_of,
    node_gpus,
    parse_sinfo,
)

SINFO = """\
cpu*|1-00:00:00|64|257000|(null)|up|idle
cpu*|1-00:00:00|64|257000|(null)|up|allocated
gpu|12:00:00|64|1030000|gpu:h200:8(S:0-1)|up|mixed
gpu|12:00:00|64|1030000|gpu:h200:8(S:0-1)|up|drained
short|30:00|8|16000|gpu:1|up|idle
old|infinite|8|16000|gpu:4|down|idle
"""
TRAIN = Ask("train_finetune llava", "gpu", gpus=8, cpus=64, memory_mb=256_000, minutes=720, hours=1.4, resumes=True)


def state(ask: Ask, text: str = SINFO) -> tuple[str, str]:
    (found,) = check_asks([ask], parse_sinfo(text))
    return found.state, f"{found.said} / {found.remedy}"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("12:00:00", 720), ("30:00", 30), ("2-12:30:00", 3630), ("infinite", None), ("n/a", None)],
)
def test_time_limits_are_read_as_sinfo_writes_them(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("gpu:h200:8(S:0-1)", 8),
        ("gpu:2", 2),
        ("gpu:a100:4,gpu:h200:2,shm:64", 6),
        ("(null)", 0),
        ("shm:gpu:3", 0),
        ("gpu:nvidia_a100_1g.5gb:7(S:0),gpu:nvidia_a100-sxm4-40gb:1(S:1)", 8),
        ("gpu:no_consume:4", 4),
        ("gpu:h200:no_consume:8(S:0-1)", 8),
        ("gpu:nvidia_rtx_5000_ada_generation:4(S:0),VramPerGpu:no_consume:32G", 4),
    ],
)
def test_gpus_of_a_node_are_counted(text: str, count: int) -> None:
    assert node_gpus(text) == count


def test_nodes_are_read() -> None:
    nodes = parse_sinfo("a line from the site\n" + SINFO)
    assert nodes[0] == ClusterNode("cpu", True, 1440, 64, 257_000, 0, True)
    assert [node.up for node in nodes] == [True, True, True, False, True, False]


@pytest.mark.parametrize(
    ("shown", "up"),
    [
        *[("idle", True), ("mixed", True), ("allocated", True), ("planned", True), ("mixed-", True), ("idle~", True)],
        *[
            ("idle*", False),
            ("down*", False),
            ("drained", False),
            ("inval", False),
            ("reboot^", False),
            ("maint", False),
        ],
    ],
)
def test_the_states_of_nodes_that_versions_show(shown: str, up: bool) -> None:
    (node,) = parse_sinfo(f"gpu|12:00:00|64|1030000|gpu:h200:8|up|{shown}\n")
    assert node.up == up


def test_a_job_that_fits_is_ok_and_says_its_estimate() -> None:
    kind, said = state(TRAIN)
    assert kind == "ok"
    assert "720 minutes on gpu" in said and "estimated 84 minutes" in said


def test_how_long_a_job_takes_that_was_never_measured_is_open() -> None:
    kind, said = state(Ask("prism_answers Gemma", "gpu", gpus=1, minutes=60))
    assert (kind, "prism_answers:runtime=MINUTES" in said) == ("open", True)


def test_more_time_than_the_partition_gives_is_red_with_what_to_set() -> None:
    kind, said = state(Ask("train_finetune llava", "gpu", gpus=8, minutes=1440, resumes=True))
    assert kind == "red"
    assert "--set-resources train_finetune:runtime=720" in said


@pytest.mark.parametrize("changes", [{"gpus": 16}, {"cpus": 65}, {"memory_mb": 2_000_000}, {"nodes": 3}])
def test_what_no_node_has_is_red(changes: dict[str, int]) -> None:
    kind, said = state(Ask("train_finetune llava", "gpu", minutes=60, **changes))
    assert kind == "red"
    assert "asks for" in said


def test_nodes_that_are_away_are_waited_for() -> None:
    kind, said = state(Ask("train_finetune llava", "gpu", nodes=2, gpus=8, minutes=60))
    assert kind == "open"
    assert "1 of them are up" in said


def test_a_partition_that_is_not_there_is_red_and_the_others_are_named() -> None:
    kind, said = state(Ask("prism_answers", "gpus"))
    assert kind == "red"
    assert "there is no partition gpus /" in said and "cpu, gpu, old, short" in said
    assert "there is no partition gpus /" in state(Ask("prism_answers", "gpu,gpus", gpus=1, minutes=60))[1]


def test_of_several_partitions_the_one_that_suits_counts() -> None:
    both = {"gpus": 8, "minutes": 720, "hours": 1.0}
    for names in ("short,gpu", "gpu,short"):
        kind, said = state(Ask("train_finetune llava", names, **both))  # type: ignore[arg-type]
        assert (kind, "720 minutes on gpu;" in said) == ("ok", True)
    kind, said = state(Ask("train_finetune llava", "cpu,short", gpus=8))
    assert (kind, "nodes of cpu can give that" in said) == ("red", True)


def test_hidden_partitions_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def fake(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, SINFO, "")

    monkeypatch.setattr(partitions.subprocess, "run", fake)
    assert parse_sinfo(ask_sinfo())
    assert "--all" in asked[0]


def test_without_a_name_the_default_partition_counts() -> None:
    assert state(Ask("data_layout", None, cpus=64, minutes=1440, hours=0.1))[0] == "ok"
    assert state(Ask("data_layout", None, gpus=1))[0] == "red"


def test_work_that_resumes_may_take_several_jobs_and_other_work_may_not() -> None:
    long = {"partition": "gpu", "gpus": 8, "minutes": 60, "hours": 2.5}
    kind, said = state(Ask("train_finetune llava", resumes=True, **long))  # type: ignore[arg-type]
    assert (kind, "3 jobs" in said) == ("ok", True)
    kind, said = state(Ask("benchmarks_run LLaVA", **long))  # type: ignore[arg-type]
    assert (kind, "benchmarks_run:runtime=151" in said) == ("open", True)


def test_sinfo_without_an_answer_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("sinfo")

    monkeypatch.setattr(partitions.subprocess, "run", absent)
    assert ask_sinfo() == ""
    (found,) = check_asks([TRAIN], parse_sinfo(ask_sinfo()))
    assert found.state == "red"
    refused = subprocess.CompletedProcess([], 1, "gpu|12:00:00", "slurm_load_partitions: Unable to contact")
    monkeypatch.setattr(partitions.subprocess, "run", lambda *_, **__: refused)
    assert ask_sinfo() == ""
