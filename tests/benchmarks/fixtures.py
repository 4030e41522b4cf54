"""Small data sets in the real schema of every benchmark: the columns that the published ones have, images drawn here.

The image of a question shows the number of its right answer: the shade of its first pixel. An engine that reads it
is always right.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import yaml
from datasets import Image, Sequence, Value

HUB = "lmms-lab-encoder"
STEP = 8  # between the shades of two answers
TEXT, NUMBER = Value("string"), Value("int64")
Row = dict[str, Any]


@dataclass
class Part:
    """One configuration and split of a data set."""

    repo: str
    split: str
    features: dict[str, Any]
    rows: list[Row]
    configuration: str = "default"


@dataclass
class Fixture:
    """What a benchmark reads, and the right answer to each of its questions, in the data set's order."""

    parts: list[Part]
    right: list[str] = field(default_factory=list)


def image(number: int, size: int = 8) -> PIL.Image.Image:
    """Draw an image that shows a number."""
    return PIL.Image.new("RGB", (size, size), (number * STEP, 60, 90))


def number_in(image: PIL.Image.Image) -> int:
    """Read the number in an image."""
    red, *_ = image.getpixel((0, 0))
    return int(red) // STEP


def stored(number: int) -> Row:
    stream = io.BytesIO()
    image(number).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"{number}.png"}


WORDS = ["sunny", "two dogs", "red", "unanswerable", "A"]
HUMAN = [{"answer": TEXT, "answer_confidence": TEXT, "answer_id": NUMBER}]


def vqav2(split: str) -> Fixture:
    def humans(word: str) -> list[Row]:
        return [{"answer": word, "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)]

    features = {
        "question_type": TEXT, "multiple_choice_answer": TEXT, "answers": HUMAN, "image_id": NUMBER,
        "answer_type": TEXT, "question_id": NUMBER, "question": TEXT, "image": Image(),
    }  # fmt: skip
    rows = [
        {
            "question_type": "what is", "multiple_choice_answer": word, "answers": humans(word), "image_id": n,
            "answer_type": "other", "question_id": 1000 + n, "question": f"What is thing {n} on the Left?",
            "image": stored(n),
        }
        for n, word in enumerate(WORDS)
    ]  # fmt: skip
    if split == "test":
        rows = [{**row, "answers": None, "multiple_choice_answer": None, "answer_type": None} for row in rows]
    return Fixture([Part("VQAv2", split, features, rows)], WORDS)


def gqa() -> Fixture:
    words = ["yes", "chair", "left", "no"]
    asked = [
        {"id": f"2{n}", "imageId": f"n{n}", "question": f"Is thing {n} a Chair?", "answer": word, "fullAnswer": word,
         "isBalanced": True}
        for n, word in enumerate(words)
    ]  # fmt: skip
    text = {
        "id": TEXT,
        "imageId": TEXT,
        "question": TEXT,
        "answer": TEXT,
        "fullAnswer": TEXT,
        "isBalanced": Value("bool"),
    }
    shown = [{"id": f"n{n}", "image": stored(n)} for n in range(len(words))]
    return Fixture(
        [
            Part("GQA", "testdev", text, asked, "testdev_balanced_instructions"),
            Part("GQA", "testdev", {"id": TEXT, "image": Image()}, shown, "testdev_balanced_images"),
        ],
        words,
    )


def vizwiz(split: str) -> Fixture:
    features = {"question_id": TEXT, "image": Image(), "question": TEXT, "answers": Sequence(TEXT), "category": TEXT}
    rows = [
        {"question_id": f"VizWiz_{split}_{n:08}", "image": stored(n), "question": f"What Is this {n}, please?",
         "answers": [word] * 10 if split == "val" else [], "category": "other"}
        for n, word in enumerate(WORDS)
    ]  # fmt: skip
    return Fixture([Part("VizWiz-VQA", split, features, rows)], WORDS)


def scienceqa() -> Fixture:
    features = {
        "image": Image(), "question": TEXT, "choices": Sequence(TEXT), "answer": Value("int8"), "hint": TEXT,
        "task": TEXT, "grade": TEXT, "subject": TEXT, "topic": TEXT, "category": TEXT, "skill": TEXT, "lecture": TEXT,
        "solution": TEXT,
    }  # fmt: skip
    rest = dict.fromkeys(["task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"], "")
    rows = [
        {"image": stored(n), "question": f"Which one is thing {n}?", "choices": ["ice", "iron", "wool"][: 3 - n % 2],
         "answer": answer, "hint": "Look at it." if n % 2 else "", **rest}
        for n, answer in enumerate([0, 1, 2, 1])
    ]  # fmt: skip
    return Fixture([Part("ScienceQA", "test", features, rows, "ScienceQA-IMG")], ["A", "B", "C", "B"])


def textvqa() -> Fixture:
    features = {
        "image_id": TEXT, "question_id": NUMBER, "question": TEXT, "question_tokens": Sequence(TEXT), "image": Image(),
        "image_width": NUMBER, "image_height": NUMBER, "flickr_original_url": TEXT, "flickr_300k_url": TEXT,
        "answers": Sequence(TEXT), "image_classes": Sequence(TEXT), "set_name": TEXT, "ocr_tokens": Sequence(TEXT),
    }  # fmt: skip
    rows = [
        {"image_id": f"i{n}", "question_id": 34600 + n, "question": f"what does sign {n} of Dr Pepper say?",
         "question_tokens": [], "image": stored(n), "image_width": 8, "image_height": 8, "flickr_original_url": "",
         "flickr_300k_url": "", "answers": [word] * 10, "image_classes": [], "set_name": "val",
         "ocr_tokens": ["DR", "PEPPER", f"{n}"]}
        for n, word in enumerate(WORDS)
    ]  # fmt: skip
    return Fixture([Part("textvqa", "validation", features, rows)], WORDS)


def pope() -> Fixture:
    answers = {"adversarial": "yes no yes no", "popular": "yes no no no", "random": "no yes no yes"}
    flat = [(category, answer) for category, four in answers.items() for answer in four.split()]
    names = ("id", "question_id", "question", "answer", "image_source")
    features = {**dict.fromkeys(names, TEXT), "image": Image(), "category": TEXT}
    rows = [
        {"id": f"{n}", "question_id": f"{n}", "question": f"Is there a thing of kind {n} in the image?",
         "answer": answer, "image_source": f"picture_{n}", "image": stored(n), "category": category}
        for n, (category, answer) in enumerate(flat)
    ]  # fmt: skip
    return Fixture([Part("POPE", "test", features, rows)], [answer.capitalize() for _, answer in flat])


def mme() -> Fixture:
    """Two pairs of existence, one of count, one of code reasoning."""
    features = {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT, "category": TEXT}
    pairs = [("existence", 1), ("existence", 2), ("count", 1), ("code_reasoning", 1)]
    rows = [
        {"question_id": f"{category}/{number}.png", "image": stored(2 * place + side),
         "question": f"Is number {number} there? Please answer yes or no.", "answer": answer, "category": category}
        for place, (category, number) in enumerate(pairs)
        for side, answer in enumerate(("Yes", "No"))
    ]  # fmt: skip
    return Fixture([Part("MME", "test", features, rows)], [str(row["answer"]) for row in rows])


def mmbench(configuration: str) -> Fixture:
    """Three questions; the first comes twice, with its options turned, as the circular evaluation has it."""
    names = ("question", "hint", "answer", "A", "B", "C", "D", "category", "L2-category", "source", "split")
    features = {"index": NUMBER, "image": Image(), "comment": TEXT, **dict.fromkeys(names, TEXT)}
    options = {"A": "a cat", "B": "a dog", "C": "a horse", "D": "a tree"}
    turned = {"A": "a dog", "B": "a horse", "C": "a tree", "D": "a cat"}
    two = {"A": "left", "B": "right", "C": "nan", "D": "nan"}
    rows = [
        {"index": index, "image": stored(n), "question": f"What is shown in {n}?", "hint": hint, "answer": answer,
         "category": "object_localization", "L2-category": "finegrained_perception", "source": "s", "split": "dev",
         "comment": "nan", **choices}
        for n, (index, answer, hint, choices) in enumerate([
            (7, "A", "nan", options), (8, "B", "Think of a farm.", options), (9, "A", "nan", two),
            (1_000_007, "D", "nan", turned),
        ])
    ]  # fmt: skip
    return Fixture([Part("MMBench", "dev", features, rows, configuration)], ["A", "B", "A", "D"])


def seedbench() -> Fixture:
    names = (
        "answer",
        "choice_a",
        "choice_b",
        "choice_c",
        "choice_d",
        "data_id",
        "data_type",
        "question",
        "question_id",
    )
    features = {
        **dict.fromkeys(names, TEXT),
        "question_type_id": NUMBER,
        "image": Sequence(Image()),
        "segment": Sequence(NUMBER),
    }
    choices = {f"choice_{letter}": f"choice {letter}" for letter in "abcd"}
    rows = [
        {"answer": answer, **choices, "data_id": f"{n}", "data_type": kind, "question": f"How many are in {n}?",
         "question_id": f"{n}", "question_type_id": 5, "segment": [],
         # A video has eight frames; the middle one shows the answer.
         "image": [stored(n)] if kind == "image" else [stored(n if frame == 4 else 30) for frame in range(8)]}
        for n, (answer, kind) in enumerate([("A", "image"), ("C", "image"), ("D", "image"), ("B", "video")])
    ]  # fmt: skip
    return Fixture([Part("SEED-Bench", "test", features, rows)], ["A", "C", "D", "B"])


def llava_bench() -> Fixture:
    names = ("question_id", "question", "caption", "gpt_answer", "category", "image_id")
    features = {**dict.fromkeys(names, TEXT), "image": Image()}
    rows = [
        {"question_id": f"{n}", "question": f"Please describe scene {n}.", "caption": "A scene.",
         "gpt_answer": f"The reference {n}.", "category": kind, "image_id": f"{n:03}", "image": stored(n)}
        for n, kind in enumerate(["conv", "detail", "complex"])
    ]  # fmt: skip
    return Fixture(
        [Part("llava-bench-in-the-wild", "train", features, rows)], [f"A fine answer {n}." for n in range(3)]
    )


def mmvet() -> Fixture:
    names = ("question_id", "question", "answer", "image_source", "capability")
    features = {**dict.fromkeys(names, TEXT), "image": Image()}
    words = ["-1<AND>-5", "a sign", "left<OR>right"]
    rows = [
        {"question_id": f"v1_{n}", "question": f"What is x in equation {n}?", "answer": word, "image_source": "s",
         "capability": ["ocr,math", "rec", "rec,spat"][n], "image": stored(n)}
        for n, word in enumerate(words)
    ]  # fmt: skip
    return Fixture(
        [Part("MMVet", "test", features, rows)], ["A fine answer 0.", "A fine answer 1.", "A fine answer 2."]
    )


def qbench() -> Fixture:
    names = ("id", "question", "correct_choice", "option0", "option1", "option2", "option3")
    features = {**dict.fromkeys(names, TEXT), "image": Image(), "question_concern": NUMBER, "question_type": NUMBER}
    rows = [
        {"id": f"{n}", "question": f"How sharp is picture {n}?", "correct_choice": answer, "image": stored(n),
         "option0": "Good", "option1": "Poor", "option2": "Fair" if n < 3 else "N/A", "option3": "N/A",
         "question_concern": n, "question_type": n % 3}
        for n, answer in enumerate("ABCB")
    ]  # fmt: skip
    return Fixture([Part("q-future/Q-Bench-HF", "dev", features, rows)], list("ABCB"))


MAKERS: dict[str, Callable[[], Fixture]] = {
    "vqav2": lambda: vqav2("validation"),
    "vqav2-test": lambda: vqav2("test"),
    "gqa": gqa,
    "vizwiz": lambda: vizwiz("val"),
    "vizwiz-test": lambda: vizwiz("test"),
    "scienceqa": scienceqa,
    "textvqa": textvqa,
    "textvqa-ocr": textvqa,
    "pope": pope,
    "mme": mme,
    "mmbench": lambda: mmbench("en"),
    "mmbench-static": lambda: mmbench("en"),
    "mmbench-cn": lambda: mmbench("cn"),
    "seedbench": seedbench,
    "llava-bench": llava_bench,
    "mmvet": mmvet,
    "qbench": qbench,
}


def write(root: Path, fixture: Fixture) -> None:
    """Add a data set to a data root, as the data stage lays it out; what is there is left."""
    for part in fixture.parts:
        repo = part.repo if "/" in part.repo else f"{HUB}/{part.repo}"
        folder = root / "hub" / "datasets" / repo
        target = folder / part.configuration / f"{part.split}-00000-of-00001.parquet"
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        features = datasets.Features(part.features)
        datasets.Dataset.from_list(part.rows, features=features).to_parquet(target)
        readme = folder / "README.md"
        header = yaml.safe_load(readme.read_text().split("---")[1]) if readme.exists() else {"configs": []}
        config = next((one for one in header["configs"] if one["config_name"] == part.configuration), None)
        if config is None:
            config = {"config_name": part.configuration, "data_files": []}
            header["configs"].append(config)
        config["data_files"].append({"split": part.split, "path": f"{part.configuration}/{part.split}-*"})
        readme.write_text(f"---\n{yaml.safe_dump(header)}---\n")
