"""The general benchmarks on real answers: those that LLaVA's authors released, beside their own scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from workflow.conftest import Run

LLAVA = "raw.githubusercontent.com/haotian-liu/LLaVA/32cebc3809441cc40d8ac7b2855d148308741f2a/playground/data/eval"
Rows = dict[tuple[str, str, str], dict[str, str]]


@pytest.fixture(scope="module")
def results(snakemake: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("released")
    config = ["--config", f"results={work}/results", f"data={{root: {work}/data, mirrors_only: true}}"]
    table = f"{work}/results/tables/benchmarks_released.csv"
    done = snakemake(table, "--cores", "1", *config, env={"SAFE_LLAVA_MIRRORS": str(shared / "mirror")})
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "results"


@pytest.fixture(scope="module")
def table(results: Path) -> Rows:
    with (results / "tables" / "benchmarks_released.csv").open(encoding="utf-8", newline="") as stream:
        return {(row["benchmark"], row["model"], row["run"] + row["metric"]): row for row in csv.DictReader(stream)}


@pytest.mark.parametrize(
    ("benchmark", "model", "metric", "n", "score"),
    [
        # As the benchmarks' own scripts score the same files.
        ("pope", "LLaVA-1.5-13B", "pope_f1_mean", 8910, 85.95),
        ("pope", "LLaVA-1.5-13B", "pope_accuracy", 8910, 86.97),
        ("scienceqa", "LLaVA-1.5-13B", "exact_match_all", 4241, 74.39),
        ("scienceqa", "LLaVA-1.5-13B", "exact_match", 2017, 71.64),
        ("llava-bench", "LLaVA-1.5-7B", "1gpt_eval_llava_all", 60, 64.75),
        ("mmvet", "LLaVA-1.5-7B", "oncegpt_eval_score", 218, 31.19),
    ],
)
def test_scores_are_those_of_the_official_scripts(
    table: Rows, benchmark: str, model: str, metric: str, n: int, score: float
) -> None:
    row = table[benchmark, model, metric]
    assert (int(row["n"]), int(row["n_failed"]), float(row["score"])) == (n, 0, score)
    assert float(row["ci_low"]) < score < float(row["ci_high"])
    assert row["verdict"] in ("as published", "within two standard errors", "nothing published")


def test_what_the_mirror_lacks_is_skipped_by_name(results: Path, table: Rows) -> None:
    answers = "eval/LLaVA/seed_bench/answers_upload/llava-v1.5-13b.jsonl"
    assert table["seedbench", "LLaVA-1.5-13B", "seed_all"]["verdict"] == f"not scored: {answers} was not fetched"
    receipt = json.loads((results / "data/released/llava-released.json").read_text(encoding="utf-8"))
    assert "not in the mirror" in receipt["missing"][answers]
    assert receipt["failed"] == len(receipt["missing"])


def test_answers_without_labels_are_not_scored(table: Rows) -> None:
    gqa = table["gqa", "LLaVA-1.5-13B", "exact_match"]
    assert gqa["score"] == ""
    assert gqa["verdict"].startswith("not scored: No label is in the released files")


def test_llavas_questions_of_scienceqa_are_those_that_are_sent(shared: Path) -> None:
    """`tests/benchmarks/test_prompts.py` writes them from context, question and options, each on its line."""
    questions = json.loads((shared / "mirror" / LLAVA / "scienceqa/llava_test_CQM-A.json").read_text(encoding="utf-8"))
    texts = [one["conversations"][0]["value"] for one in questions if "image" in one]
    assert len(texts) == 2017
    for text in texts:
        image, *lines = text.split("\n")
        options = [line for line in lines if line[:3] in {f"{letter}. " for letter in "ABCDE"}]
        assert image == "<image>"
        assert lines[-len(options) :] == options
        assert not any(line.startswith("Context: ") for line in lines[1:])


def test_llavas_questions_of_pope_are_fewer_than_the_data_sets(shared: Path) -> None:
    """As the row's note says: the published score is of 8,910 questions, 246 of which misspell a word."""
    lines = (shared / "mirror" / LLAVA / "pope/llava_pope_test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    assert len(questions) == 8910
    assert sum(one["category"] == "random" for one in questions) == 2910
    assert sum("imange" in one["text"] for one in questions) == 246
