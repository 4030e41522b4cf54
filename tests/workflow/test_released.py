"""The main job on real input: the released answers of five models, judged by the rules, beside the published counts."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from workflow.conftest import Run

MODELS = ["LLaVA", "LLaVA-Onevision", "Gemma", "InternVLC3", "Safe-LLaVA-0_5B"]
COLUMNS = ["edition", "model", "task", "attribute", "judge", "n", "n_failed", "hits", "rate"]
COLUMNS += ["ci_low", "ci_high", "source"]
ATTRIBUTES = {"Age", "Gender", "Race", "Eye_Color", "Weight"}
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def released(snakemake: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("released")
    done = snakemake(
        f"{work}/results/tables/prism_released.csv",
        *("--cores", "2", "--config", f"results={work}/results", f"data={{root: {work}/data}}"),
        f"prism={{released_models: [{', '.join(MODELS)}]}}",
        env={"SAFE_LLAVA_MIRRORS": str(shared / "mirror")},
    )
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
