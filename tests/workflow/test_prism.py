"""What a selection of PRISM asks for, and which changes of the configuration and the code ask, judge or score again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safe_llava.config.load import load
from safe_llava.config.selection import config_files
from workflow.conftest import ROOT, Finished, Run, job_counts, planned

FRESH = ("--config", "results=/nonexistent/results")
MINE = """
models:
  mine: {inherits: LLaVA, hub: somebody/their-llava, revision: 0123abcd, template: recorded}
prism: {select: {models: [mine]}}
"""
ONE = """
train: {select: {models: []}}
prism: {select: {models: [LLaVA]}}
benchmarks: {select: {models: [LLaVA], tasks: [pope]}}
"""


def test_a_model_of_one_s_own_is_asked_alone(snakemake: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    done = snakemake("-n", "prism", "--configfile", f"{tmp_path}/mine.yaml", *FRESH)
    assert done.returncode == 0, done.stderr
    made, results = planned(done.stdout), "/nonexistent/results"
    assert {rule.split("_")[0] for rule in made} == {"data", "prism"}
    select = load(config_files([])).prism.select
    records = {f"{results}/prism/answers/{edition}/mine/record.json" for edition in select.editions}
    assert {path for path in made["prism_answers"] if path.endswith("record.json")} == records
    assert made["data_snapshot"] == [f"{results}/data/snapshots/model-mine.json"]
    fetched = [path.removeprefix(f"{results}/data/fetched/") for path in made["data_fetch"]]
    assert all(path.startswith(("eval/PRISM/", "downloads/prism-v")) for path in fetched), fetched
    assert "environment variable" not in done.stderr


def test_a_folder_without_a_checkpoint_is_not_passed_off_by_tables_of_before(snakemake: Run, tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "gone"
    (tmp_path / "mine.yaml").write_text(
        f"models: {{mine: {{inherits: LLaVA, folder: {folder}}}}}\n"
        "prism: {select: {models: [mine], editions: [v1]}}\nbenchmarks: {select: {models: [mine], tasks: [pope]}}\n"
    )
    command = ["-n", f"{results}/tables/prism.csv", "--configfile", f"{tmp_path}/mine.yaml"]
    command += ["--config", f"results={results}"]
    (results / "tables").mkdir(parents=True)
    (results / "tables/prism.csv").touch()
    done = snakemake(*command)
    assert done.returncode == 1
    assert f"models.mine.folder: {folder} holds no checkpoint" in done.stdout + done.stderr

    # The answers are that folder's: its weights are asked for only where a job needs them.
    record = results / "prism/answers/v1/mine/record.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"row": {"folder": str(folder)}}))
    done = snakemake(*command)
    assert "(rule prism_answers" not in done.stdout + done.stderr, "the benchmark was not answered from there"
    asked = results / "benchmarks/mine/pope/results.json"
    asked.parent.mkdir(parents=True)
    asked.write_text(json.dumps({"provenance": {"row": {"folder": str(folder)}}}))
    done = snakemake(*command)
    assert "(rule prism_answers" in done.stdout + done.stderr
    record.write_text(json.dumps({"row": {"folder": "another"}}))
    done = snakemake(*command)
    assert "holds no checkpoint" in done.stdout + done.stderr
    assert "(rule prism_answers" not in done.stdout + done.stderr


def test_a_pair_of_which_a_model_is_not_asked_asks_for_none(snakemake: Run, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    done = snakemake("-n", "paper", "--configfile", f"{tmp_path}/one.yaml", *FRESH)
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout)
    assert not [name for name in counts if name.startswith("train_") or name.endswith("_paired")]
    assert {path.split("/")[-2] for path in planned(done.stdout)["prism_answers"]} == {"LLaVA"}
    figures = re.findall(r"wildcards: figure=(\S+)", done.stdout)
    assert not {"prism_paired", "benchmarks_paired", "training"} & set(figures)
    tables = re.findall(r"wildcards: table=(\S+)", done.stdout)
    assert "prism" in tables
    assert not {"prism_paired", "benchmarks_paired"} & set(tables)


def test_the_summary_compares_a_pair_that_the_benchmarks_alone_have(snakemake: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    page = "/nonexistent/results/tables/summary.md"
    done = snakemake("-n", "-p", page, "--configfile", f"{tmp_path}/mine.yaml", *FRESH)
    assert done.returncode == 0, done.stderr
    assert "--compare safe-llava-v1.5-7b llava-v1.5-7b" in command(done.stdout, "paper.summary")
    assert "--paired" not in command(done.stdout, "paper.summary")
    assert "prism_paired" not in job_counts(done.stdout)


def command(said: str, module: str) -> str:
    """Return the one command of a dry-run that calls a module."""
    (found,) = [line for line in said.splitlines() if f"-m safe_llava.{module} " in line]
    return found


def test_how_descriptions_are_scored_is_no_reason_to_ask_again(snakemake: Run) -> None:
    answers = "/nonexistent/results/prism/answers/v1/LLaVA/record.json"
    said = [
        snakemake("-n", "-p", answers, *FRESH, f"prism={{editions: {{v1: {{leakage_scored: {scored}}}}}}}").stdout
        for scored in ("own", "all")
    ]
    assert command(said[0], "prism.answers") == command(said[1], "prism.answers")


@pytest.fixture(scope="module")
def evaluated(snakemake: Run, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    results = ("prism/answers/v1/demo-safe/record.json", "benchmarks/demo-safe/pope/results.json")
    return Finished(snakemake, tmp_path_factory.mktemp("evaluated"), *results)


BUDGET = "{refusal_soft: 60, refusal_hard: 40, implicit_leakage: 40}"  # in config/demo.yaml the last has 60
PART = (
    "{refusal_soft: eval/PRISM/PRISM_refusal_hard.jsonl, refusal_hard: eval/PRISM/PRISM_refusal_soft.jsonl, "
    "implicit_leakage: eval/PRISM/PRISM_implicit_leakage.jsonl, images: eval/PRISM/biometric_images}"
)
METRICS = "metric: pope_accuracy, more_metrics: [pope_f1_mean, pope_f1_score, pope_precision, pope_recall]"


@pytest.mark.parametrize(
    ("sections", "again"),
    [
        ({}, set()),
        ({"models": f"{{demo-safe: {{new_tokens: {BUDGET}}}}}"}, {"prism_answers", "benchmarks_run"}),
        ({"prism": f"{{editions: {{v1: {{parts: [{PART}]}}}}}}"}, {"prism_answers"}),
        ({"benchmarks": f"{{tasks: {{pope: {{{METRICS}}}}}}}"}, {"benchmarks_run"}),
    ],
)
def test_two_values_that_change_places_ask_again(
    evaluated: Finished, sections: dict[str, str], again: set[str]
) -> None:
    """Snakemake by itself compares the parameters of a job as a set of values, without their names."""
    assert set(evaluated.jobs(**sections)) == again


def test_the_released_answers_are_scored_alike_in_every_table(snakemake: Run) -> None:
    changed = "prism={select: {editions: [v2]}, editions: {v1: {leakage_scored: all}}, released_models: [LLaVA]}"
    tables = [f"/nonexistent/results/tables/{name}.csv" for name in ("prism_released", "prism_judges")]
    done = snakemake("-n", "-p", *tables, *FRESH, changed)
    assert done.returncode == 0, done.stderr
    assert "--leakage-scored all" in command(done.stdout, "prism.score")
    assert "v1=all" in command(done.stdout, "prism.judges_agree").split()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the workflow, to be changed."""
    for folder in ("config", "containers", "envs", "scripts", "workflow"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "images"))
    return tmp_path


def test_an_edited_lexicon_judges_again_whoever_the_judge_is(clone: Path) -> None:
    answers = clone / "results/prism/released/v1/LLaVA/implicit_leakage.jsonl"
    fixed = {"edition": "v1", "model": "LLaVA", "task": "implicit_leakage", "index": 0, "attribute": "Age"}
    answers.parent.mkdir(parents=True)
    # Nothing is said, so nothing is asked about it.
    silent = {"question_id": "Age/1.jpg", "image": "1.jpg", "prompt": "?", "text": "", "status": "ok"}
    answers.write_text(json.dumps(fixed | silent) + "\n")
    verdicts = [
        f"results/prism/verdicts/released/v1/LLaVA/{judge}/implicit_leakage.jsonl" for judge in ("rules", "gpt-ours")
    ]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *verdicts, "--allowed-rules", "prism_judge", "--cores=1", *arguments],
            cwd=clone,
            env={**os.environ, "OPENAI_API_KEY": "none is called", "PYTHONPATH": str(clone / "scripts")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run()
    assert job_counts(run("-n")) == {}
    with (clone / "scripts/safe_llava/lexicon/refusals.py").open("a") as stream:
        stream.write("# changed\n")
    again = run("-n")
    assert set(verdicts) <= set(planned(again)["prism_judge"]) and set(job_counts(again)) == {"prism_judge", "total"}


def test_without_benchmarks_the_paper_has_none(snakemake: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE + "train: {select: {models: []}}\nbenchmarks: {select: {models: []}}\n")
    done = snakemake("-n", "--configfile", f"{tmp_path}/mine.yaml", *FRESH)
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout)
    assert "paper_summary" in counts
    assert [name for name in counts if name.startswith("benchmarks")] == []
    assert "tables/benchmarks" not in done.stdout and "figures/benchmarks" not in done.stdout
