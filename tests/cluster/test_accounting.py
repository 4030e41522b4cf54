"""What a run has cost: from what sacct and the benchmark files say, unknown where they say nothing."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from safe_llava.cluster import accounting
from safe_llava.cluster.accounting import (
    StageCost,
    Submission,
    allocated_gpus,
    bytes_of,
    gpus_by_path,
    main,
    of_slurm,
    of_steps,
    parse_usages,
    read_ledger,
    stage_of,
)
from safe_llava.config.schema import Config
from safe_llava.core.errors import PaperError
from safe_llava.formats.markup import to_latex, to_markdown
from safe_llava.formats.tables import write_table
from safe_llava.paper.tables.costs import costs_table

FIRST, SECOND = "train_finetune.0123456789.1", "train_finetune.0123456789.2"
# Two hours and one on 8 GPUs, of which the first ended by preemption; ten minutes without a GPU.
SACCT = f"""\
100|{FIRST}|PREEMPTED|7200|460800|billing=64,cpu=64,gres/gpu:h200=8,gres/gpu=8,mem=256G,node=1||sbatch -G 8 /dev/stdin
100.batch|batch|CANCELLED|7200|460800|cpu=64,mem=256G,node=1|52428800K|
100.0|python|CANCELLED|7200|460800|cpu=64,mem=256G,node=1|104857600K|srun -n1 bash -c a|b
101|{SECOND}|COMPLETED|3600|230400|billing=64,cpu=64,gres/gpu=8,mem=256G,node=1||sbatch --gpus=8 /dev/stdin
101.batch|batch|COMPLETED|3600|230400|cpu=64,mem=256G,node=1||
102|data_layout.abcdefghij.1|CANCELLED by 0|600|1200|cpu=2,mem=4G,node=1||sbatch --mem 4000 /dev/stdin
102.batch|batch|CANCELLED|600|1200|cpu=2,mem=4G,node=1|1.5G|
"""
LEDGER = [
    Submission("100", FIRST, "PREEMPTED"),
    Submission("101", SECOND, "DONE"),
    Submission("102", "data_layout.abcdefghij.1", "DONE"),
]


def by_stage(lines: list[StageCost]) -> dict[str, StageCost]:
    return {line.stage: line for line in lines}


def test_hours_memory_and_states_are_summed_by_stage() -> None:
    lines = by_stage(of_slurm(LEDGER, parse_usages(SACCT)))
    train, data = lines["train"], lines["data"]
    assert (train.jobs, train.submissions, train.unaccounted) == (1, 2, 0)
    assert (train.wall_hours, train.gpu_hours, train.cpu_hours) == (3.0, 24.0, 192.0)
    assert train.max_memory_gib == 100.0
    assert train.states == "COMPLETED 1, PREEMPTED 1"
    assert (data.gpu_hours, data.max_memory_gib, data.states) == (0.0, 1.5, "CANCELLED 1")
    assert list(lines) == ["data", "train"]


@pytest.mark.parametrize("prefix", ["", "paper.", "data_of_mine."])
def test_a_prefix_of_the_site_is_no_part_of_a_rule_s_name(prefix: str) -> None:
    ledger = [Submission("101", prefix + SECOND, "DONE")]
    lines = by_stage(of_slurm(ledger, parse_usages(SACCT.replace(SECOND, prefix + SECOND))))
    assert {stage: (line.jobs, line.gpu_hours) for stage, line in lines.items()} == {"train": (1, 8.0)}


def test_a_job_that_slurm_ran_twice_counts_twice() -> None:
    again = f"101|{SECOND}|NODE_FAIL|1800|0|gres/gpu=8||\n"
    train = by_stage(of_slurm(LEDGER, parse_usages(again + SACCT)))["train"]
    assert (train.submissions, train.gpu_hours) == (2, 28.0)
    assert train.states == "COMPLETED 1, NODE_FAIL 1, PREEMPTED 1"


@pytest.mark.parametrize("elapsed", ["", "1-02:03:04", "INVALID", "-5", "nan"])
def test_a_job_whose_time_does_not_read_is_counted_as_missing(elapsed: str) -> None:
    (first,) = [line for line in SACCT.splitlines() if line.startswith("100|")][:1]
    cells = first.split("|")
    lines = "\n".join([first, "|".join([*cells[:3], elapsed, *cells[4:]])])
    assert (cells[0], cells[1]) not in parse_usages(lines)
    assert (cells[0], cells[1]) in parse_usages(first)


def test_a_number_that_another_job_had_is_not_counted() -> None:
    """A cluster whose numbers began anew shows both jobs under the one number."""
    other = "101|somebody_else|COMPLETED|999999|999999|gres/gpu=64||\n101.batch|batch|COMPLETED|1|1||999G|\n"
    for text in (other + SACCT, SACCT + other):
        train = by_stage(of_slurm(LEDGER, parse_usages(text)))["train"]
        assert (train.gpu_hours, train.max_memory_gib) == (24.0, 100.0)


def test_without_accounting_costs_are_unknown_and_the_executor_s_word_stands() -> None:
    train = by_stage(of_slurm(LEDGER, parse_usages("")))["train"]
    assert (train.wall_hours, train.gpu_hours, train.cpu_hours, train.max_memory_gib) == (None, None, None, None)
    assert (train.jobs, train.submissions, train.unaccounted) == (1, 2, 2)
    assert train.states == "DONE 1, PREEMPTED 1"


def test_a_job_that_the_accounting_forgot_is_counted_as_missing() -> None:
    kept = "\n".join(line for line in SACCT.splitlines() if not line.startswith("100"))
    train = by_stage(of_slurm(LEDGER, parse_usages(kept)))["train"]
    assert (train.unaccounted, train.gpu_hours) == (1, 8.0)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("cpu=8,gres/gpu=2,gres/gpu:h200=2", 2),
        ("gres/gpu:a100=1,gres/gpu:h200=2", 3),
        ("billing=4,cpu=4,gres/gpu:nvidia_a100_1g.5gb=2,gres/gpu=2,mem=16G,node=1", 2),
        ("cpu=8,gres/gpumem=40G,mem=4G", 0),
        ("cpu=8,mem=4G", 0),
        ("", 0),
    ],
)
def test_gpus_are_read_once(text: str, count: int) -> None:
    submitted = "sbatch --mem 4000 --gres=shm:2,gpu:0 --gpus=0 -G h200:0 --tres-per-task=gres/gpu=0,cpu=2"
    submitted += " --exclude=n1 --gpu-bind=none /dev/stdin"
    assert allocated_gpus(text, submitted) == count


@pytest.mark.parametrize(
    "asked",
    [
        *[
            "--gpus=8",
            "--gpus=h200:8",
            "--gpus h200",
            "--gpus-per-node 4",
            "--gpus-per-task=1",
            "--gpus-per-socket=a100:1",
        ],
        *["-G 2", "-G2", "-G=h200:2", "--gres=gpu", "--gres=shm:1,gpu:2", "--gres gpu:nvidia_a100_1g.5gb:2"],
        *["--tres-per-task=cpu=2,gres/gpu=1", "--tres-per-node=gres/gpu:h200=4", "--tres-per-job gres:gpu:2"],
        *["--tres-per-socket=gres/gpu:2", "--tres-per-t gres/gpu:2", "--exclusive", "--exclus=user", None],
        *["--gres=shard:2", "--gres=mps:h200:50", "--gpus=a100:0,h100:2", "--ntasks=4 --ntasks-per-gpu=2"],
    ],
)
def test_gpus_that_the_site_does_not_count_are_unknown_and_not_none(asked: str | None) -> None:
    submitted = f"sbatch -p gpu {asked} /dev/stdin" if asked else ""
    assert allocated_gpus("billing=64,cpu=64,mem=256G,node=1", submitted) is None
    # SLURM gives these to several jobs at once, and counts none (`no_consume`).
    assert allocated_gpus("billing=64,cpu=64,gres/gpu=0,mem=256G,node=1", submitted) is None


def test_gpu_hours_are_unknown_where_one_of_the_jobs_was_not_counted() -> None:
    uncounted = SACCT.replace(",gres/gpu:h200=8,gres/gpu=8", "")
    assert uncounted != SACCT
    lines = by_stage(of_slurm(LEDGER, parse_usages(uncounted)))
    assert (lines["train"].gpu_hours, lines["train"].wall_hours, lines["train"].unaccounted) == (None, 3.0, 0)
    assert lines["data"].gpu_hours == 0.0
    unstarted = f"100|{FIRST}|CANCELLED|0|0|||sbatch --gpus=8 /dev/stdin\n"
    assert by_stage(of_slurm(LEDGER, parse_usages(unstarted)))["train"].gpu_hours == 0.0


@pytest.mark.parametrize(
    ("text", "size"), [("1024K", 2**20), ("1.5G", 1.5 * 2**30), ("0", 0.0), ("", None), ("16?c", None)]
)
def test_memory_is_read_in_its_unit(text: str, size: float | None) -> None:
    assert bytes_of(text) == size


def test_rules_belong_to_the_stage_that_they_begin_with() -> None:
    names = ("train_pretrain_spread", "paper_table", "demo_check", "preflight_node")
    assert [stage_of(rule) for rule in names] == ["train", "paper", "other", "other"]


def test_the_ledger_is_read_and_its_absence_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    assert read_ledger(file) == []
    rows = [{"job": "7", "name": SECOND, "fate": "DONE", "nodes": "n1"}, {"job": None, "name": SECOND, "fate": "LOST"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.write_text(file.read_text() * 2)  # of a Snakemake that was killed as it wrote a line
    (found,) = read_ledger(file)
    assert (found.job, found.rule, found.key) == ("7", "train_finetune", "train_finetune.0123456789")
    file.write_text('{"job": "7"}\n')
    with pytest.raises(PaperError, match=r"jobs\.jsonl.*name"):
        read_ledger(file)


def usage(folder: Path, path: str, seconds: str, memory: str = "1024.0", cpu: str = "7200.0") -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"s\th:m:s\tmax_rss\tmax_vms\tcpu_time\n{seconds}\t1:00:00\t{memory}\t-\t{cpu}\n")


def test_steps_count_by_their_benchmark_files(tmp_path: Path, paper: Config) -> None:
    usage(tmp_path, "train/llava-v1.5-7b/finetune.tsv", "3600.0", "2048.0")
    usage(tmp_path, "train/llava-v1.5-7b/pretrain.tsv", "1800.0", "NA", "NA")
    usage(tmp_path, "prism/answers/v2/LLaVA.tsv", "360.0")
    usage(tmp_path, "prism/judge/answers/v2/LLaVA/rules/refusal_soft.tsv", "36.0")
    lines = by_stage(of_steps(tmp_path, gpus_by_path(paper)))
    train, prism = lines["train"], lines["prism"]
    assert (train.jobs, train.wall_hours, train.gpu_hours, train.cpu_hours) == (2, 1.5, 12.0, 2.0)
    assert (train.max_memory_gib, train.submissions) == (2.0, None)
    assert (prism.jobs, prism.wall_hours, prism.gpu_hours) == (2, 0.11, 0.1)


def test_a_step_whose_time_was_not_taken_is_unknown(tmp_path: Path) -> None:
    usage(tmp_path, "data/fetch/a.zip.tsv", "NA", "NA", "NA")
    (line,) = of_steps(tmp_path, {})
    assert (line.wall_hours, line.gpu_hours, line.cpu_hours, line.max_memory_gib) == (None, None, None, None)
    assert line.unaccounted == 1


def test_the_step_asks_sacct_for_the_ledger_s_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, SACCT, "")

    monkeypatch.setattr(accounting.subprocess, "run", fake)
    ledger, out = tmp_path / "jobs.jsonl", tmp_path / "costs.csv"
    ledger.write_text("".join(json.dumps({"job": s.job, "name": s.name, "fate": s.fate}) + "\n" for s in LEDGER))
    usage(tmp_path / "usage", "train/llava-v1.5-7b/finetune.tsv", "3600.0")
    main(["--ledger", str(ledger), "--usage", str(tmp_path / "usage"), "--out", str(out)])
    (command,) = asked
    assert command[0] == "sacct" and "--jobs=100,101,102" in command
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["stage"], row["source"]) for row in rows] == [
        ("data", "slurm"),
        ("train", "slurm"),
        ("train", "steps"),
    ]


def test_a_sacct_that_knows_no_submit_line_is_asked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before SLURM 21.08; GPUs that the site counts are known all the same."""
    asked: list[str] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        if "SubmitLine" in command[-1]:
            return subprocess.CompletedProcess(command, 1, "", 'sacct: fatal: Invalid field requested: "SubmitLine"\n')
        return subprocess.CompletedProcess(command, 0, "".join(f"{row.rsplit('|', 1)[0]}\n" for row in rows), "")

    rows = [row for row in SACCT.splitlines() if not row.startswith("100.0")]  # whose command has a | in it
    monkeypatch.setattr(accounting.subprocess, "run", fake)
    lines = by_stage(of_slurm(LEDGER, parse_usages(accounting.ask_sacct([one.job for one in LEDGER]))))
    assert len(asked) == 2
    train, data = lines["train"], lines["data"]
    assert (train.gpu_hours, train.wall_hours, train.max_memory_gib, train.unaccounted) == (24.0, 3.0, 50.0, 0)
    # No gres/gpu, and no call that shows that none was asked for.
    assert (data.gpu_hours, data.wall_hours) == (None, round(1 / 6, 4))


def test_what_sacct_says_instead_of_an_answer_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = subprocess.CompletedProcess([], 1, "", "sacct: error: Problem talking to the database: refused\n")
    monkeypatch.setattr(accounting.subprocess, "run", lambda *_, **__: refused)
    assert accounting.ask_sacct(["1", "2"]) == ""
    assert "what 2 jobs took is unknown: sacct: error: Problem talking to the database: refused" in caplog.text


@pytest.mark.parametrize("fault", [FileNotFoundError("no sacct"), subprocess.TimeoutExpired("sacct", 1)])
def test_sacct_that_is_not_there_or_hangs_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(accounting.subprocess, "run", absent)
    assert accounting.ask_sacct(["1"]) == ""
    assert "no sacct" in caplog.text or "no answer within 300 s" in caplog.text


def test_nothing_submitted_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting.subprocess, "run", lambda *_, **__: pytest.fail("sacct was asked"))
    assert accounting.ask_sacct([]) == ""


def test_the_table_says_unknown_and_keeps_the_sources_apart(tmp_path: Path) -> None:
    usage(tmp_path / "usage", "data/fetch/a.zip.tsv", "36.0")
    file = tmp_path / "costs.csv"
    write_table(file, StageCost, [*of_slurm(LEDGER, {}), *of_steps(tmp_path / "usage", {})])
    table = costs_table(file)
    assert [section.name for section in table.sections] == ["costs slurm", "costs steps"]
    (_, train), (data,) = table.sections[0].lines, table.sections[1].lines
    assert [cell.text for cell in train.cells] == ["1", "2", *["unknown"] * 4, "2"]
    assert [cell.text for cell in data.cells] == ["1", "–", "0.01", "0.00", "2.00", "1.00", "0"]
    assert "unknown" in to_markdown(table)
    assert r"\toprule" in to_latex(table)
