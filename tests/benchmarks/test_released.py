"""Released answers: each kind of file is scored by hand, and what cannot be scored says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.benchmarks.released import released_rows, released_verdict
from safe_llava.config.benchmarks import ReleasedAnswers
from safe_llava.core.errors import BenchmarkError
from safe_llava.formats.benchmark_scores import ReleasedScore

SHOWN, ABSENT = ("dog", "cat", "sofa"), {"popular": ("car", "bus", "cup"), "adversarial": ("bed", "tv", "cow")}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in value] if isinstance(value, list) else [json.dumps(value)]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(value), encoding="utf-8")


def released(benchmark: str, **changes: Any) -> ReleasedAnswers:
    row = {"benchmark": benchmark, "model": "m", "scored_as": benchmark, "answers": "answers.jsonl"}
    return ReleasedAnswers.model_validate({**row, **changes})


def scores(row: ReleasedAnswers, root: Path, missing: tuple[str, ...] = ()) -> dict[str, ReleasedScore]:
    return {found.run + found.metric: found for found in released_rows(row, root, dict.fromkeys(missing, "not there"))}


def pope_questions() -> list[dict[str, Any]]:
    """Return the questions of two images, as LLaVA's file has them; a random one lacks, and one is misspelt."""
    rows = []
    for category in ("adversarial", "random", "popular"):
        for image in ("1.jpg", "2.jpg"):
            absent = ABSENT.get(category, ("pen", "owl", "hat"))
            asked = [one for pair in zip(SHOWN, absent, strict=True) for one in pair]
            for thing in asked[:5] if (category, image) == ("random", "1.jpg") else asked:
                name = "imange" if (image, thing) == ("2.jpg", "cat") and category == "random" else "image"
                text = f"Is there a {thing} in the {name}?\nAnswer the question using a single word or phrase."
                rows.append({"question_id": len(rows) + 1, "image": image, "text": text, "category": category})
    return rows


@pytest.fixture
def pope(tmp_path: Path) -> ReleasedAnswers:
    write(tmp_path / "questions.jsonl", pope_questions())
    replies = [
        {"question_id": row["question_id"], "text": "Yes" if any(f" {one} " in row["text"] for one in SHOWN) else "No"}
        for row in pope_questions()
    ]
    replies[0]["text"] = "No"  # of twelve adversarial ones
    write(tmp_path / "answers.jsonl", replies)
    labels = [f"coco_pope_{category}.json" for category in ("random", "popular", "adversarial")]
    return released("pope", questions="questions.jsonl", labels=labels)


def test_popes_labels_follow_from_its_questions(pope: ReleasedAnswers, tmp_path: Path) -> None:
    found = scores(pope, tmp_path, tuple(pope.labels))
    assert found["pope_accuracy"].n == 35
    assert found["pope_accuracy"].score == pytest.approx(100 * 34 / 35)
    assert found["pope_f1_mean"].score == pytest.approx(100 * (10 / 11 + 1 + 1) / 3)


def test_popes_own_labels_come_first_and_have_to_fit(pope: ReleasedAnswers, tmp_path: Path) -> None:
    for path in pope.labels:
        category = Path(path).stem.rsplit("_", 1)[1]
        rows = [row for row in pope_questions() if row["category"] == category]
        asked = [{**row, "text": row["text"].split("\n")[0].replace("imange", "image"), "label": "no"} for row in rows]
        (tmp_path / path).write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    assert scores(pope, tmp_path)["pope_recall"].score == 0.0
    (tmp_path / pope.labels[0]).write_text("\n".join(map(json.dumps, asked[1:])), encoding="utf-8")
    with pytest.raises(BenchmarkError, match="category random do not belong to question"):
        scores(pope, tmp_path)


def test_questions_in_another_order_give_no_labels_away(pope: ReleasedAnswers, tmp_path: Path) -> None:
    write(tmp_path / "questions.jsonl", pope_questions()[1:])
    with pytest.raises(BenchmarkError, match="label files are missing"):
        scores(pope, tmp_path)


def test_scienceqa_counts_pictures_apart_and_what_was_not_answered(tmp_path: Path) -> None:
    def question(name: str, answer: str, **more: str) -> dict[str, Any]:
        return {
            "id": name,
            **more,
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}],
        }

    write(
        tmp_path / "q.json", [question("1", "A", image="1.png"), question("2", "B"), question("3", "C", image="3.png")]
    )
    write(tmp_path / "a.json", {"outputs": {"1": "A. yes", "2": "A"}})
    found = scores(released("scienceqa", answers="a.json", questions="q.json"), tmp_path)
    assert (found["exact_match"].score, found["exact_match"].n) == (100.0, 1)
    assert (found["exact_match_all"].score, found["exact_match_all"].n, found["exact_match_all"].n_failed) == (
        50.0,
        2,
        1,
    )


def test_seedbench_takes_the_letter_alone_and_compares_equal_numbers(tmp_path: Path) -> None:
    kinds = ["image", "image", "video"]
    questions = [{"question_id": f"v{n}", "answer": "A", "data_type": kind} for n, kind in enumerate(kinds)]
    write(tmp_path / "labels.json", {"questions": questions})
    write(
        tmp_path / "a.jsonl",
        [{"question_id": f"v{n}", "prediction": text} for n, text in enumerate(["A", "A dog", "A"])],
    )
    row = released(
        "seedbench",
        answers="a.jsonl",
        labels=["labels.json"],
        published={"seed_image": 50.0, "seed_all": 66.7},
        questions_published={"seed_all": 4},
    )
    found = scores(row, tmp_path)
    assert (found["seed_image"].score, found["seed_image"].verdict) == (50.0, "as published")
    assert found["seed_all"].verdict == "not comparable: the published score is of 4 questions, this one of 3"
    assert found["seed_all"].difference is None
    assert scores(row, tmp_path, ("labels.json",))["seed_all"].verdict == (
        "not scored: its labels (labels.json) were not fetched"
    )


def test_seedbenchs_strange_answers_are_told_and_count_in_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "labels.json", {"questions": [{"question_id": 7, "answer": "A", "data_type": "image"}]})
    write(tmp_path / "a.jsonl", [{"question_id": name, "prediction": "A"} for name in ("7", "v1", "v2")])
    found = scores(released("seedbench", answers="a.jsonl", labels=["labels.json"]), tmp_path)
    assert (found["seed_image"].score, found["seed_image"].n) == (100.0, 1)
    assert "a.jsonl: 2 answers are to questions that labels.json does not have, such as v1" in caplog.text


@pytest.mark.parametrize("name", [None, True, 3.0, [1]])
def test_a_question_without_a_name_is_one_error(tmp_path: Path, name: Any) -> None:
    review = {"question_id": 1, "category": "llava_bench_conv", "content": "8 6"}
    write(tmp_path / "answers.jsonl", [review, review | {"question_id": name}])
    with pytest.raises(BenchmarkError, match=r"`question_id` is .*, neither a text nor a whole number"):
        scores(released("llava-bench"), tmp_path)


def test_llava_benchs_marks_are_read_from_the_first_line(tmp_path: Path) -> None:
    contents = ["8 6\nBecause.", "10, 5.5\nWell", "Assistant 1 gets 8 and Assistant 2 6", "7 7 7\n"]
    rows = [{"question_id": n, "category": "llava_bench_conv", "content": text} for n, text in enumerate(contents)]
    write(tmp_path / "answers.jsonl", rows)
    found = scores(released("llava-bench"), tmp_path)["gpt_eval_llava_all"]
    assert (found.score, found.n, found.n_failed) == (pytest.approx(100 * 11.5 / 18), 2, 2)


def test_each_run_of_mmvets_grades_is_a_row(tmp_path: Path) -> None:
    write(
        tmp_path / "g.json",
        {"v1_0": {"score": [0.0, 0.5]}, "v1_1": {"score": [1.0, 1.0]}, "v1_2": {"score": [-1, 0.9]}},
    )
    found = scores(released("mmvet", answers="g.json", published={"gpt_eval_score": 50.0}), tmp_path)
    assert (found["1gpt_eval_score"].score, found["1gpt_eval_score"].n_failed) == (50.0, 1)
    assert found["2gpt_eval_score"].score == pytest.approx(80.0)


@pytest.mark.parametrize("grade", ["01", [True], ["0.5"], None])
def test_grades_that_are_no_numbers_are_one_error(tmp_path: Path, grade: Any) -> None:
    write(tmp_path / "g.json", {"v1_0": {"score": [0.5]}, "v1_1": {"score": grade}})
    with pytest.raises(BenchmarkError, match=r"g\.json: .*question v1_1: `score` is no list of numbers"):
        scores(released("mmvet", answers="g.json"), tmp_path)


@pytest.mark.parametrize("grades", [{}, {"v1_0": {"score": []}, "v1_1": {"score": []}}])
def test_no_grade_at_all_is_one_error(tmp_path: Path, grades: Any) -> None:
    write(tmp_path / "g.json", grades)
    with pytest.raises(BenchmarkError, match=r"g\.json: .*no question has an answer"):
        scores(released("mmvet", answers="g.json"), tmp_path)


@pytest.mark.parametrize("reply", [None, 3, ["A"]])
def test_a_reply_of_scienceqa_that_is_no_text_is_named(tmp_path: Path, reply: Any) -> None:
    write(tmp_path / "a.json", {"outputs": {"4": reply}})
    write(tmp_path / "q.json", [{"id": "4", "conversations": [{}, {"value": "A"}], "image": "i.png"}])
    with pytest.raises(BenchmarkError, match="question 4: its reply is no text"):
        scores(released("scienceqa", answers="a.json", questions="q.json"), tmp_path)


def test_what_cannot_be_scored_says_why(tmp_path: Path) -> None:
    row = released("gqa", scored_as=None, note="It has no labels.", published={"exact_match": 63.3})
    (found,) = released_rows(row, tmp_path, {})
    assert (found.verdict, found.score, found.published) == ("not scored: It has no labels", None, 63.3)
    (found,) = released_rows(row, tmp_path, {"answers.jsonl": "not in the mirror"})
    assert found.verdict == "not scored: answers.jsonl was not fetched"


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    write(tmp_path / "answers.jsonl", [{"id": 1}])
    with pytest.raises(BenchmarkError, match=r"answers\.jsonl: not of the form of llava-bench"):
        scores(released("llava-bench"), tmp_path)


@pytest.mark.parametrize("change", [{"text": None}, {"text": ["Yes"]}, {"question_id": 2}, {"question_id": 999}])
def test_an_answer_that_is_none_or_there_twice_is_no_score(
    pope: ReleasedAnswers, tmp_path: Path, change: dict[str, Any]
) -> None:
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    write(tmp_path / "answers.jsonl", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(BenchmarkError, match=r"answers\.jsonl: not of the form of pope: .*question"):
        scores(pope, tmp_path, tuple(pope.labels))


def test_no_answer_at_all_is_one_error(pope: ReleasedAnswers, tmp_path: Path) -> None:
    write(tmp_path / "answers.jsonl", [])
    with pytest.raises(BenchmarkError, match="no question has an answer"):
        scores(pope, tmp_path, tuple(pope.labels))


def test_half_of_the_answers_is_compared_with_nothing(pope: ReleasedAnswers, tmp_path: Path) -> None:
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    (tmp_path / "answers.jsonl").write_text("\n".join(lines[:20]))
    row = pope.model_copy(update={"published": {"pope_f1_mean": 85.9}})
    found = scores(row, tmp_path, tuple(pope.labels))["pope_f1_mean"]
    assert (found.verdict, found.difference) == ("not comparable: 15 questions have no answer", None)


@pytest.mark.parametrize("content", ["0 0", "nan 5", "1000 9000", "0 9", "11 8"])
def test_marks_that_the_judge_cannot_give_are_failures(tmp_path: Path, content: str) -> None:
    rows = [
        {"question_id": n, "category": "llava_bench_conv", "content": text} for n, text in enumerate([content, "8 6"])
    ]
    write(tmp_path / "answers.jsonl", rows)
    found = scores(released("llava-bench"), tmp_path)["gpt_eval_llava_all"]
    assert (found.score, found.n, found.n_failed) == (75.0, 1, 1)


def test_marks_that_llavas_script_did_not_read_are_failures(tmp_path: Path) -> None:
    row = {"category": "llava_bench_conv", "tuple": [-1, -1]}
    contents = ["8, 9", "7 8 \n", "I cannot judge."]
    rows = [{"question_id": n, "content": text, **row} for n, text in enumerate(contents)]
    write(tmp_path / "answers.jsonl", [*rows, {**row, "question_id": 3, "content": "8 6", "tuple": [8.0, 6.0]}])
    found = scores(released("llava-bench"), tmp_path)["gpt_eval_llava_all"]
    assert (found.score, found.n, found.n_failed) == (75.0, 1, 3)


def test_marks_that_contradict_each_other_or_come_twice_are_one_error(tmp_path: Path) -> None:
    row = {"question_id": 1, "category": "llava_bench_conv", "content": "8 6", "tuple": [8.0, 6.0]}
    for rows, said in ([{**row, "tuple": [6.0, 8.0]}], "have other marks"), ([row, row], "question 1 is there twice"):
        write(tmp_path / "answers.jsonl", rows)
        with pytest.raises(BenchmarkError, match=said):
            scores(released("llava-bench"), tmp_path)


@pytest.mark.parametrize(
    ("found", "stderr", "published", "said"),
    [
        (85.947, 0.4, 85.9, "as published"),
        (85.96, 0.4, 85.9, "within two standard errors"),
        (74.3928, None, 74.39, "as published"),
        (74.5, None, 74.39, "outside"),
        (60.0, 1.0, 63.0, "outside"),
        (60.0, 1.0, None, "nothing published"),
    ],
)
def test_the_verdict_goes_by_the_digits_that_were_published(
    found: float, stderr: float | None, published: float | None, said: str
) -> None:
    assert released_verdict(found, stderr, published, None, 9) == said
