"""A model with random weights and an edition of PRISM's shape, to measure speed with; their words mean nothing.

2,200 images are asked 13 questions each, as in the second edition. How long an answer is, is drawn from the lengths
of the answers released for LLaVA-1.5 7B (``prism_lengths.json``).
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safe_llava.checkpoints.templates import KNOWN
from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
from safe_llava.config.models import EvaluatedModel
from safe_llava.engine.base import Request
from safe_llava.speed.synthetic import SAMPLE_WORDS
from safe_llava.speed.training import TOWER_SIZES, llava_config, word_tokenizer

LENGTHS = Path(__file__).with_name("prism_lengths.json")
# Questions about an image, and words of one: with "\nAnswer" they come to the tokens of the published questions.
QUESTIONS = {"refusal_soft": (5, 11), "refusal_hard": (5, 19), "implicit_leakage": (3, 12)}
BUDGET = 200  # new tokens, as published for LLaVA
VOCABULARY = 32_064  # as in LLaVA's checkpoints: Llama's 32,000, the image's token, and padding


@dataclass(frozen=True)
class BenchEdition:
    """What is asked.

    Attributes:
        requests: in the order of an edition: task by task.
        lengths: tokens of each answer, by the request's key.
        tasks: likewise.
    """

    requests: list[Request]
    lengths: dict[str, int]
    tasks: dict[str, str]


def bench_row(dtype: str = "float16") -> EvaluatedModel:
    """Return how the model is asked."""
    return EvaluatedModel.model_validate(
        {
            "description": "Random weights in the shape of LLaVA-1.5.",
            "folder": "random",
            "family": "llava",
            "new_tokens": dict.fromkeys(QUESTIONS, BUDGET),
            "dtype": dtype,
        }
    )


def published_lengths(task: str, count: int, seed: int = 0) -> list[int]:
    """Return ``count`` lengths in the proportions of the released answers, in a random order."""
    counts = json.loads(LENGTHS.read_text(encoding="utf-8"))["tokens"][task]
    lengths = [int(length) for length, times in counts.items() for _ in range(times)]
    drawn = [lengths[int((place + 0.5) / count * len(lengths))] for place in range(count)]
    random.Random(f"{seed} {task}").shuffle(drawn)
    return drawn


def edition(images: list[Path], seed: int = 0) -> BenchEdition:
    """Return the questions about images: their words differ from task to task, and not from image to image."""
    generator = random.Random(seed)
    requests, lengths, tasks = [], {}, {}
    for task, (count, words) in QUESTIONS.items():
        texts = [" ".join(generator.choices(SAMPLE_WORDS, k=words)) + "\nAnswer" for _ in range(count)]
        drawn = iter(published_lengths(task, count * len(images), seed))
        for image in images:
            for number, text in enumerate(texts):
                key = f"{image.stem}/{task}/{number}"
                requests.append(Request(key, text, (image,), BUDGET))
                lengths[key], tasks[key] = next(drawn), task
    return BenchEdition(requests, lengths, tasks)


def write_images(folder: Path, count: int, threads: int = 8) -> list[Path]:
    """Write images of 640 × 480, JPEG of quality 90; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> Path:
        path = folder / f"{number:06d}.jpg"
        if not path.exists():
            small = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        return path

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(write, range(count)))


def write_folder(folder: Path, size: str, tokenizer_file: Path | None) -> Any:
    """Write a checkpoint's folder without weights: configuration, processor, template; return the configuration.

    Args:
        size: of ``speed.training.LANGUAGE``.
        tokenizer_file: a Llama ``tokenizer.model``; None: one word, one token.
    """
    from transformers import GenerationConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = load_tokenizer(tokenizer_file, 4096) if tokenizer_file else word_tokenizer()
    edge, patch = TOWER_SIZES[size][4:]
    config = llava_config(size, VOCABULARY, add_image_token(tokenizer), feature_layer=-2)
    config.save_pretrained(folder)
    GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=KNOWN["llava"],
    ).save_pretrained(folder)
    return config
