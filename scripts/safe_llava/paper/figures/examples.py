"""Which test images the contact sheet shows, with the questions that every model was asked about them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_llava.core.errors import PaperError
from safe_llava.formats.prism import Answer, Attribute, Task, read_answers
from safe_llava.formats.tables import unique
from safe_llava.images import store as imagefiles

CUE = "\nAnswer"  # the line that every prompt of PRISM ends with; it is sent, and left out of the figure
ExampleKey = tuple[str, str, str, int]  # edition, task, question_id, index


@dataclass(frozen=True)
class Exchange:
    """One question and what each model said, in the order of the models; None where it gave no answer."""

    task: str
    question: str
    answers: tuple[str | None, ...]


@dataclass(frozen=True)
class Example:
    """One image with its exchanges."""

    image: Path
    exchanges: tuple[Exchange, ...]


def choose_examples(
    answers: Sequence[Path], folders: Sequence[Path], count: int, seed: int
) -> tuple[list[str], list[Example]]:
    """Return the models and ``count`` examples drawn by ``seed``, one attribute after another.

    Raises:
        PaperError: no image was asked about by every model, or an image is not where it should be.
    """
    rows = [row for path in answers for row in read_answers(path) if row.attribute in set(Attribute)]
    models = unique(row.model for row in rows)
    by_key: dict[ExampleKey, dict[str, Answer]] = {}
    for row in rows:
        by_key.setdefault((row.edition, str(row.task), row.question_id, row.index), {})[row.model] = row
    shared = [asked for asked in by_key.values() if len(asked) == len(models)]
    by_image: dict[tuple[str, str], list[Mapping[str, Answer]]] = {}
    for asked in shared:
        first = asked[models[0]]
        by_image.setdefault((first.edition, first.image), []).append(asked)
    tasks = [task for task in Task if any(row.task == task for row in rows)]
    complete = {image: asked for image, asked in by_image.items() if _tasks(asked, models[0]) == set(tasks)}
    if not complete:
        raise PaperError(
            f"no image has an answer row of every model ({', '.join(models) or 'none'}) for {', '.join(tasks)}",
            "give --answers the files of models that were asked the same edition",
        )
    rng = random.Random(seed)
    examples = []
    for position, image in enumerate(_draw(complete, models[0], count, rng)):
        wanted = list(Attribute)[position % len(Attribute)]
        picked = [_pick(complete[image], models[0], task, wanted, rng) for task in tasks]
        examples.append(Example(find_image(image[1], folders), tuple(_exchange(one, models) for one in picked)))
    return models, examples


def _tasks(asked: Iterable[Mapping[str, Answer]], model: str) -> set[str]:
    return {str(one[model].task) for one in asked}


def _draw(
    complete: Mapping[tuple[str, str], Sequence[Mapping[str, Answer]]], model: str, count: int, rng: random.Random
) -> list[tuple[str, str]]:
    images = sorted(complete)
    rng.shuffle(images)
    drawn: list[tuple[str, str]] = []
    for position in range(min(count, len(images))):
        wanted = list(Attribute)[position % len(Attribute)]
        left = [image for image in images if image not in drawn]
        fitting = [image for image in left if any(one[model].attribute == wanted for one in complete[image])]
        drawn.append((fitting or left)[0])
    return drawn


def _pick(
    asked: Sequence[Mapping[str, Answer]], model: str, task: str, wanted: Attribute, rng: random.Random
) -> Mapping[str, Answer]:
    of_task = [one for one in asked if one[model].task == task]
    return rng.choice([one for one in of_task if one[model].attribute == wanted] or of_task)


def _exchange(one: Mapping[str, Answer], models: Sequence[str]) -> Exchange:
    first = one[models[0]]
    texts = tuple(None if one[m].text is None else " ".join(str(one[m].text).split()) for m in models)
    question = first.prompt.strip().removesuffix(CUE)
    return Exchange(str(first.task), " ".join(question.split()), texts)


def find_image(name: str, folders: Sequence[Path]) -> Path:
    """Return the file of a row's image: at its path below a folder, or else flat in one.

    Raises:
        PaperError: it is in no folder, or two folders hold different files of that name.
    """
    candidates = [folder / name for folder in folders if imagefiles.exists(folder / name)]
    flat = [folder / Path(name).name for folder in folders]
    candidates = candidates or [path for path in flat if imagefiles.exists(path)]
    if not candidates:
        raise PaperError(
            f"image {name} is in none of {', '.join(map(str, folders))}",
            "give --images the image folders of the edition that the answers are of",
        )
    if len({imagefiles.image_digest(path) for path in candidates}) > 1:
        raise PaperError(
            f"image {name} is more than one file: {', '.join(map(str, candidates))}",
            "give --images only the image folders of the edition that the answers are of",
        )
    return candidates[0]
