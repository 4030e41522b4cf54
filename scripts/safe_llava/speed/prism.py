"""Measure the transformers back end over an edition of PRISM, and the released loop beside it.

On a GPU: ``python -m safe_llava.speed.prism --work /tmp/bench --out LOG --tokenizer tokenizer.model --loop 5``;
``--size tiny --pictures 6`` runs the same on a CPU. The log has a line with the conditions, one for the edition and,
with ``--loop``, one for each task of the loop and one with the ratio.

Answers have the published lengths (``bench_lengths.json``): the model's end token is suppressed, and an answer stops
where its length says so. Nothing that groups, plans or batches the questions knows the lengths.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from safe_llava.config.models import EvaluatedModel
from safe_llava.core import cli
from safe_llava.core.errors import EngineError
from safe_llava.core.files import write_text
from safe_llava.core.imports import light_transformers
from safe_llava.engine.base import Request
from safe_llava.engine.transformers.engine import TransformersEngine
from safe_llava.speed import prism_set as bench_set
from safe_llava.speed.prism_set import QUESTIONS, BenchEdition
from safe_llava.speed.training import random_model

IMAGES = 2200


class BenchEngine(TransformersEngine):
    """The engine, with random weights and with answers of given lengths.

    Args:
        folder: configuration and processor.
        row: how the model is asked.
        device: of the model.
        lengths: tokens of each answer, by the request's key.
    """

    def __init__(self, folder: Path, row: EvaluatedModel, device: str, lengths: Mapping[str, int]) -> None:
        self._lengths = lengths
        super().__init__(folder, row, device=device)
        self._ends.clear()  # in place: the decoder has the same set

    def stop(self, request: Request) -> int:
        """Return how long the answer is."""
        return self._lengths[request.key]

    def _load(self, folder: Path) -> Any:
        from transformers import LlavaConfig

        return random_model(LlavaConfig.from_pretrained(folder), self.device, self.dtype)

    def _check(self, folder: Path) -> None:
        """Ask no example: only the questions of the edition have a length."""


def measure_edition(engine: BenchEngine, asked: BenchEdition) -> dict[str, Any]:
    """Answer everything; return the line of the log.

    Raises:
        EngineError: an answer failed or has another length.
    """
    assert engine.decoder is not None
    engine.decoder.tokens.clear()
    gpu = engine.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    started, done = time.perf_counter(), 0
    for reply in engine.generate(asked.requests):
        if reply.status != "ok" or reply.n_tokens != asked.lengths[reply.key]:
            raise EngineError(f"{reply.key}: {reply.reason or 'an answer of another length'}", "see the log")
        done += 1
    seconds = time.perf_counter() - started
    return {
        "kind": "edition",
        "answers": done,
        "seconds": round(seconds, 2),
        "answers_per_s": round(done / seconds, 2),
        "answer_tokens": sum(asked.lengths.values()),
        "tokens": dict(sorted(engine.decoder.tokens.items())),
        "memory_gib": round(torch.cuda.max_memory_allocated(engine.device) / 2**30, 1) if gpu else 0.0,
    }


def measure_loop(engine: BenchEngine, asked: BenchEdition, images: int) -> list[dict[str, Any]]:
    """Ask as the released script does: open the image, process, ``generate``, decode, one question after the other.

    The sample has as many questions of each task as ``images`` images have, with lengths at even distances in the
    published distribution.

    Returns:
        one line for each task.
    """
    engine.model.set_attn_implementation("sdpa")
    lines = []
    for task, (count, _) in QUESTIONS.items():
        sample = [request for request in asked.requests if asked.tasks[request.key] == task][: count * images]
        lengths = bench_set.published_lengths(task, len(sample))
        _one(engine, sample[0], 2)  # not counted: the first call of a kind is slow
        started = time.perf_counter()
        for request, length in zip(sample, lengths, strict=True):
            _one(engine, request, length)
        seconds = time.perf_counter() - started
        lines.append(
            {
                "kind": "loop",
                "task": task,
                "answers": len(sample),
                "answer_tokens": sum(lengths),
                "seconds": round(seconds, 2),
                "answers_per_s": round(len(sample) / seconds, 3),
            }
        )
    return lines


@torch.inference_mode()
def _one(engine: BenchEngine, request: Request, length: int) -> str:
    with Image.open(str(request.images[0])) as opened:
        image = opened.convert("RGB")
    prompt = engine.adapter.prompt(request)
    inputs = engine.adapter.processor(images=image, text=prompt, return_tensors="pt").to(engine.device, engine.dtype)
    output = engine.model.generate(**inputs, do_sample=False, min_new_tokens=length, max_new_tokens=length)
    answer = output[0, inputs["input_ids"].shape[1] :]
    if len(answer) != length:
        raise EngineError(f"{request.key}: {len(answer)} tokens and not {length}", "see min_new_tokens")
    return str(engine.adapter.tokenizer.decode(answer, skip_special_tokens=True))


def ratio(edition: Mapping[str, Any], loop: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how much longer the loop takes for the edition: its seconds a question of each task, over all of them.

    Args:
        edition: its line of the log.
        loop: likewise.
    """
    each = sum(QUESTIONS[line["task"]][0] * line["seconds"] / line["answers"] for line in loop)
    asked = sum(count for count, _ in QUESTIONS.values())
    speed = asked / each
    return {
        "kind": "ratio",
        "loop_answers_per_s": round(speed, 3),
        "loop_hours": round(edition["answers"] / speed / 3600, 2),
        "times_the_loop": round(edition["answers"] / edition["seconds"] / speed, 1),
    }


def conditions(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return what the figures hold for."""
    gpu = device.type == "cuda"
    return {
        "kind": "conditions",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": torch.cuda.get_device_name(device) if gpu else platform.processor() or "cpu",
        "arguments": {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers")}},
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.speed.prism", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for images and processor, kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="log, JSON lines")
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b", help="of the model with random weights")
    parser.add_argument("--pictures", type=int, default=IMAGES, help="of the edition, 13 questions each")
    parser.add_argument("--loop", type=int, default=0, help="images whose questions the released loop is asked")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16", help="on a GPU")
    parser.add_argument("--tokenizer", type=Path, help="Llama tokenizer.model; default: one word, one token")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the log."""
    arguments = parser().parse_args(argv)
    light_transformers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench_set.write_folder(arguments.work, arguments.size, arguments.tokenizer)
    asked = bench_set.edition(bench_set.write_images(arguments.work / "pictures", arguments.pictures), arguments.seed)
    engine = BenchEngine(arguments.work, bench_set.bench_row(arguments.dtype), device, asked.lengths)
    lines = [conditions(arguments, engine.device)]

    def note(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        lines.append(line)

    first = {request.images for request in asked.requests[:8]}
    list(engine.generate([request for request in asked.requests if request.images in first]))  # not counted
    note(measure_edition(engine, asked))
    if arguments.loop:
        for line in measure_loop(engine, asked, arguments.loop):
            note(line)
        note(ratio(lines[1], lines[2:]))
    write_text(arguments.out, "".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    cli.run(main)
