"""Synthetic samples with the composition of LLaVA's two stages, to measure speed with; their words mean nothing.

Sources, proportions and lengths are those of ``llava_v1_5_mix665k``: for each source how many samples it has, its
turns, the words of a question and of an answer, and whether it shows an image.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from safe_llava.core.files import write_text

Range = tuple[int, int]


class Source(NamedTuple):
    """What a source of the finetuning mixture contributes."""

    samples: int
    turns: Range
    question: Range
    answer: Range
    image: bool = True


MIXTURE = {
    "llava_instruct_conversation": Source(56_681, (3, 6), (7, 14), (12, 45)),
    "llava_instruct_detail": Source(23_240, (1, 1), (6, 12), (70, 130)),
    "llava_instruct_reasoning": Source(77_791, (1, 1), (10, 20), (60, 140)),
    "sharegpt": Source(40_688, (2, 10), (10, 120), (60, 320), image=False),
    "vqav2": Source(82_783, (3, 8), (5, 9), (1, 2)),
    "gqa": Source(72_140, (6, 20), (6, 12), (1, 2)),
    "okvqa": Source(8_998, (1, 2), (6, 12), (1, 3)),
    "ocrvqa": Source(80_000, (4, 6), (5, 9), (1, 8)),
    "aokvqa": Source(66_160, (1, 2), (28, 44), (1, 1)),
    "textcaps": Source(21_953, (1, 1), (14, 24), (9, 16)),
    "refcoco": Source(48_447, (4, 14), (12, 22), (6, 12)),
    "vg": Source(86_417, (6, 16), (10, 18), (5, 12)),
}
SAMPLE_WORDS = (  # noqa: SIM905
    "the a of on in with and person man woman dog table red blue large small left right next to holding "
    "standing sitting street building water tree background foreground appears image shows several people "
    "wearing shirt car bus train kitchen plate food sign white black green near behind front while looking"
).split()
PLACEHOLDER = "<image>"


def make_samples(stage: str, count: int, images: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` samples of a stage ("pretrain" or "finetune") that show one of ``images`` images."""
    generator = random.Random(seed)
    if stage == "pretrain":
        return [_caption(generator, number, images) for number in range(count)]
    weights = [source.samples for source in MIXTURE.values()]
    names = generator.choices(list(MIXTURE), weights=weights, k=count)
    return [_conversation(generator, f"{name}_{number}", MIXTURE[name], images) for number, name in enumerate(names)]


def _sentence(generator: random.Random, words: Range) -> str:
    return " ".join(generator.choices(SAMPLE_WORDS, k=generator.randint(*words))).capitalize() + "."


def _image(generator: random.Random, images: int) -> str:
    return f"{generator.randrange(images):06d}.jpg"


def _caption(generator: random.Random, number: int, images: int) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"{_sentence(generator, (5, 9))}\n{PLACEHOLDER}"},
        {"from": "gpt", "value": _sentence(generator, (6, 24))},
    ]
    return {"id": f"{number:09d}", "image": _image(generator, images), "conversations": turns}


def _conversation(generator: random.Random, name: str, source: Source, images: int) -> dict[str, Any]:
    turns = []
    for turn in range(generator.randint(*source.turns)):
        start = f"{PLACEHOLDER}\n" if source.image and turn == 0 else ""
        turns.append({"from": "human", "value": start + _sentence(generator, source.question)})
        turns.append({"from": "gpt", "value": _sentence(generator, source.answer)})
    sample: dict[str, Any] = {"id": name, "conversations": turns}
    if source.image:
        sample["image"] = _image(generator, images)
    return sample


def write_set(folder: Path, stage: str, count: int, images: int, seed: int = 0) -> Path:
    """Write annotations and images (640 × 480, JPEG of quality 90); return the annotations' path."""
    files = folder / "images"
    files.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        small = np.random.default_rng(seed + number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
        large.save(files / f"{number:06d}.jpg", quality=90)
    file = folder / f"{stage}.json"
    write_text(file, json.dumps(make_samples(stage, count, images, seed)))
    return file
