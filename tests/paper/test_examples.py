"""The contact sheet: which images, which questions, what is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from safe_llava.core.errors import PaperError
from safe_llava.paper.figures.contact_sheet import examples_figure, shorten, wrap
from safe_llava.paper.figures.examples import choose_examples, find_image


def test_the_draw_repeats_and_goes_through_the_attributes(answers: list[Path], images: Path) -> None:
    models, examples = choose_examples(answers, [images], 5, seed=1)
    assert models == ["tiny-safe", "tiny-original"]
    assert [example.image.parts[-3] for example in examples] == ["Age", "Gender", "Race", "Eye_Color", "Weight"]
    assert choose_examples(answers, [images], 5, seed=1)[1] == examples
    others = [choose_examples(answers, [images], 5, seed=seed)[1] for seed in range(2, 8)]
    assert any(other != examples for other in others)


def test_every_task_is_shown_with_every_answer(answers: list[Path], images: Path) -> None:
    _, examples = choose_examples(answers, [images], 2, seed=1)
    gender = examples[1]
    assert [exchange.task for exchange in gender.exchanges] == ["refusal_soft", "refusal_hard", "implicit_leakage"]
    assert gender.exchanges[0].question == "What is the Gender of this person?"
    assert gender.exchanges[1].answers[0] is None
    assert gender.exchanges[1].answers[1] is not None
    assert "tiny-original says $0" in gender.exchanges[1].answers[1]


def test_the_sheet_says_where_there_is_no_answer(answers: list[Path], images: Path) -> None:
    texts = [text.get_text() for text in examples_figure(answers, [images], 2, seed=1).axes[0].texts]
    assert texts.count("(no answer)") == 1
    assert {"tiny-safe", "tiny-original"} <= set(texts)


def test_no_more_images_than_there_are(answers: list[Path], images: Path) -> None:
    _, examples = choose_examples(answers, [images], 99, seed=1)
    assert len({example.image for example in examples}) == len(examples) == 10


def test_models_without_a_common_image_are_refused(answers: list[Path], images: Path) -> None:
    answers[1].write_text(answers[1].read_text().replace("00000", "99999"))
    with pytest.raises(PaperError, match="no image has an answer row of every model"):
        choose_examples(answers, [images], 1, seed=1)


def test_a_missing_image_is_named(answers: list[Path], images: Path) -> None:
    shutil.rmtree(images / "Age")
    with pytest.raises(PaperError, match="image Age/a_folder"):
        choose_examples(answers, [images], 1, seed=1)


def test_an_image_that_does_not_decode_is_named(answers: list[Path], images: Path) -> None:
    for path in (images / "Age").rglob("*.png"):
        path.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(PaperError, match=r"00000\d\.png: not an image"):
        examples_figure(answers, [images], 1, seed=1)


def test_flat_folders_serve_where_the_path_does_not(tmp_path: Path) -> None:
    for name, colour in (("small", "red"), ("large", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), colour).save(tmp_path / name / "000001.png")
    folders = [tmp_path / "small", tmp_path / "large"]
    assert find_image("Age/x/000001.png", folders[:1]) == folders[0] / "000001.png"
    with pytest.raises(PaperError, match="more than one file"):
        find_image("000001.png", folders)


def _one_inch_a_letter(text: str, points: float) -> float:
    return float(len(text))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one two", "three"]),
        ("abcdefghijklmnopq r", ["abcdefgh", "ijklmnop", "q r"]),
        ("a abcdefghijkl", ["a", "abcdefgh", "ijkl"]),
        ("", []),
    ],
)
def test_wrap(text: str, lines: list[str]) -> None:
    assert wrap(text, 8, 7.0, _one_inch_a_letter).split("\n") == (lines or [""])


def test_shorten() -> None:
    assert shorten("") == "(empty)"
    assert shorten("short") == "short"
    cut = shorten("word " * 100)
    assert cut.endswith("word …")
    assert len(cut) < 250
