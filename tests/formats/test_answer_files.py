"""Answers in the formats of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safe_llava.core.errors import PrismError, SafeLlavaError
from safe_llava.formats.answer_files import read_any_answers
from safe_llava.formats.prism import Task


def write(path: Path, *rows: tuple[str, str], model_id: str = "m") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("".join(f'{name},"{text}"\n' for name, text in rows))
    else:
        made = [{"question_id": name, "prompt": "?", "text": text, "model_id": model_id} for name, text in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_upstreams_file_says_task_and_model(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_hard_Answer.jsonl", ("Age/f/1.jpg", "30"), ("Hair/f/2.jpg", "brown"))
    (answer,) = read_any_answers([file])
    assert (answer.task, answer.model, answer.edition, answer.attribute) == (Task.REFUSAL_HARD, "m", "v1", "Age")
    assert (answer.image, answer.text, answer.status, answer.reason) == ("Age/f/1.jpg", "30", "ok", None)


def test_a_folder_is_a_model_with_its_tasks(tmp_path: Path) -> None:
    write(tmp_path / "mine/refusal_soft.csv", ("Age/1.jpg", "30"))
    write(tmp_path / "mine/implicit_leakage_Answer.jsonl", ("Age/1.jpg", "A man."), ("Age/1.jpg", "A tree."))
    answers = read_any_answers([tmp_path / "mine"])
    assert {answer.model for answer in answers} == {"mine"}
    assert [(a.task, a.index) for a in answers] == [
        ("implicit_leakage", 0),
        ("implicit_leakage", 1),
        ("refusal_soft", 0),
    ]


@pytest.mark.parametrize("header", ["", "question_id,answer\n", "\ufeffquestion_id,text\n"])
def test_a_csv_file_has_two_columns_with_or_without_a_head(tmp_path: Path, header: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(header + 'Age/a,_b/1.jpg,"no"\n'.replace("a,_b", "a") + '"Race/a,_b/2.jpg","two\nlines"\n')
    answers = read_any_answers([file], task=Task.REFUSAL_SOFT)
    assert [(a.question_id, a.text, a.model) for a in answers] == [
        ("Age/a/1.jpg", "no", "x"),
        ("Race/a,_b/2.jpg", "two\nlines", "x"),
    ]


def test_an_image_asked_about_two_attributes_is_of_the_second_edition(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_soft.jsonl", ("Age/1.jpg", "30"), ("Race/1.jpg", "?"), ("Age/2.jpg", "4"))
    assert {(a.edition, a.image) for a in read_any_answers([file])} == {("v2", "1.jpg"), ("v2", "2.jpg")}
    described = write(tmp_path / "implicit_leakage.jsonl", ("All/1.jpg", "A tree."))
    assert read_any_answers([described])[0].edition == "v2"


def test_an_empty_answer_has_failed(tmp_path: Path) -> None:
    (answer,) = read_any_answers([write(tmp_path / "refusal_soft.csv", ("Age/1.jpg", " "))])
    assert (answer.status, answer.text) == ("failed", None)


@pytest.mark.parametrize(
    ("name", "rows", "fault"),
    [
        ("answers.csv", [("Age/1.jpg", "30")], "does not say its task"),
        ("refusal_soft.csv", [("Age/1.jpg", "30"), ("Age/1.jpg", "40")], "2 answers for Age/1.jpg"),
        ("refusal_soft.csv", [("Height/1.jpg", "30")], "'Height' is no attribute"),
        ("refusal_soft.csv", [], "no answers"),
        ("refusal_soft.csv", [("Age/1.jpg", '30","x')], "row 1 has 3 columns"),
        ("refusal_soft.csv", [("All/1.jpg", "30")], "asks about one attribute"),
        ("implicit_leakage.jsonl", [("Age/1.jpg", "a")] * 4, "4 answers for Age/1.jpg"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    tmp_path: Path, name: str, rows: list[tuple[str, str]], fault: str
) -> None:
    file = write(tmp_path / name, *rows)
    with pytest.raises(SafeLlavaError, match=fault) as caught:
        read_any_answers([file])
    assert name in str(caught.value)


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_soft.jsonl", ("Age/1.jpg", "30"))
    with pytest.raises(PrismError, match="name each file once"):
        read_any_answers([file, file])
