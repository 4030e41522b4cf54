"""Answers that LLaVA's authors released, read from their files and scored by the rules of this project.

Each reader returns what the scores are made of, by metric; one file may hold several judgements of the same answers.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

from safe_llava.benchmarks.scoring.official import LETTERS, scienceqa_answer, seedbench_answer
from safe_llava.benchmarks.scoring.pope import PopeAnswer, pope_units
from safe_llava.benchmarks.scoring.units import Units, as_units
from safe_llava.config.benchmarks import ReleasedAnswers
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import read_json, read_jsonl

log = logging.getLogger(__name__)
REMEDY = "delete the file with its receipt and run again, or correct benchmarks.released"
OF_AN_IMAGE = 6  # POPE's questions about an image: three objects that it shows, in turn with three that it does not
LLAVA_BENCH = {"llava_bench_conv": "conv", "llava_bench_detail": "detail", "llava_bench_complex": "complex"}
MARKS = re.compile(r"\s*(\d+(?:\.\d+)?)[ ,;]+(\d+(?:\.\d+)?)\s*(?:\n|$)")


@dataclass(frozen=True)
class ScoredAnswers:
    """One judgement of a file of answers: what each score is made of, and the questions that have none.

    ``run`` tells several judgements in one file apart.
    """

    units: dict[str, Units]
    n_failed: int = 0
    run: str = ""


def score_released(row: ReleasedAnswers, root: Path) -> list[ScoredAnswers]:
    """Score a file of released answers.

    Args:
        row: what the file is.
        root: the data root.

    Raises:
        BenchmarkError: the files do not belong together, or are not of their form.
    """
    assert row.scored_as is not None
    try:
        found = READERS[row.scored_as](row, root)
        for units in (units for scored in found for units in scored.units.values() or [as_units("mean", [])]):
            _check(units)
        return found
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"{error} is missing or unknown" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise BenchmarkError(f"{root / row.answers}: not of the form of {row.scored_as}: {said}", REMEDY) from error


def _check(units: Units) -> None:
    """Refuse what no score can be made of: no question at all, one twice, marks that are none."""
    if not units.names:
        raise ValueError("no question has an answer")
    if twice := [name for name, count in Counter(units.names).items() if count > 1]:
        raise ValueError(f"question {twice[0]} is there twice")
    if not isfinite(units.score()):
        raise ValueError("its numbers give no score")


def _questions(row: ReleasedAnswers, root: Path) -> Path:
    if row.questions is None:
        raise BenchmarkError(f"{row.answers}: no file of questions is named", "set `questions` in benchmarks.released")
    return root / row.questions


def _name(row: Mapping[str, Any], key: str = "question_id") -> str:
    """Return a question's name as text; files write the same ones as numbers and as texts."""
    if not isinstance(row[key], str | int) or isinstance(row[key], bool):
        raise TypeError(f"`{key}` is {row[key]!r}, neither a text nor a whole number")
    return str(row[key])


def _replies(path: Path, text: str = "text") -> dict[str, str]:
    replies: dict[str, str] = {}
    for row in read_jsonl(path):
        name = _name(row)
        if not isinstance(row[text], str):
            raise TypeError(f"question {name}: `{text}` is no text")
        if name in replies:
            raise ValueError(f"question {name} is there twice")
        replies[name] = row[text]
    return replies


def _no_strangers(replies: Mapping[str, str], questions: Iterable[str]) -> None:
    if strange := replies.keys() - set(questions):
        raise ValueError(f"{len(strange)} answers are to no question of the other file, such as {min(strange)}")


def _pope(row: ReleasedAnswers, root: Path) -> list[ScoredAnswers]:
    questions = read_jsonl(_questions(row, root))
    replies = _replies(root / row.answers)
    labelled = [root / path for path in row.labels if (root / path).is_file()]
    truths = _labels(questions, labelled) if labelled and len(labelled) == len(row.labels) else _construction(questions)
    _no_strangers(replies, map(_name, questions))
    answered = [
        PopeAnswer(name, question["category"], replies[name], truth)
        for question, truth in zip(questions, truths, strict=True)
        if (name := _name(question)) in replies
    ]
    return [ScoredAnswers(pope_units(answered, 100.0), len(questions) - len(answered))]


def _object(question: Mapping[str, Any]) -> tuple[str, str]:
    """Return a question's image and its first line; LLaVA's file spells some of them "imange"."""
    return str(question["image"]), str(question["text"]).split("\n", 1)[0].replace("imange", "image")


def _labels(questions: Sequence[Mapping[str, Any]], files: Sequence[Path]) -> list[str]:
    """Return the truths from POPE's own files: their names end in the category, and they keep the order."""
    known = {path.stem.rsplit("_", 1)[-1]: iter(read_jsonl(path)) for path in files}
    truths = []
    for question in questions:
        label: dict[str, Any] = next(known[question["category"]], {})
        if not label or _object(label) != _object(question):
            raise BenchmarkError(
                f"POPE's labels of the category {question['category']} do not belong to question "
                f"{question['question_id']}",
                "use the label files of the commit that config/datasets.yaml names",
            )
        if label["label"] not in ("yes", "no"):
            raise ValueError(f"label {label['label']!r} of question {question['question_id']} is neither yes nor no")
        truths.append(label["label"])
    return truths


def _construction(questions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the truths that follow from how POPE was made, for LLaVA's questions without the label files.

    An image is asked about in each category: three objects that it shows, in turn with three that it does not. The
    former are the same in all categories. (The random category lacks 90 questions, and so is not in turn.)
    """
    shown: dict[str, set[tuple[str, str]]] = {}
    for category in ("popular", "adversarial"):
        asked = [_object(one) for one in questions if one["category"] == category]
        blocks = [list(block) for _, block in groupby(asked, key=lambda one: one[0])]
        if not asked or any(len(block) != OF_AN_IMAGE for block in blocks):
            raise BenchmarkError(
                "POPE's label files are missing, and these questions are not in the order that gives the labels away",
                "fetch coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json",
            )
        shown[category] = {one for block in blocks for one in block[::2]}
    if shown["popular"] != shown["adversarial"]:
        raise BenchmarkError("POPE's questions: the categories do not ask about the same objects", REMEDY)
    return ["yes" if _object(one) in shown["popular"] else "no" for one in questions]


def _scienceqa(row: ReleasedAnswers, root: Path) -> list[ScoredAnswers]:
    """Score ScienceQA: the questions with an image, which the published score is of, and all."""
    replies: dict[str, str] = read_json(root / row.answers, REMEDY)["outputs"]
    questions = read_json(_questions(row, root), REMEDY)
    _no_strangers(replies, (_name(question, "id") for question in questions))
    if wrong := [name for name, reply in replies.items() if not isinstance(reply, str)]:
        raise TypeError(f"question {wrong[0]}: its reply is no text")
    rows, with_image, failed = [], [], 0
    for question in questions:
        name, truth = _name(question, "id"), question["conversations"][1]["value"]
        if truth not in tuple(LETTERS):
            raise ValueError(f"question {name}: its answer {truth!r} is no letter")
        if name not in replies:
            failed += 1
            continue
        rows.append((name, "", [float(scienceqa_answer(replies[name]) == truth)]))
        with_image += rows[-1:] * bool(question.get("image"))
    units = {"exact_match": as_units("mean", with_image, 100.0), "exact_match_all": as_units("mean", rows, 100.0)}
    return [ScoredAnswers(units, failed)]


def _seedbench(row: ReleasedAnswers, root: Path) -> list[ScoredAnswers]:
    replies = _replies(root / row.answers, "prediction")
    (labels,) = row.labels
    found: dict[str, list[tuple[str, str, list[float]]]] = {"seed_image": [], "seed_all": [], "seed_video": []}
    questions = read_json(root / labels, REMEDY)["questions"]
    failed = 0
    if strange := replies.keys() - set(map(_name, questions)):
        # Known to happen: the data set has fewer of the published videos. Each score counts the questions it has.
        message = "%s: %d answers are to questions that %s does not have, such as %s; they count in no score"
        log.warning(message, row.answers, len(strange), labels, min(strange))
    for question in questions:
        name = _name(question)
        if name not in replies:
            failed += 1
            continue
        if question["answer"] not in tuple(LETTERS):
            raise ValueError(f"question {name}: its answer {question['answer']!r} is no letter")
        right = [float(seedbench_answer(replies[name]) == question["answer"])]
        for metric in ("seed_all", f"seed_{question['data_type']}"):
            found[metric].append((name, "", right))
    return [ScoredAnswers({metric: as_units("mean", rows, 100.0) for metric, rows in found.items() if rows}, failed)]


def _llava_bench(row: ReleasedAnswers, root: Path) -> list[ScoredAnswers]:
    """Score LLaVA-Bench from a judge's reviews: the first line holds the reference's mark and the model's, 1 to 10."""
    parts: dict[str, list[tuple[str, str, list[float]]]] = {}
    failed = 0
    for review in read_jsonl(root / row.answers):
        marks = MARKS.match(review["content"])
        read = list(map(float, marks.groups())) if marks else []
        written = review.get("tuple", read)
        # LLaVA's script writes two times -1 where it reads no marks, and then counts them.
        if not read or not all(1.0 <= mark <= 10.0 for mark in read) or written == [-1, -1]:
            failed += 1
            continue
        if read != written:
            raise ValueError(f"question {review['question_id']}: `content` and `tuple` have other marks")
        one = (_name(review), "", read)
        for kind in ("all", LLAVA_BENCH[review["category"]]):
            parts.setdefault(f"gpt_eval_llava_{kind}", []).append(one)
    return [ScoredAnswers({metric: as_units("ratio", rows, 100.0) for metric, rows in parts.items()}, failed)]


def _mmvet(row: ReleasedAnswers, root: Path) -> list[ScoredAnswers]:
    """Score MM-Vet from a judge's grades between 0 and 1, of one or more runs in a file."""
    grades: dict[str, dict[str, Any]] = read_json(root / row.answers, REMEDY)
    for name, grade in grades.items():
        if not isinstance(grade["score"], list) or any(type(mark) not in (int, float) for mark in grade["score"]):
            raise TypeError(f"question {name}: `score` is no list of numbers")
    runs = max((len(grade["score"]) for grade in grades.values()), default=0) or 1  # none: no question has a grade

    def run(place: int) -> Iterator[tuple[str, str, list[float]]]:
        for name, grade in grades.items():
            if place < len(grade["score"]) and 0.0 <= float(grade["score"][place]) <= 1.0:
                yield name, "", [float(grade["score"][place])]

    found = [as_units("mean", run(place), 100.0) for place in range(runs)]
    several = [f"{place}" if runs > 1 else "" for place in range(1, runs + 1)]
    return [
        ScoredAnswers({"gpt_eval_score": units}, len(grades) - len(units.names), name)
        for units, name in zip(found, several, strict=True)
    ]


READERS: dict[str, Callable[[ReleasedAnswers, Path], list[ScoredAnswers]]] = {
    "pope": _pope,
    "scienceqa": _scienceqa,
    "seedbench": _seedbench,
    "llava-bench": _llava_bench,
    "mmvet": _mmvet,
}
