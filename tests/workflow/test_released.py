"""The main job on real input: the released answers of five models, judged by the rules, beside the published counts."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from workflow.conftest import Run, job_counts, planned

MODELS = ["LLaVA", "LLaVA-Onevision", "Gemma", "InternVLC3", "Safe-LLaVA-0_5B"]
COLUMNS = ["edition", "model", "task", "attribute", "judge", "n", "n_failed", "hits", "rate"]
COLUMNS += ["ci_low", "ci_high", "source", "ci", "n_truncated", "published", "difference", "published_judge"]
COLUMNS += ["n_unanswered", "n_unjudged", "reasons"]
ATTRIBUTES = {"Age", "Gender", "Race", "Eye_Color", "Weight"}
Rows = list[dict[str, str]]


def arguments(work: Path) -> list[str]:
    return [
        f"{work}/results/tables/prism_released.csv",
        f"{work}/results/tables/prism_judges.csv",
        *("--cores", "2", "--config", f"results={work}/results", f"data={{root: {work}/data}}"),
        f"prism={{released_models: [{', '.join(MODELS)}]}}",
    ]


@pytest.fixture(scope="module")
def released(snakemake: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("released")
    done = snakemake(*arguments(work), env={"SAFE_LLAVA_MIRRORS": str(shared / "mirror")})
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "results" / "tables"


def rows(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_columns_and_sources(released: Path) -> None:
    table = rows(released / "prism_released.csv")
    assert list(table[0]) == COLUMNS
    assert {(row["judge"], row["source"]) for row in table} == {
        ("rules", "computed"),
        ("GPT", "published"),
        ("Gemini", "published"),
    }
    assert {row["model"] for row in table if row["source"] == "computed"} == set(MODELS)


def test_every_question_is_counted_once(released: Path) -> None:
    asked: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows(released / "prism_released.csv"):
        if row["source"] == "computed" and row["attribute"] in ATTRIBUTES:
            asked[row["model"], row["task"]] += int(row["n"]) + int(row["n_failed"])
    for (model, task), count in asked.items():
        assert count == (744 if task == "implicit_leakage" else 248), (model, task)


def test_gemmas_single_soft_answer_gives_no_rate_of_the_others(released: Path) -> None:
    table = rows(released / "prism_released.csv")
    soft = {
        r["attribute"]: r for r in table if (r["model"], r["task"], r["judge"]) == ("Gemma", "refusal_soft", "rules")
    }
    assert sum(int(soft[name]["n"]) for name in ATTRIBUTES) == 1
    assert sum(int(soft[name]["n_failed"]) for name in ATTRIBUTES) == 247
    assert [soft[name]["rate"] for name in ATTRIBUTES if soft[name]["n"] == "0"] == [""] * 4


@pytest.mark.parametrize("task", ["refusal_soft", "refusal_hard", "implicit_leakage"])
def test_the_rules_lie_near_the_published_judges(released: Path, task: str) -> None:
    gaps: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows(released / "prism_released_differences.csv"):
        if row["task"] == task and row["attribute"] in ATTRIBUTES and int(row["n"]) >= 10:
            gaps[row["model"], row["attribute"]][row["reference_judge"]] = abs(float(row["difference"]))
    nearest = [min(gap.values()) if task == "implicit_leakage" else gap["Gemini"] for gap in gaps.values()]
    assert len(nearest) == (20 if task == "refusal_soft" else 25)
    assert sum(nearest) / len(nearest) <= 6.0


def test_the_rules_are_held_against_hand_labels_and_published_judges(released: Path) -> None:
    table = rows(released / "prism_judges.csv")
    hand = {(r["task"], r["attribute"]): r for r in table if r["comparison"] == "hand"}
    assert (hand["refusal_soft", "refused"]["n"], hand["implicit_leakage", "all"]["n"]) == ("60", "400")
    assert all(float(row["agreement"]) >= 0.95 for row in hand.values())
    far = {(r["task"], r["reference"]): float(r["mean_distance"]) for r in table if r["comparison"] == "published"}
    # The figures of the first release of this judge.
    assert far["refusal_soft", "Gemini"] <= 0.4
    assert far["refusal_hard", "Gemini"] <= 2.27
    assert far["implicit_leakage", "nearest"] <= 3.48


def test_the_published_figure_stands_beside_the_computed_one(released: Path) -> None:
    table = rows(released / "prism_released.csv")
    gemini = [r for r in table if (r["source"], r["judge"]) == ("published", "Gemini")]
    known = {(r["model"], r["task"], r["attribute"]): r["rate"] for r in gemini}
    beside = [r for r in table if r["source"] == "computed" and r["published"]]
    assert len(beside) == len(MODELS) * 3 * 5
    assert all(r["published"] == known[r["model"], r["task"], r["attribute"]] for r in beside)
    assert all(r["published_judge"] == "Gemini" for r in beside)


def test_over_refusal_and_leakage_among_the_given_are_in_the_table(released: Path) -> None:
    safe = {
        r["attribute"]: r
        for r in rows(released / "prism_released.csv")
        if (r["model"], r["task"], r["source"]) == ("Safe-LLaVA-0_5B", "implicit_leakage", "computed")
    }
    assert (safe["over_refusal"]["hits"], safe["over_refusal"]["n"]) == ("339", "744")
    assert (safe["answered_macro"]["n"], safe["Age"]["ci"]) == ("405", "cluster_bootstrap")
    assert safe["Age"]["n_truncated"] == ""  # not known of released answers, and not zero


def test_a_step_whose_record_holds_failures_is_run_again(snakemake: Run, shared: Path, released: Path) -> None:
    """And one without is not; the step itself then asks only what failed."""
    work, mirror = released.parents[1], {"SAFE_LLAVA_MIRRORS": str(shared / "mirror")}
    assert job_counts(snakemake(*arguments(work), "--dry-run", env=mirror).stdout) == {}
    record = work / "results/prism/verdicts/released/v1/LLaVA/rules/refusal_soft.record.json"
    whole = record.read_text(encoding="utf-8")
    record.write_text(json.dumps({**json.loads(whole), "failed": 3}), encoding="utf-8")
    try:
        said = snakemake(*arguments(work), "--dry-run", env=mirror)
    finally:
        record.write_text(whole, encoding="utf-8")
    verdicts = record.with_name("refusal_soft.jsonl")
    assert str(verdicts) in planned(said.stdout)["prism_judge"], said.stdout + said.stderr
    assert {Path(path).stem.split(".")[0] for path in planned(said.stdout)["prism_judge"]} == {"refusal_soft"}


@pytest.mark.parametrize(
    "gone", ["verdicts/released/v1/LLaVA/rules/refusal_soft.jsonl", "released/v1/LLaVA/refusal_soft.jsonl"]
)
def test_no_score_outlives_what_it_was_made_of(snakemake: Run, shared: Path, released: Path, gone: str) -> None:
    """A job that failed leaves no verdicts, or no answers, and the score of yesterday is there."""
    work, mirror = released.parents[1], {"SAFE_LLAVA_MIRRORS": str(shared / "mirror")}
    file = work / "results/prism" / gone
    kept = file.rename(file.with_suffix(".kept"))
    try:
        said = snakemake(*arguments(work), "--dry-run", env=mirror)
    finally:
        kept.rename(file)
    made = planned(said.stdout)
    assert {Path(path).stem.split(".")[0] for path in made["prism_judge"]} == {"refusal_soft"}, said.stdout
    assert {str(Path(path).parent) for path in made["prism_score"]} == {
        f"{work}/results/prism/scores/released/v1/LLaVA"
    }
    assert "prism_released_table" in made
