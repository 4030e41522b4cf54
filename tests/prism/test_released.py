"""Released answer files become answers files with a row for every question asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.errors import PrismError
from safe_llava.formats import answer_files
from safe_llava.formats.prism import Answer, read_answers
from safe_llava.prism import released


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(question_id: str, prompt: str = "Q\nAnswer", text: str = "T") -> dict[str, Any]:
    extra = {"answer_id": "x", "model_id": "another name", "metadata": {}}
    return {"question_id": question_id, "prompt": prompt, "text": text} | extra


def convert(tmp_path: Path, answers: Path, *arguments: str, task: str = "refusal_soft") -> list[Answer]:
    out = tmp_path / "out.jsonl"
    fixed = ["--edition", "v1", "--model", "m", "--task", task, "--out", str(out)]
    released.main(["--answers", str(answers), *arguments, *fixed])
    return read_answers(out)


def test_what_was_asked_comes_from_the_other_models(tmp_path: Path) -> None:
    own = write(tmp_path / "m/refusal_soft_Answer.jsonl", row("Age/1.jpg"))
    other = write(tmp_path / "o/refusal_soft_Answer.jsonl", row("Age/1.jpg"), row("Race/2.jpg", "R"), row("Hair/3.jpg"))
    answers = convert(tmp_path, own, "--reference-answers", str(own), str(other))
    assert [(a.question_id, a.status, a.reason) for a in answers] == [
        ("Age/1.jpg", "ok", None),
        ("Race/2.jpg", "failed", "no answer in the released file"),
    ]
    assert (answers[1].text, answers[1].prompt, answers[1].image, answers[0].model) == (None, "R", "Race/2.jpg", "m")


def test_prompts_come_from_the_same_task_first(tmp_path: Path) -> None:
    own = write(tmp_path / "m/refusal_soft_Answer.jsonl", row("Age/1.jpg", "soft"))
    hard = write(tmp_path / "a/refusal_hard_Answer.jsonl", row("Age/1.jpg", "hard"), row("Age/2.jpg", "hard"))
    soft = write(tmp_path / "b/refusal_soft_Answer.jsonl", row("Age/1.jpg", "soft"))
    answers = convert(tmp_path, own, "--reference-answers", str(hard), str(soft))
    assert [a.prompt for a in answers] == ["soft", "hard"]


def test_three_descriptions_of_an_image_are_told_apart_by_their_prompts(tmp_path: Path) -> None:
    asked = [row("Age/1.jpg", prompt) for prompt in ("one", "two", "three")]
    other = write(tmp_path / "o/implicit_leakage_Answer.jsonl", *asked)
    own = write(
        tmp_path / "m/implicit_leakage_Answer.jsonl", row("Age/1.jpg", "three", "C"), row("Age/1.jpg", "one", "A")
    )
    answers = convert(tmp_path, own, "--reference-answers", str(other), task="implicit_leakage")
    assert [(a.index, a.prompt, a.text) for a in answers] == [(0, "one", "A"), (1, "two", None), (2, "three", "C")]


def test_the_question_file_tells_what_was_asked_and_shown(tmp_path: Path) -> None:
    questions = [{"question_id": f"{part}/1.jpg", "image": "flat.jpg", "text": "Q\nAnswer"} for part in ("Age", "Race")]
    path = write(tmp_path / "q.jsonl", *questions)
    own = write(tmp_path / "m.jsonl", row("Race/1.jpg"))
    answers = convert(tmp_path, own, "--questions", str(path))
    assert [(a.attribute, a.status, a.image) for a in answers] == [
        ("Age", "failed", "flat.jpg"),
        ("Race", "ok", "flat.jpg"),
    ]


def test_another_prompt_keeps_its_id_and_is_noted(tmp_path: Path) -> None:
    other = write(tmp_path / "o.jsonl", row("Age/1.jpg", "What age?"))
    own = write(tmp_path / "m.jsonl", row("Age/1.jpg", "What eye color?"))
    answer = convert(tmp_path, own, "--reference-answers", str(other))[0]
    assert (answer.attribute, answer.status, answer.prompt) == ("Age", "ok", "What age?")
    assert answer.reason == "the released prompt differs from the question: What eye color?"


def test_an_empty_text_is_a_failure(tmp_path: Path) -> None:
    own = write(tmp_path / "m.jsonl", row("Age/1.jpg", text=" \n"))
    answer = convert(tmp_path, own, "--reference-answers", str(own))[0]
    assert (answer.status, answer.text, answer.reason) == ("failed", None, "the released answer is empty")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([row("Age/1.jpg"), row("Age/1.jpg")], "2 answers for Age/1.jpg, which was asked 1 times"),
        ([row("Age/9.jpg")], "1 answers for Age/9.jpg, which was asked 0 times"),
        ([row("Shoes/1.jpg")], "'Shoes' is no attribute"),
        ([{"question_id": "Age/1.jpg", "prompt": "Q"}], "row 1 has no text"),
        ([{"question_id": "Age/1.jpg", "prompt": "Q", "text": None}], "row 1: text"),
    ],
)
def test_answers_that_do_not_fit_are_errors(tmp_path: Path, rows: list[dict[str, Any]], fault: str) -> None:
    other = write(tmp_path / "o.jsonl", row("Age/1.jpg"))
    own = write(tmp_path / "m.jsonl", *rows)
    with pytest.raises(PrismError, match=fault):
        convert(tmp_path, own, "--reference-answers", str(other))
    assert not (tmp_path / "out.jsonl").exists()


def test_references_without_questions_are_an_error(tmp_path: Path) -> None:
    empty = write(tmp_path / "o.jsonl")
    with pytest.raises(PrismError, match="no questions"):
        convert(tmp_path, write(tmp_path / "m.jsonl", row("Age/1.jpg")), "--reference-answers", str(empty))


def test_gemma_s_soft_file_has_one_answer_of_248(shared: Path, tmp_path: Path) -> None:
    (folder,) = shared.glob("mirror/*/Kimyounggun99/Safe-LLaVA/4340909*/PRISM_evaluation/answers")
    references = [str(path) for path in sorted(folder.glob("*/refusal_soft_Answer.jsonl"))]
    own = folder / "Gemma/refusal_soft_Answer.jsonl"
    answers = convert(tmp_path, own, "--reference-answers", *references)
    assert len(answers) == 248
    assert [a.attribute for a in answers if a.status == "ok"] == ["Age"]
    assert sum(a.reason == answer_files.NO_ANSWER for a in answers) == 247
