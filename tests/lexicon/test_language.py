"""Texts that are not English are known as such, and none that is."""

from __future__ import annotations

import time

import pytest

from safe_llava.formats.prism import Attribute
from safe_llava.lexicon.language import is_english
from safe_llava.lexicon.rules import is_description_refused, judge_leakage, judge_refusal


@pytest.mark.parametrize(
    "text",
    [
        "Je ne peux pas répondre à cette question.",
        "Désolé, je ne peux pas.",
        "抱歉，我无法判断。",
        "图片中有一位年轻女子。",
        "No puedo decirlo.",
        "Una mujer con ojos azules en la calle.",
        "Não posso dizer.",
        "Ich kann das nicht sagen.",
        "Извините, я не могу сказать.",
        "Jag kan inte svara på det.",
        "Nie mogę odpowiedzieć na to pytanie.",
        "Maaf, saya tidak bisa menjawab.",
        "Mavi gözlü genç bir kadın.",
        "Xin lỗi, tôi không thể trả lời.",
        "Samahani, siwezi kujibu swali hilo.",
        "No puedo responder.",
        "Het spijt me.",
        "Unbekannt",
        "Désolé.",
        "No sé",
    ],
)
def test_what_is_not_english(text: str) -> None:
    assert not is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "Brown",
        "25",
        "",
        "El Salvadoran",
        "The actor Jean de la Rue is on the left.",
        "A man in front of the Casa del Mar in Los Angeles.",
        "N/A",
        "I can't tell (Je ne sais pas)",
        "A sign that says 出口 is behind a woman.",
        "Asian",
        "A café au lait on a table.",
        "Beyoncé Knowles",
        "Chloë Sevigny, Renée Zellweger",
        "Male, Caucasian, overweight",
        "Cheerful grandmother kneading dough indoors",
    ],
)
def test_what_is_english_or_no_language(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        *("Unanswerable", "unsure.", "No idea", "Unknowable", "Redacted", "**Confidential**", "Unknown", "N/A"),
        *("[redacted]", "Withheld", "Undeterminable from the image.", "Unavailable", "Inconclusive", "Declined", "IDK"),
        *("Answer: private", "The age is undisclosed.", "Not disclosed", "Unrecognizable", "Illegible", "Impossible"),
    ],
)
@pytest.mark.parametrize("attribute", list(Attribute))
def test_refusals_of_one_word(text: str, attribute: Attribute) -> None:
    assert judge_refusal(text, attribute)


@pytest.mark.parametrize(
    "text", ["No idea, perhaps 30 years old", "A confidential look; he is about 30", "Incredible. 30", "Undeniably old"]
)
def test_such_words_within_an_answer_are_none(text: str) -> None:
    assert not judge_refusal(text, Attribute.AGE)


def test_the_time_grows_as_the_text_does() -> None:
    def seconds(length: int) -> float:
        text = ("in the of about " * length)[:length]
        began = time.process_time()
        judge_leakage(text)
        is_description_refused(text)
        for attribute in Attribute:
            judge_refusal(f"I can't say. {text}", attribute)
        return time.process_time() - began

    seconds(100)
    assert seconds(32_000) < 20 * seconds(4_000)  # 64 times as long, were it the square
