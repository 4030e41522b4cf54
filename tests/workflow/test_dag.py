"""The DAG of every configuration: which rules, how many jobs of each, and that the demo runs the paper's own rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safe_llava.config.load import load
from safe_llava.config.schema import Config
from workflow.conftest import Run, job_counts

FILES = ("config", "datasets", "data.lock", "models", "train", "prism", "benchmarks")
DEMO = ("--configfile", "config/demo.yaml")
# Answers of real models cannot be drawn; test_released.py runs these on the real ones.
NOT_IN_DEMO = {"prism_released", "prism_released_table", "prism_judges", "prism_convert"}
NOT_IN_DEMO |= {"benchmarks_answers", "benchmarks_judged"}  # POPE needs no judge
ONLY_IN_DEMO = {"demo_check", "data_index"}  # the demo stores images in both ways
FRESH = ("--config", "results=/nonexistent/results")


@pytest.fixture(scope="module")
def paper(root: Path) -> Config:
    return load([root / "config" / f"{name}.yaml" for name in FILES])


@pytest.fixture(scope="module")
def paper_counts(snakemake: Run) -> dict[str, int]:
    done = snakemake("-n", *FRESH)
    assert done.returncode == 0, done.stderr + done.stdout
    return job_counts(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def demo_counts(snakemake: Run) -> dict[str, int]:
    done = snakemake("-n", *DEMO, *FRESH)
    assert done.returncode == 0, done.stderr + done.stdout
    return job_counts(done.stdout + done.stderr)


def test_paper_jobs_are_what_its_rows_ask_for(paper_counts: dict[str, int], paper: Config) -> None:
    models, released = len(paper.prism.select.models), len(paper.prism.released_models)
    trained, tasks = len(paper.train.select.models), len(paper.benchmarks.select.tasks)
    judged = sum(paper.benchmarks.tasks[name].judged for name in paper.benchmarks.select.tasks)
    editions, judges = len(paper.prism.select.editions), len(paper.prism.select.judges)
    expected = {
        "train_config": 2 * trained,
        "train_pretrain": trained,
        "train_finetune": trained,
        "prism_answers": models * editions,
        "prism_convert": 3,
        "prism_released": released * 3,
        "prism_judge": models * editions * judges * 3 + released * 3,
        "prism_score": models * editions * judges + released,
        "prism_table": 1,
        "prism_released_table": 1,
        "prism_paired": 1,
        "prism_judges": 1,
        "benchmarks_run": len(paper.benchmarks.select.models) * (tasks - judged),
        "benchmarks_answers": len(paper.benchmarks.select.models) * judged,
        "benchmarks_judged": len(paper.benchmarks.select.models) * judged,
        "benchmarks_table": 1,
        "benchmarks_paired": 1,
        "paper_figure": len(paper.paper.figures),
    }
    # The rows of data sets that the selection needs, and the tables and figures of the paper section.
    expected |= {"data_fetch": 50, "data_snapshot": 22, "data_unpack": 10, "data_layout": 6, "prism_published": 1}
    expected |= {"data_compare": 2, "data_audit": 4, "data_audit_table": 1}
    expected |= {"paper_table": 9, "paper_summary": 1, "paper_costs": 1, "paper_costs_table": 1, "all": 1}
    assert paper_counts == expected | {"total": sum(expected.values())}


def test_demo_jobs(demo_counts: dict[str, int]) -> None:
    assert demo_counts == {
        "data_fetch": 23,
        "data_snapshot": 3,
        "data_unpack": 7,
        "data_index": 3,
        "data_layout": 6,
        "data_compare": 2,
        "data_audit": 4,
        "data_audit_table": 1,
        "train_config": 4,
        "train_pretrain": 2,
        "train_finetune": 2,
        "prism_answers": 4,
        "prism_judge": 12,
        "prism_score": 4,
        "prism_published": 1,
        "prism_table": 1,
        "prism_paired": 1,
        "benchmarks_run": 2,
        "benchmarks_table": 1,
        "benchmarks_paired": 1,
        "paper_table": 5,
        "paper_figure": 7,
        "paper_summary": 1,
        "paper_costs": 1,
        "paper_costs_table": 1,
        "demo_check": 1,
        "all": 1,
        "total": 101,
    }


def test_demo_runs_the_rules_of_the_paper(paper_counts: dict[str, int], demo_counts: dict[str, int]) -> None:
    assert set(demo_counts) - set(paper_counts) == ONLY_IN_DEMO
    assert set(paper_counts) - set(demo_counts) == NOT_IN_DEMO


@pytest.mark.parametrize("stage", ["data", "train", "prism", "benchmarks", "paper"])
def test_a_milestone_makes_its_stage_and_no_later_one(snakemake: Run, stage: str) -> None:
    done = snakemake("-n", stage, *FRESH)
    assert done.returncode == 0, done.stderr
    rules = job_counts(done.stdout + done.stderr).keys() - {"total", "prism_convert"}  # of any model that is asked
    stages = {name.split("_")[0] for name in rules}
    later = {"data": ["train", "prism", "benchmarks", "paper"], "train": ["prism", "benchmarks", "paper"]}
    later |= {"prism": ["benchmarks", "paper"], "benchmarks": ["prism", "paper"], "paper": []}
    assert stage in stages
    assert stages.isdisjoint(later[stage])


def test_one_file_asks_for_what_it_needs(snakemake: Run, paper: Config) -> None:
    table = f"{paper.results}/tables/prism.csv"
    counts = job_counts(snakemake("-n", table, "--forceall").stdout)
    assert counts["prism_table"] == 1
    assert not {"benchmarks_run", "benchmarks_answers", "benchmarks_judged"} & set(counts)
    assert "prism_released" not in counts


ONE_JUDGED = "benchmarks={judge: gpt-benchmarks, select: {models: [LLaVA], tasks: [pope, mmvet]}}"


def test_answers_are_asked_for_on_a_gpu_and_judged_without(snakemake: Run) -> None:
    done = snakemake("-n", "--profile", "slurm", "benchmarks", *FRESH, ONE_JUDGED)
    counts = job_counts(done.stdout + done.stderr)
    names = ("benchmarks_run", "benchmarks_answers", "benchmarks_judged", "benchmarks_table")
    assert [counts[name] for name in names] == [1, 1, 1, 1]
    blocks = dict(re.findall(r"^(rule benchmarks_\w+):\n((?:    .+\n)+)", done.stdout, re.MULTILINE))
    answers, judged = blocks["rule benchmarks_answers"], blocks["rule benchmarks_judged"]
    assert "gpu=1" in answers and "judge_api" not in answers
    assert "judge_api=1" in judged and "gpu=" not in judged
    assert "LLaVA/mmvet/answers.json" in judged.split("output:")[0]


def test_a_dry_run_says_at_its_end_which_keys_a_run_needs(snakemake: Run) -> None:
    wanted = "judge `gpt-benchmarks` needs the environment variable OPENAI_API_KEY"
    done = snakemake("-n", "benchmarks", *FRESH, ONE_JUDGED)
    assert done.returncode == 0
    assert wanted in done.stderr
    assert wanted not in snakemake("-n", "benchmarks", *FRESH, ONE_JUDGED, env={"OPENAI_API_KEY": "k" * 20}).stderr
    assert wanted not in snakemake("-n", "data", *FRESH).stderr
    answers = "/nonexistent/results/benchmarks/LLaVA/mmvet/answers.json"
    assert wanted not in snakemake("-n", answers, *FRESH, ONE_JUDGED).stderr


def test_the_cluster_profile_is_found_and_asks_for_the_site(snakemake: Run, tmp_path: Path) -> None:
    assert snakemake("-n", "--profile", "slurm", *FRESH).returncode == 0
    # Nothing is submitted before the site has been named.
    row = tmp_path / "results/train/llava-v1.5-7b/finetune/config.json"
    done = snakemake("--profile", "slurm", str(row), "--config", f"results={tmp_path}/results")
    assert done.returncode != 0
    assert "slurm-steady-account is still `unknown`" in done.stdout + done.stderr


def test_the_default_profile_leaves_the_cluster_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yte import process_yaml

    text = (root / "workflow/profiles/default/config.yaml").read_text()
    monkeypatch.setattr("sys.argv", ["snakemake", "prism"])
    assert process_yaml(text, require_use_yte=True)["cores"] == "all"
    monkeypatch.setattr("sys.argv", ["snakemake", "--profile", "slurm"])
    settings = process_yaml(text, require_use_yte=True)
    assert not {"cores", "jobs", "executor", "default-resources"} & set(settings)
