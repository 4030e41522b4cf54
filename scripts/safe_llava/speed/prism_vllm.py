"""Measure the vLLM back end over an edition of PRISM: the set, lengths and model of ``safe_llava.speed.prism``.

On a GPU with vLLM: ``python -m safe_llava.speed.prism_vllm --work /tmp/bench --out prism-vllm.jsonl --tokenizer
tokenizer.model``. The log has a line with the conditions, one for the start and one for the edition.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safe_llava.config.models import EvaluatedModel
from safe_llava.core import cli
from safe_llava.core.errors import EngineError
from safe_llava.core.files import write_text
from safe_llava.core.imports import light_transformers
from safe_llava.core.progress import Progress
from safe_llava.engine.base import Reply, Request
from safe_llava.engine.vllm import VllmEngine
from safe_llava.speed import prism_set as bench_set
from safe_llava.speed.prism_set import BenchEdition

IMAGES = 2200
WARM_UP = 8  # images that are asked before the clock starts


class VllmBench(VllmEngine):
    """The engine with random weights, answers of given lengths, and what it did counted.

    Args:
        folder: configuration and processor.
        row: how the model is asked.
        device: of the model.
        lengths: tokens of each answer, by the request's key.
        options: further arguments of ``vllm.LLM``.
    """

    def __init__(
        self,
        folder: Path,
        row: EvaluatedModel,
        device: str,
        lengths: Mapping[str, int],
        options: Mapping[str, Any],
    ) -> None:
        self._lengths = lengths
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.tokens: Counter[str] = Counter()
        super().__init__(folder, row, device, {"load_format": "dummy", **options})
        self.ends = frozenset()

    def forget(self) -> None:
        """Drop what is known of the images asked so far."""
        self._llm.llm_engine.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        self._llm.llm_engine.reset_prefix_cache()

    def _params(self, request: Request) -> Any:
        params = super()._params(request)
        params.max_tokens = self._lengths[request.key]
        return params

    def _submit(self, *arguments: Any) -> Iterator[Reply]:
        started = time.perf_counter()
        replies = list(super()._submit(*arguments))
        self.seconds["hand over"] += time.perf_counter() - started
        yield from replies

    def _step(self, *arguments: Any) -> list[Reply]:
        started = time.perf_counter()
        replies = super()._step(*arguments)
        self.seconds["wait"] += time.perf_counter() - started
        return replies

    def _reply(self, request: Request, prompt: str, output: Any) -> Reply:
        self.tokens["prompt"] += len(output.prompt_token_ids)
        self.tokens["prompt, not read again"] += output.num_cached_tokens or 0
        completion = output.outputs[0]
        length = self._lengths[request.key]
        if len(completion.token_ids) != length or not math.isfinite(completion.cumulative_logprob):
            raise EngineError(f"{request.key}: {len(completion.token_ids)} tokens and not {length}", "see the log")
        return Reply(request.key, self.adapter.tokenizer.decode(completion.token_ids), "ok", n_tokens=length)


def measure_edition(engine: VllmBench, asked: BenchEdition) -> dict[str, Any]:
    """Answer everything; return the line of the log.

    Raises:
        EngineError: an answer failed or has another length.
    """
    engine.seconds.clear()
    engine.tokens.clear()
    progress = Progress(len(asked.requests), "answers", "answers")
    started, done = time.perf_counter(), 0
    for reply in engine.generate(asked.requests):
        if reply.status != "ok":
            raise EngineError(f"{reply.key}: {reply.reason}", "see the log")
        done += 1
        progress.update()
    seconds = time.perf_counter() - started
    progress.close()
    return {
        "kind": "edition",
        "answers": done,
        "seconds": round(seconds, 2),
        "answers_per_s": round(done / seconds, 2),
        "answer_tokens": sum(asked.lengths.values()),
        "phases": {name: round(value, 2) for name, value in sorted(engine.seconds.items())},
        "tokens": dict(sorted(engine.tokens.items())),
    }


def conditions(arguments: argparse.Namespace, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the figures hold for."""
    import torch

    return {
        "kind": "conditions",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": torch.cuda.get_device_name() if described["device"] == "cuda" else "cpu",
        "arguments": {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)},
        "engine": dict(described),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers")}},
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("VLLM_")},
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.speed.prism_vllm", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for images and processor, kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="log, JSON lines")
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b", help="of the model with random weights")
    parser.add_argument("--pictures", type=int, default=IMAGES, help="of the edition, 13 questions each")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16", help="on a GPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokenizer", type=Path, help="Llama tokenizer.model; default: one word, one token")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON: further arguments of vllm.LLM")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the log."""
    arguments = parser().parse_args(argv)
    light_transformers()
    bench_set.write_folder(arguments.work, arguments.size, arguments.tokenizer)
    images = bench_set.write_images(arguments.work / "pictures", arguments.pictures)
    asked = bench_set.edition(images, arguments.seed)
    lines: list[dict[str, Any]] = []

    def note(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        lines.append(line)
        write_text(arguments.out, "".join(json.dumps(line) + "\n" for line in lines))

    started = time.perf_counter()
    engine = VllmBench(
        arguments.work, bench_set.bench_row(arguments.dtype), arguments.device, asked.lengths, arguments.options
    )
    note(conditions(arguments, engine.describe()))
    first = {(image,) for image in images[:WARM_UP]}
    few = [request for request in asked.requests if request.images in first]
    measure_edition(engine, BenchEdition(few, asked.lengths, asked.tasks))
    note({"kind": "start", "seconds": round(time.perf_counter() - started, 2)})
    engine.forget()
    note(measure_edition(engine, asked))


if __name__ == "__main__":
    cli.run(main)
