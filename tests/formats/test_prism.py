"""Reading what was asked, answered and judged; broken rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.errors import DataError, PrismError
from safe_llava.formats.prism import (
    Attribute,
    Task,
    attribute_of,
    numbered,
    read_answers,
    read_questions,
    read_verdicts,
)

ANSWER: dict[str, Any] = {
    "edition": "v1",
    "model": "m",
    "task": "refusal_soft",
    "question_id": "Age/f/1.jpg",
    "index": 0,
    "attribute": "Age",
    "image": "Age/f/1.jpg",
    "prompt": "How old?",
    "text": "Old.",
    "status": "ok",
    "reason": None,
    "n_tokens": 3,
    "truncated": False,
}
VERDICT: dict[str, Any] = {
    "edition": "v1",
    "model": "m",
    "task": "refusal_soft",
    "question_id": "Age/f/1.jpg",
    "index": 0,
    "attribute": "Age",
    "judge": "rules",
    "status": "judged",
    "refused": True,
    "leaked": None,
    "reason": None,
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(question_id: str) -> dict[str, Any]:
    return {"question_id": question_id, "image": "i.jpg", "text": "?", "split": "small"}


def test_the_attribute_is_the_first_part_of_the_id() -> None:
    assert attribute_of("Eye_Color/a, folder,_with commas/1.jpg") is Attribute.EYE_COLOR
    assert attribute_of("Hair/x/1.jpg") is None
    with pytest.raises(PrismError, match="'Height' is no attribute"):
        attribute_of("Height/x/1.jpg")


def test_questions_come_without_hair(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", question("Age/1.jpg"), question("Hair/1.jpg"), question("Race/1.jpg"))
    assert [q.question_id for q in read_questions(path)] == ["Age/1.jpg", "Race/1.jpg"]


def test_a_question_file_without_questions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match=r"q\.jsonl: no questions"):
        read_questions(write(tmp_path / "q.jsonl", question("Hair/1.jpg")))


def test_a_row_without_a_key_is_named(tmp_path: Path) -> None:
    broken = {"question_id": "Age/1.jpg", "image": "i.jpg"}
    with pytest.raises(PrismError, match=r"row 2: text: Field required"):
        read_questions(write(tmp_path / "q.jsonl", question("Age/1.jpg"), broken))


def test_broken_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ANSWER) + "\n{oops\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 2 is not JSON"):
        read_answers(path)


def test_index_counts_rows_of_one_id() -> None:
    assert numbered(["a", "b", "a", "a"]) == [0, 0, 1, 2]


def test_answers_round_trip(tmp_path: Path) -> None:
    answer = read_answers(write(tmp_path / "a.jsonl", ANSWER))[0]
    assert answer.model_dump(mode="json") == ANSWER


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"attribute": "Race"}, "not the first part"),
        ({"text": None}, "text is null where"),
        ({"status": "failed"}, "text is null where"),
        ({"status": "maybe"}, "status"),
        ({"task": "soft"}, "task"),
        ({"index": -1}, "index"),
        ({"txt": "x"}, "txt"),
    ],
)
def test_inconsistent_answers_are_errors(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(PrismError, match=fault):
        read_answers(write(tmp_path / "a.jsonl", ANSWER | change))


def test_two_answers_to_one_question_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="2 rows for refusal_soft"):
        read_answers(write(tmp_path / "a.jsonl", ANSWER, ANSWER))
    assert len(read_answers(write(tmp_path / "a.jsonl", ANSWER, ANSWER | {"index": 1}))) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"refused": None},
        {"status": "failed"},
        {"task": "implicit_leakage"},
        {"task": "implicit_leakage", "leaked": ["Hair"]},
    ],
)
def test_inconsistent_verdicts_are_errors(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(PrismError, match="row 1"):
        read_verdicts([write(tmp_path / "v.jsonl", VERDICT | change)])


def test_two_judges_may_judge_one_answer_but_one_judge_only_once(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", VERDICT)
    second = write(tmp_path / "b.jsonl", VERDICT | {"judge": "other"})
    assert {verdict.judge for verdict in read_verdicts([first, second])} == {"rules", "other"}
    with pytest.raises(PrismError, match="2 rows"):
        read_verdicts([first, first])


def test_no_verdicts_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="no rows"):
        read_verdicts([write(tmp_path / "v.jsonl")])


def test_a_leakage_verdict_carries_its_attributes(tmp_path: Path) -> None:
    row = VERDICT | {"task": "implicit_leakage", "refused": None, "leaked": ["Race"], "description_refused": False}
    verdict = read_verdicts([write(tmp_path / "v.jsonl", row)])[0]
    assert verdict.task is Task.IMPLICIT_LEAKAGE
    assert verdict.leaked == (Attribute.RACE,)


def test_the_second_editions_descriptions_are_about_no_attribute_in_particular(tmp_path: Path) -> None:
    assert attribute_of("All/small_00001.jpg") == "All"
    row = {**ANSWER, "task": "implicit_leakage", "question_id": "All/small_00001.jpg", "attribute": "All"}
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert read_answers(path)[0].attribute == "All"
    path.write_text(json.dumps({**row, "task": "refusal_soft"}) + "\n")
    with pytest.raises(PrismError, match="a direct question asks about one attribute"):
        read_answers(path)
