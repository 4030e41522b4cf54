"""The DAG of every configuration: what is selected is made, and the demo runs the paper's own rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safe_llava.config.load import load
from safe_llava.config.schema import Config
from safe_llava.config.selection import checked_sets, config_files, needed
from workflow.conftest import Run, job_counts, planned
from workflow.dag import RESULTS, Job

# Answers of real models cannot be drawn; test_released.py runs these on the real ones.
NOT_IN_DEMO = {"prism_released", "prism_released_table", "prism_judges", "prism_convert"}
NOT_IN_DEMO |= {"benchmarks_answers", "benchmarks_judged"}  # POPE needs no judge
# The demo stores images in both ways, and shows the page of its answers.
ONLY_IN_DEMO = {"demo_check", "data_index", "share_browse"}
FRESH = ("--config", "results=/nonexistent/results")


@pytest.fixture(scope="module")
def paper(root: Path) -> Config:
    return load(config_files(root=root))


def rules_of(jobs: dict[str, Job]) -> set[str]:
    return {job.rule for job in jobs.values()}


def test_every_selected_row_has_its_results(paper_jobs: dict[str, Job], paper: Config) -> None:
    prism, benchmarks = paper.prism.select, paper.benchmarks.select
    made = {output for job in paper_jobs.values() for output in job.output}
    wanted = {f"train/{name}/model" for name in paper.train.select.models}
    answers = {f"{edition}/{name}" for edition in prism.editions for name in prism.models}
    wanted |= {f"prism/answers/{one}/record.json" for one in answers}
    wanted |= {f"prism/scores/answers/{one}/{judge}.csv" for one in answers for judge in prism.judges}
    wanted |= {f"prism/scores/released/v1/{name}/rules.csv" for name in paper.prism.released_models}
    wanted |= {f"benchmarks/{name}/{task}/results.json" for name in benchmarks.models for task in benchmarks.tasks}
    wanted |= {f"figures/{name}.{suffix}" for name in paper.paper.figures for suffix in paper.paper.formats}
    assert {f"{RESULTS}/{path}" for path in wanted} <= made
    trained = {path.split("/")[-2] for path in made if path.endswith("/model")}
    assert trained == set(paper.train.select.models)


def test_whatever_is_needed_is_fetched_and_looked_through_once(paper_jobs: dict[str, Job], paper: Config) -> None:
    sets = needed(paper)
    fetched = {f"{RESULTS}/data/fetched/{file.path}.json" for one in sets for file in one.files}
    fetched |= {f"{RESULTS}/data/snapshots/{one.set}.json" for one in sets if one.snapshot}
    arrive = ("data_fetch", "data_snapshot")
    assert {output for output, job in paper_jobs.items() if job.rule in arrive} == fetched
    checked = {f"{RESULTS}/data/layout/{name}.json" for name in checked_sets(paper)}
    looked = {path for job in paper_jobs.values() if job.rule == "data_layout" for path in job.output}
    assert checked == {path for path in looked if path.endswith(".json")}


def test_demo_runs_the_rules_of_the_paper(paper_jobs: dict[str, Job], demo_jobs: dict[str, Job]) -> None:
    assert rules_of(demo_jobs) - rules_of(paper_jobs) == ONLY_IN_DEMO
    assert rules_of(paper_jobs) - rules_of(demo_jobs) == NOT_IN_DEMO


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


@pytest.mark.parametrize(
    ("gone", "again"),
    [
        ("results.json", {"benchmarks_run", "benchmarks_table"}),
        ("answers.json", {"benchmarks_answers", "benchmarks_judged", "benchmarks_table"}),
    ],
)
def test_no_benchmarks_score_outlives_what_it_was_made_of(
    snakemake: Run, tmp_path: Path, gone: str, again: set[str]
) -> None:
    task = "pope" if gone == "results.json" else "mmvet"
    chosen = ("--config", f"results={tmp_path}", f"benchmarks={{select: {{models: [llava-v1.5-7b], tasks: [{task}]}}}}")
    folder = tmp_path / "benchmarks" / "llava-v1.5-7b" / task
    names = ["answers.json"] * (gone == "answers.json") + ["results.json", "samples.jsonl", "units.csv"]
    for path in [*(folder / name for name in names), tmp_path / "tables/benchmarks.csv"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"failed": 0, "retry": ""}\n', encoding="utf-8")
    finished = snakemake("-n", "benchmarks", *chosen)
    assert (finished.returncode, job_counts(finished.stdout)) == (0, {}), finished.stderr
    (folder / gone).unlink()
    counts = job_counts(snakemake("-n", "benchmarks", *chosen).stdout)
    assert again <= counts.keys()


def test_one_file_asks_for_what_it_needs(snakemake: Run, paper: Config) -> None:
    table = f"{paper.results}/tables/prism.csv"
    counts = job_counts(snakemake("-n", table, "--forceall").stdout)
    assert "prism_table" in counts
    assert not {"benchmarks_run", "benchmarks_answers", "benchmarks_judged"} & set(counts)
    assert "prism_released" not in counts


ONE_JUDGED = "benchmarks={judge: gpt-benchmarks, select: {models: [LLaVA], tasks: [pope, mmvet]}}"


def test_answers_are_asked_for_on_a_gpu_and_judged_without(snakemake: Run) -> None:
    done = snakemake("-n", "--profile", "slurm", "benchmarks", *FRESH, ONE_JUDGED)
    made = planned(done.stdout)
    tasks = {rule: {path.split("/")[-2] for path in made[rule]} for rule in made if rule.startswith("benchmarks_")}
    assert (tasks["benchmarks_run"], tasks["benchmarks_answers"], tasks["benchmarks_judged"]) == (
        {"pope"},
        {"mmvet"},
        {"mmvet"},
    )
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
    done = snakemake("-n", "--profile", "slurm", *FRESH)
    assert done.returncode == 0
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("a run needs slurm-steady-account"))
    assert "slurm-steady-gpu-partition, still unknown in workflow/profiles/slurm/config.yaml" in said
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
