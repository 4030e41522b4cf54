"""The contact sheet: PRISM test images, the questions, and each model's answers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from safe_llava.core.errors import PaperError
from safe_llava.images.pixels import UndecodableError
from safe_llava.images.reader import read_rgb
from safe_llava.paper.figures.examples import Exchange, choose_examples
from safe_llava.paper.figures.style import GRID, MUTED, colour
from safe_llava.paper.tables.titles import TASK_TITLES

IMAGE_INCHES, COLUMN_INCHES, GAP, MARGIN = 1.5, 2.55, 0.18, 0.08
QUESTION_POINTS, ANSWER_POINTS = 6.5, 7.5
LINE = 1.3  # line height in font sizes
LONGEST_ANSWER = 240  # characters
THUMBNAIL_PIXELS = 400
NO_ANSWER = "(no answer)"


@dataclass(frozen=True)
class TextBlock:
    """A block of wrapped text to be drawn, in inches from the sheet's top left corner."""

    x: float
    y: float
    text: str
    points: float
    colour: str
    style: str = "normal"


def examples_figure(answers: Sequence[Path], folders: Sequence[Path], count: int, seed: int) -> Figure:
    """Return the contact sheet of ``count`` images drawn by ``seed``.

    Raises:
        PaperError: the examples cannot be chosen, or an image does not decode.
    """
    models, examples = choose_examples(answers, folders, count, seed)
    left = MARGIN + IMAGE_INCHES + GAP
    width = left + len(models) * (COLUMN_INCHES + GAP)
    words, frames = [], []
    y = MARGIN
    for position, model in enumerate(models):
        words.append(TextBlock(left + position * (COLUMN_INCHES + GAP), y, model, 8.5, colour(position), "bold"))
    y += 0.27
    for example in examples:
        frames.append((example.image, y))
        bottom = y
        for exchange in example.exchanges:
            block, bottom = _exchange(exchange, left, bottom, width - left - GAP)
            words += block
        y = max(bottom, y + IMAGE_INCHES) + GAP
    return _sheet(width, y - GAP + MARGIN, words, frames)


def _exchange(exchange: Exchange, left: float, y: float, width: float) -> tuple[list[TextBlock], float]:
    """Return the text of one question with its answers, and where it ends."""
    question = wrap(f"{TASK_TITLES[exchange.task].capitalize()}: {exchange.question}", width, QUESTION_POINTS)
    words = [TextBlock(left, y, question, QUESTION_POINTS, MUTED)]
    y += _height(question, QUESTION_POINTS) + 0.02
    bottom = y
    for position, answer in enumerate(exchange.answers):
        text = wrap(NO_ANSWER if answer is None else shorten(answer), COLUMN_INCHES, ANSWER_POINTS)
        x = left + position * (COLUMN_INCHES + GAP)
        words.append(TextBlock(x, y, text, ANSWER_POINTS, "black" if answer else MUTED))
        bottom = max(bottom, y + _height(text, ANSWER_POINTS))
    return words, bottom + 0.1


def _height(text: str, points: float) -> float:
    return (text.count("\n") + 1) * points * LINE / 72


def shorten(text: str) -> str:
    """Return an answer that fits the sheet, cut between words with an ellipsis; an empty one is named so."""
    if not text:
        return "(empty)"
    return text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER].rsplit(" ", 1)[0] + " …"


@lru_cache(maxsize=4096)
def text_width(text: str, points: float) -> float:
    """Return how wide a line of text is, in inches."""
    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties("DejaVu Sans", size=points), False)
    return float(width) / 72


def wrap(text: str, width: float, points: float, measure: Callable[[str, float], float] = text_width) -> str:
    """Return ``text`` broken into lines of at most ``width`` inches; a longer word is broken within."""
    lines = [""]
    for word in text.split():
        while measure(word, points) > width:
            cut = next(k for k in range(len(word) - 1, 0, -1) if k == 1 or measure(word[:k], points) <= width)
            lines.append(word[:cut])
            word = word[cut:]
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer, points) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(line for line in lines if line)


def _sheet(width: float, height: float, words: Sequence[TextBlock], frames: Sequence[tuple[Path, float]]) -> Figure:
    figure = Figure(figsize=(width, height))
    page = figure.add_axes((0, 0, 1, 1))
    page.set_xlim(0, width)
    page.set_ylim(height, 0)
    page.set_axis_off()
    for one in words:
        weight = "bold" if one.style == "bold" else "normal"
        for number, line in enumerate(one.text.split("\n")):
            # One text a line: the height of matplotlib's lines depends on the letters in them.
            y = one.y + (number + 0.8) * one.points * LINE / 72
            page.text(one.x, y, line, size=one.points, color=one.colour, weight=weight, va="baseline")
    for number, (path, y) in enumerate(frames):
        if number:
            page.axhline(y - GAP / 2, color=GRID, linewidth=0.6)
        box = (MARGIN / width, 1 - (y + IMAGE_INCHES) / height, IMAGE_INCHES / width, IMAGE_INCHES / height)
        inset = figure.add_axes(box)
        _draw_image(inset, path)
    return figure


def _draw_image(axes: Axes, path: Path) -> None:
    try:
        pixels = read_rgb(path)
    except (UndecodableError, FileNotFoundError) as error:
        raise PaperError(f"{path}: not an image: {error}", "fetch the image folder again") from error
    pixels.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    axes.imshow(np.asarray(pixels), interpolation="lanczos")
    axes.set_anchor("N")
    axes.set_axis_off()
