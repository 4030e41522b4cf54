"""The table of all scores, and the configured rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from safe_llava.benchmarks import table
from safe_llava.config.benchmarks import BenchmarksConfig, BenchmarkTask
from safe_llava.core.errors import BenchmarkError
from safe_llava.formats.benchmark_scores import BenchmarkScore
from safe_llava.formats.tables import read_table


def write(folder: Path, model: str, **changes: Any) -> Path:
    metrics = {
        "pope_accuracy": {"score": 81.234, "stderr": 1.5},
        "pope_f1_mean": {"score": 83.0, "stderr": None},
        "pope_yes_ratio": {"score": 50.0, "stderr": None},
    }
    result = {"model": model, "benchmark": "pope", "metrics": metrics, "n": 12, "n_failed": 0, "limit": None}
    path = folder / f"{model}.json"
    path.write_text(json.dumps({**result, **changes}), encoding="utf-8")
    return path


@pytest.fixture
def published(tmp_path: Path, pope_row: BenchmarkTask) -> Path:
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump({"benchmarks": {"tasks": {"pope": pope_row.model_dump(mode="json")}}}))
    return path


def rows(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def run(out: Path, published: Path, *results: Path, more: tuple[str, ...] = ()) -> list[dict[str, str]]:
    table.main(["--results", *map(str, results), "--published", str(published), "--out", str(out), *more])
    return rows(out)


def test_the_own_metric_comes_first(tmp_path: Path, published: Path) -> None:
    found = run(tmp_path / "t.csv", published, write(tmp_path, "a"))
    assert [row["metric"] for row in found] == ["pope_f1_mean", "pope_accuracy"]
    assert found[0] == {
        "model": "a",
        "benchmark": "pope",
        "metric": "pope_f1_mean",
        "score": "83.00",
        "stderr": "",
        "n": "12",
        "n_failed": "0",
        "limit": "",
        "published": "85.9",
        "difference": "-2.90",
        "verdict": "no standard error known",
        "judge": "",
        "published_judge": "",
        "source": "computed",
        "note": "A note.",
    }
    assert (found[1]["score"], found[1]["stderr"], found[1]["published"]) == ("81.23", "1.50", "")


def test_the_paper_stage_reads_the_table(tmp_path: Path, published: Path) -> None:
    run(tmp_path / "t.csv", published, write(tmp_path, "a"), write(tmp_path, "b"))
    assert [row.score for row in read_table(tmp_path / "t.csv", BenchmarkScore)] == [83.0, 81.23] * 2


def test_only_some_models_stand_beside_the_published(tmp_path: Path, published: Path) -> None:
    results = write(tmp_path, "a"), write(tmp_path, "b")
    found = run(tmp_path / "t.csv", published, *results, more=("--compare", "b"))
    assert [row["published"] for row in found if row["metric"] == "pope_f1_mean"] == ["", "85.9"]
    found = run(tmp_path / "t.csv", published, *results, more=("--compare",))
    assert {row["published"] for row in found} == {""}


def test_what_is_not_comparable_has_no_difference(tmp_path: Path, published: Path) -> None:
    found = run(tmp_path / "t.csv", published, write(tmp_path, "a", limit=10))
    assert (found[0]["published"], found[0]["difference"]) == ("85.9", "")
    assert found[0]["note"] == "The first 10 questions only. A note."
    content = yaml.safe_load(published.read_text())["benchmarks"]["tasks"]
    content["pope"]["comparable"] = False
    published.write_text(json.dumps(content))
    found = run(tmp_path / "t.csv", published, write(tmp_path, "a"))
    assert (found[0]["published"], found[0]["difference"]) == ("85.9", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"benchmark": "other"}, "no row for benchmark `other`"),
        ({"metrics": {"pope_f1_mean": {"score": "NaN"}}}, r"a\.json: metrics\.pope_f1_mean\.score"),
        ({"n": None}, r"a\.json: n"),
    ],
)
def test_wrong_results_are_named(tmp_path: Path, published: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        run(tmp_path / "t.csv", published, write(tmp_path, "a", **changes))
    assert not (tmp_path / "t.csv").exists()


def test_a_result_named_twice(tmp_path: Path, published: Path) -> None:
    path = write(tmp_path, "a")
    with pytest.raises(BenchmarkError, match="two results of a on pope"):
        run(tmp_path / "t.csv", published, path, path)


def test_published_file_of_something_else(tmp_path: Path, published: Path) -> None:
    published.write_text("- a\n")
    with pytest.raises(BenchmarkError, match="no mapping"):
        run(tmp_path / "t.csv", published, write(tmp_path, "a"))
    published.write_text("pope: {description: d}\n")
    with pytest.raises(BenchmarkError, match=r"published\.yaml: pope: lmms_task"):
        run(tmp_path / "t.csv", published, write(tmp_path, "a"))


def metrics(score: float, stderr: float | None = 1.0) -> dict[str, Any]:
    return {"pope_f1_mean": {"score": score, "stderr": stderr}}


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({"metrics": metrics(84.0)}, {}, "within two standard errors"),
        ({"metrics": metrics(83.8)}, {}, "outside"),
        ({"metrics": metrics(83.8)}, {"noise": {"pope_f1_mean": 3.0}}, "within the known noise (±3)"),
        ({"metrics": metrics(80.0)}, {"noise": {"pope_f1_mean": 3.0}}, "outside"),
        ({"metrics": metrics(85.9, None)}, {}, "no standard error known"),
        ({"metrics": metrics(85.9)}, {"published": {}}, "nothing published"),
        ({"metrics": metrics(85.9)}, {"comparable": False, "note": "Another split."}, "not comparable: Another split"),
        ({"metrics": metrics(85.9), "limit": 9}, {}, "not comparable: the first 9 questions only"),
        (
            {"metrics": metrics(85.9), "judging": {"judge": "j", "models": ["gpt-x"], "calls": 3}},
            {"judged": True, "judge_reply": ".", "published_judge": "gpt-4"},
            "not comparable: judged by gpt-x, published with gpt-4",
        ),
        (
            {"metrics": metrics(85.9), "judging": {"judge": "j", "models": [], "calls": 0}},
            {"judged": True, "judge_reply": ".", "published_judge": "gpt-4"},
            "within two standard errors",
        ),
        *(
            (
                {"metrics": metrics(85.9), "judging": {"judge": "j", "models": models, "calls": 3}},
                {"judged": True, "judge_reply": ".", "published_judge": published},
                "within two standard errors",
            )
            for published, models in [
                ("gpt-4", ["gpt-4"]),
                ("gpt-4", ["gpt-4-0314", "gpt-4-0613"]),
                ("gpt-4o", ["gpt-4o-2024-11-20"]),
            ]
        ),
        *(
            (
                {"metrics": metrics(85.9), "judging": {"judge": "j", "models": models, "calls": 3}},
                {"judged": True, "judge_reply": ".", "published_judge": published},
                f"not comparable: judged by {', '.join(models) or 'j'}, published with {published}",
            )
            for published, models in [
                ("gpt-4", ["gpt-4o"]),
                ("gpt-4", ["gpt-4-turbo"]),
                ("gpt-4", ["gpt-4-0613", "gpt-4o"]),
                ("gpt-4-0314", ["gpt-4-0613"]),
                ("gpt-4-0314", ["gpt-4"]),
                ("gpt-4", []),
            ]
        ),
        ({"metrics": {}, "n": 10, "n_failed": 2}, {}, "no score: 2 of 12 questions have no answer"),
        ({"metrics": {}, "n_judge_failed": 3}, {}, "no score: 3 calls of the judge have failed"),
        ({"metrics": {"pope_accuracy": {"score": 1.0}}}, {}, "no score: no question counts for it"),
        ({"metrics": {}, "submitted": 12}, {}, "submission written"),
    ],
)
def test_the_verdict(
    tmp_path: Path, published: Path, changes: dict[str, Any], row: dict[str, Any], expected: str
) -> None:
    content = yaml.safe_load(published.read_text())["benchmarks"]["tasks"]
    content["pope"].update(row)
    published.write_text(json.dumps(content))
    found = run(tmp_path / "t.csv", published, write(tmp_path, "a", **changes))
    assert found[0]["verdict"] == expected
    scored = not expected.startswith(("no score", "submission"))
    assert (found[0]["score"] != "") == scored
    assert (found[0]["difference"] != "") == (scored and not expected.startswith(("not comparable", "nothing")))
    assert read_table(tmp_path / "t.csv", BenchmarkScore)[0].verdict == expected


def test_seedbench_is_compared_on_its_questions_about_pictures(tmp_path: Path, root: Path) -> None:
    """What a perfect reproduction scores on the data set, whose questions are not those of the published 58.6."""
    scores = {"seed_image": 66.1, "seed_all": 60.9, "seed_video": 38.0}
    metrics = {name: {"score": score, "stderr": 0.4} for name, score in scores.items()}
    result = write(tmp_path, "a", benchmark="seedbench", n=17990, metrics=metrics)
    found = run(tmp_path / "t.csv", root / "config" / "benchmarks.yaml", result)
    assert {row["metric"]: row["verdict"] for row in found} == {
        "seed_image": "within two standard errors",
        "seed_all": "not comparable: the published score is of 19,242 questions, the data set has 17,990",
        "seed_video": "nothing published",
    }


def test_the_configured_rows(root: Path) -> None:
    rows = yaml.safe_load((root / "config" / "benchmarks.yaml").read_text(encoding="utf-8"))["benchmarks"]
    config = BenchmarksConfig.model_validate({"select": {"models": [], "tasks": []}, **rows})
    assert config.tasks["pope"].published == {"pope_f1_mean": 85.9}
    assert config.tasks["mme"].scale == 1
    judged = {name: task.published_judge for name, task in config.tasks.items() if task.judged}
    server = "the benchmark's server (ChatGPT)"
    assert judged == {"mmbench": server, "mmbench-cn": server, "llava-bench": "gpt-4-0314", "mmvet": "gpt-4"}
    published = {task.lmms_task: task.published.get(task.metric) for task in config.tasks.values()}
    # LLaVA's evaluation guide, LLaVA-1.5-7B.
    assert published == {
        "vqav2_val": 78.5,
        "vqav2_test": None,
        "gqa": 62.0,
        "vizwiz_vqa_val": 50.0,
        "vizwiz_vqa_test": None,
        "scienceqa_img": 66.8,
        "textvqa_val": 58.2,
        "pope": 85.9,
        "mme": 1510.7,
        "mmbench_en_dev": 64.3,
        "mmbench_en_dev_static": 64.3,
        "mmbench_cn_dev": 58.3,
        "seedbench": 66.1,
        "llava_in_the_wild": 65.4,
        "mmvet": 31.1,
        "qbench_dev": None,
    }


def test_every_configured_task_is_one_of_lmms_eval(root: Path) -> None:
    from safe_llava.benchmarks.lmms.evaluate import task_folder

    rows = yaml.safe_load((root / "config" / "benchmarks.yaml").read_text(encoding="utf-8"))["benchmarks"]["tasks"]
    for row in rows.values():
        assert task_folder(row["lmms_task"]).is_dir()
