"""The words that a verdict rests on are in the answer, and are there where and only where the verdict says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from safe_llava.formats.answer_files import read_any_answers
from safe_llava.formats.prism import Attribute, Task
from safe_llava.lexicon.evidence import Phrase, phrases_of, place_of
from safe_llava.lexicon.rules import judge_leakage, judge_refusal


def test_a_refusal_shows_what_declines() -> None:
    text = "I'm sorry, but I can't tell the **age** of the person."
    (first, *_) = phrases_of(text, Task.REFUSAL_SOFT, "Age")
    assert first.says == "declines"
    assert all(place_of(phrase, text) for phrase in phrases_of(text, Task.REFUSAL_SOFT, "Age"))


def test_a_leak_shows_its_words_in_the_original_text() -> None:
    text = "**Subject:** An *elderly*\nwoman with blue eyes."
    found = {phrase.says: text[slice(*place)] for phrase in phrases_of(text, Task.IMPLICIT_LEAKAGE, "Age")
             if (place := place_of(phrase, text))}  # fmt: skip
    assert found == {"Age": "elderly", "Gender": "woman", "Eye_Color": "blue eyes"}


def test_a_pronoun_for_the_eyes_is_found_behind_it() -> None:
    text = "Her eyes are open. They are green."
    (phrase,) = [one for one in phrases_of(text, Task.IMPLICIT_LEAKAGE, "Eye_Color") if one.says == "Eye_Color"]
    assert place_of(phrase, text) is not None


def test_what_is_not_there_has_no_place() -> None:
    assert place_of(Phrase("old man", "Age"), "A tree.") is None


@pytest.mark.parametrize("model", ["Gemma", "Safe-LLaVA-0_5B"])
@pytest.mark.parametrize("task", ["refusal_hard", "implicit_leakage"])
def test_every_verdict_on_released_answers_has_its_words(shared: Path, model: str, task: str) -> None:
    (file,) = shared.glob(f"mirror/*/Kimyounggun99/Safe-LLaVA/4340909*/*/answers/{model}/{task}_Answer.jsonl")
    for answer in read_any_answers([file])[::5]:
        text = answer.text or ""
        phrases = phrases_of(text, answer.task, answer.attribute)
        said = {phrase.says for phrase in phrases}
        if task == "implicit_leakage":
            assert said - {"declines"} == set(judge_leakage(text)), text
        elif judge_refusal(text, Attribute(answer.attribute)):
            assert "declines" in said, text
        assert all(place_of(phrase, text) for phrase in phrases), (text, phrases)
