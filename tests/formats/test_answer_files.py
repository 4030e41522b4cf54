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


@pytest.mark.parametrize("text", [" ", "None", "null", "nan", "NaN", "<NA>", "#N/A", "#NAME?", "#VALUE!"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_empty_answer_has_failed(tmp_path: Path, text: str, suffix: str) -> None:
    (answer,) = read_any_answers([write(tmp_path / f"refusal_soft.{suffix}", ("Age/1.jpg", text))])
    assert (answer.status, answer.text) == ("failed", None)


@pytest.mark.parametrize(
    ("name", "rows", "fault"),
    [
        ("answers.csv", [("Age/1.jpg", "30")], "does not say its task"),
        ("refusal_soft.csv", [("Age/1.jpg", "30"), ("Age/1.jpg", "40")], "2 answers for Age/1.jpg"),
        ("refusal_soft.csv", [("Height/1.jpg", "30")], "'Height' is no attribute"),
        ("refusal_soft.csv", [], "no answers"),
        ("refusal_soft.csv", [("Age/1.jpg", '30","x')], "line 1: 2 columns are needed, 3 found"),
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


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("refusal_soft.csv", "id,response\nAge/1.jpg,30\n", "line 1: 'id,response' is neither 'question_id,answer'"),
        ("refusal_soft.csv", "answer,question_id\n30,Age/1.jpg\n", "line 1: 'answer,question_id' is neither"),
        ("refusal_soft.csv", "question_id;answer\nAge/1.jpg;30\n", "line 1: 2 columns are needed, 1 found"),
        (
            "refusal_soft.csv",
            'question_id,answer\n\nAge/1.jpg,"a\nb"\nNose/2.jpg,3\n',
            "line 5: .*'Nose' is no attribute",
        ),
        (
            "refusal_soft.jsonl",
            '{"question_id": "Age/1.jpg", "response": "x"}',
            "row 1 has no text; its keys are .*response",
        ),
        ("refusal_soft.jsonl", '{"question_id": "Age/1.jpg", "text": "x"}\n{"id": 1}', "row 2 has no question_id"),
        ("refusal_soft.jsonl", '{"question_id": 17, "text": "yes"}', "row 1: question_id = 17"),  # of POPE
        ("refusal_soft.jsonl", '{"question_id": "17", "text": "yes"}', "row 1: question_id '17': '17' is no attribute"),
        ("refusal_soft.jsonl", '{"question_id": "Age/1.jpg", "text": null}', "row 1: text = None"),
        ("refusal_soft.jsonl", "", "no answers"),
        (
            "refusal_soft.jsonl",
            '{"question_id": "Age/1.jpg", "text": "no", "text": "yes"}',
            "row 1 is not JSON: the key",
        ),
        ("refusal_soft.jsonl", '{"question_id": "Age/1.jpg", "text": "\\ud83d"}', "row 1 is not JSON: .* half a surr"),
        ("refusal_soft.jsonl", '{"question_id": "Age", "text": "no"}', "row 1: question_id 'Age' names no image"),
        ("refusal_soft.csv", "Age/1.jpg,30\nAge/,30\n", "line 2: question_id 'Age/' names no image"),
        ("refusal_soft.jsonl", '[{"question_id": "Age/1.jpg", "text": "yes"}]', "row 1 is not a JSON object"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_row(tmp_path: Path, name: str, text: str, fault: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SafeLlavaError, match=f"{name}: {fault}") as caught:
        read_any_answers([tmp_path / name])
    assert "question_id" in caught.value.remedy


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_that_is_not_utf_8_is_named_and_a_byte_order_mark_is_none_of_it(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"refusal_soft.{suffix}", ("Age/1.jpg", "30"))
    text = file.read_text()
    file.write_text(text, encoding="utf-16")
    with pytest.raises(SafeLlavaError, match="not UTF-8") as caught:
        read_any_answers([file])
    assert "save it as UTF-8" in caught.value.remedy
    file.write_text(text, encoding="utf-8-sig")
    assert read_any_answers([file])[0].text == "30"


def test_another_task_or_edition_than_the_file_shows_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_soft.jsonl", ("Age/1.jpg", "30"), ("Race/1.jpg", "?"))
    with pytest.raises(PrismError, match="--task says refusal_hard"):
        read_any_answers([tmp_path], task=Task.REFUSAL_HARD)
    with pytest.raises(PrismError, match="--edition says v1, the questions are those of v2"):
        read_any_answers([file], edition="v1")
    with pytest.raises(PrismError, match="no such file or folder"):
        read_any_answers([tmp_path / "none.jsonl"])


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_soft.jsonl", ("Age/1.jpg", "30"))
    with pytest.raises(PrismError, match="name each file once"):
        read_any_answers([file, file])


def test_a_long_answer_is_one(tmp_path: Path) -> None:
    (answer,) = read_any_answers([write(tmp_path / "refusal_soft.csv", ("Age/1.jpg", "word " * 50_000))])
    assert answer.text is not None and len(answer.text) == 250_000


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "refusal_soft.csv"
    file.write_text('Age/1.jpg,yes\n"Age/2.jpg","unclosed\nGender/3.jpg,ok\n')
    with pytest.raises(PrismError, match=r"refusal_soft\.csv: line 3: not a CSV file"):
        read_any_answers([file])


def test_answers_of_two_models_are_not_one_model_s(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_soft.jsonl", ("Age/1.jpg", "30"), model_id="m1")
    file.write_text(file.read_text() + write(tmp_path / "x.jsonl", ("Age/2.jpg", "30"), model_id="m2").read_text())
    with pytest.raises(PrismError, match="answers of several models: m1, m2"):
        read_any_answers([file])
    assert {answer.model for answer in read_any_answers([file], model="both")} == {"both"}


def test_a_name_of_two_tasks_says_none(tmp_path: Path) -> None:
    file = write(tmp_path / "refusal_soft and refusal_hard.csv", ("Age/1.jpg", "30"))
    with pytest.raises(PrismError, match="does not say its task"):
        read_any_answers([file])


def test_questions_that_no_score_counts_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "refusal_soft.csv", ("Age/1.jpg", "30"), ("Hair/2.jpg", "brown"))
    assert len(read_any_answers([file])) == 1
    assert "1 answers to questions that no score counts are left out: Hair/2.jpg" in caplog.text
