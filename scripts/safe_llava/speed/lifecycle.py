"""Take one model through its life, by the rules' own command lines, and time what a cluster interrupts.

Pretrain, finetune, told to stop, resumed on another number of processes, exported, answered from; then the same
undisturbed. ``python -m safe_llava.speed.lifecycle --size tiny --work /tmp/life --out life.jsonl`` on a CPU;
``--size 7b --processes 2 --resumed 1`` on GPUs. ``--code DIR`` runs the trainings of another version of this package.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from safe_llava.config.train import TrainedModel
from safe_llava.core import cli
from safe_llava.core.errors import TrainError
from safe_llava.core.files import write_text
from safe_llava.core.imports import light_transformers
from safe_llava.speed.synthetic import SAMPLE_WORDS, write_set
from safe_llava.speed.training import LANGUAGE, llava_config, make_row
from safe_llava.speed.training import parser as training_parser
from safe_llava.train.loop.metrics import read_metrics

TASKS = ("refusal_soft", "refusal_hard", "implicit_leakage")
QUESTION = "What is in the image?"
SECONDS = 900.0
MODELS = {"language": "language-model", "tower": "vision-tower"}


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.speed.lifecycle", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=sorted(LANGUAGE), default="7b", help="of the model with random weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for models, data and results")
    parser.add_argument("--out", type=Path, required=True, help="log, JSON lines")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--resumed", type=int, default=1, help="processes after the interruption")
    parser.add_argument("--steps", type=int, default=10, help="of finetuning")
    parser.add_argument("--stop-at", type=int, default=6, help="step of finetuning after which the signal comes")
    parser.add_argument("--every-steps", type=int, default=3, help="steps between two checkpoints")
    parser.add_argument("--global-batch", type=int, default=32, help="samples of a step")
    parser.add_argument("--code", type=Path, help="scripts folder of another version, for the trainings")
    parser.add_argument("--until", choices=("resumed", "end"), default="end", help="what is the last to be timed")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="more arguments of the finetuning")
    return parser


def make_models(folder: Path, size: str, row: TrainedModel) -> None:
    """Write a language model, a tower and a tokenizer with random weights, as if they had been fetched."""
    light_transformers()
    from transformers import CLIPVisionModel, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = llava_config(size, 32_000, 31_999, row.vision_feature_layer)
    for name, kind, part in (
        ("language", LlamaForCausalLM, config.text_config),
        ("tower", CLIPVisionModel, config.vision_config),
    ):
        torch.manual_seed(row.seed)
        with torch.device(device):
            model = kind(part).to(torch.bfloat16 if row.precision == "bf16" else torch.float32)
        model.save_pretrained(folder / name)
        del model
    make_tokenizer().save_pretrained(folder / "language")


def make_tokenizer() -> Any:
    """Return a tokenizer of Llama's kind in which most words of the synthetic set are one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    words = [*SAMPLE_WORDS, *(word.capitalize() for word in SAMPLE_WORDS), "USER:", "ASSISTANT:"]
    backend.train_from_iterator(
        [word for word in words for _ in range(9)], trainers.BpeTrainer(vocab_size=800, special_tokens=special)
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


class Training:
    """One start of the trainer's command line, watched through the files that it writes."""

    def __init__(
        self, arguments: argparse.Namespace, stage: str, out: Path, processes: int, extra: Sequence[str]
    ) -> None:
        self._out, self._processes = out, processes
        self.metrics = out / "checkpoints" / "metrics.csv"
        out.mkdir(parents=True, exist_ok=True)
        work = arguments.work
        paths = {f"--{flag}": work / name for name, flag in MODELS.items()}
        paths |= {"--config": work / "row.json", "--annotations": work / f"{stage}.json", "--images": work / "images"}
        paths |= {"--checkpoints": out / "checkpoints", "--metrics": out / "metrics.csv"}
        paths |= {"--summary": out / "summary.json", "--out": out / ("model" if stage == "finetune" else "projector")}
        if stage == "finetune":
            paths["--projector"] = work / "pretrain" / "projector"
        given = [str(part) for pair in paths.items() for part in pair]
        launch = [sys.executable, "-m", "safe_llava.train.launch", "--processes", str(processes), "--"]
        code = arguments.code or Path(__file__).parents[2]
        self._log = (out / "log.txt").open("a")
        self._before, self._start = self._table(), time.monotonic()
        self._process = subprocess.Popen(
            [*launch, "--stage", stage, *given, *extra],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])},
            stdout=self._log,
            stderr=self._log,
        )

    def _table(self) -> int | None:
        return self.metrics.stat().st_ino if self.metrics.is_file() else None

    def wait_for_steps(self, count: int) -> float:
        """Wait until this start has taken ``count`` steps of its own; return the seconds since it began."""
        first: int | None = None
        while self._process.poll() is None and time.monotonic() - self._start < SECONDS:
            if self._table() != self._before:
                taken = len(read_metrics(self.metrics))
                first = taken if first is None else first
                if taken >= first + count:
                    return time.monotonic() - self._start
            time.sleep(0.02)
        raise TrainError(f"{self._out}: no step was seen", f"read {self._log.name}")

    def stop(self, kind: int = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; return exit code and seconds."""
        start = time.monotonic()
        self._process.send_signal(kind)
        return self._process.wait(), time.monotonic() - start

    def wait(self) -> float:
        """Wait for the end; return the seconds since it began.

        Raises:
            TrainError: it failed.
        """
        if code := self._process.wait():
            raise TrainError(f"{self._out}: the training ended with {code}", f"read {self._log.name}")
        return time.monotonic() - self._start


def newest_bytes(folder: Path) -> int:
    """Return the size of the newest checkpoint."""
    newest = max(folder.glob("step-*"))
    return sum(file.stat().st_size for file in newest.iterdir())


def write_row(arguments: argparse.Namespace) -> TrainedModel:
    """Write the row that is trained, and return it."""
    gpu = torch.cuda.is_available()
    flags = ["--stage", "finetune", "--work", "x", "--out", "x", "--steps", str(arguments.steps)]
    row = make_row(training_parser().parse_args(flags), gpu)
    auto = {"zero_stage": "auto", "gradient_checkpointing": "auto", "offload_optimizer": "auto"}
    batch = {"global_batch": arguments.global_batch, "reference_group": min(16, arguments.global_batch)}
    stages = {stage: getattr(row, stage).model_copy(update={**auto, **batch}) for stage in ("pretrain", "finetune")}
    row = row.model_copy(update=stages)
    write_text(arguments.work / "row.json", row.model_dump_json())
    return row


def interrupted(arguments: argparse.Namespace, say: Any) -> Path:
    """Finetune, stop, resume on other processes; return where the results are."""
    out = arguments.work / "finetune"
    extra = ["--every-steps", str(arguments.every_steps), "--keep", "1", *arguments.extra]
    training = Training(arguments, "finetune", out, arguments.processes, extra)
    say("begun", first_step_s=training.wait_for_steps(1))
    training.wait_for_steps(arguments.stop_at - 1)
    code, seconds = training.stop()
    say("stopped", code=code, seconds=seconds, checkpoint_bytes=newest_bytes(out / "checkpoints"))
    training = Training(arguments, "finetune", out, arguments.resumed, extra)
    say("resumed", first_step_s=training.wait_for_steps(1), processes=arguments.resumed)
    if arguments.until == "resumed":
        training.stop(signal.SIGKILL)
    else:
        say("finished", seconds=training.wait())
    return out


def answers_of(arguments: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Return what the exported model says, by transformers' own classes and by the PRISM engine."""
    from transformers import AutoModelForImageTextToText

    from safe_llava.config.models import EvaluatedModel
    from safe_llava.engine import open_engine
    from safe_llava.engine.base import Request

    loaded = AutoModelForImageTextToText.from_pretrained(model)
    names = {"class": type(loaded).__name__, "parameters": sum(value.numel() for value in loaded.parameters())}
    del loaded
    budget = dict.fromkeys(TASKS, 8)
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    values = {"description": "", "family": "llava", "folder": str(model), "backend": "transformers"}
    values |= {"accelerator": accelerator, "template": "recorded"}
    row = EvaluatedModel.model_validate({**values, "new_tokens": budget})
    image = next((arguments.work / "images").glob("*.jpg"))
    (reply,) = open_engine(model, row).generate([Request("a", QUESTION, (image,), 8)])
    return {**names, "status": reply.status, "text": reply.text, "prompt": reply.prompt, "tokens": reply.n_tokens}


def compare_curves(one: Path, other: Path) -> dict[str, float]:
    """Return how far two curves are apart."""
    pairs = list(zip(read_metrics(one / "metrics.csv"), read_metrics(other / "metrics.csv"), strict=True))
    apart = [abs(a.loss - b.loss) / abs(b.loss) for a, b in pairs]
    return {"steps": len(pairs), "largest_difference": max(apart), "last_loss": pairs[-1][0].loss}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Take a model through its life and write the log."""
    arguments = parser().parse_args(argv)
    lines: list[Mapping[str, Any]] = []
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def say(kind: str, **values: Any) -> None:
        lines.append({"kind": kind, **{k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}})
        print(json.dumps(lines[-1]), flush=True)
        write_text(arguments.out, "".join(json.dumps(line) + "\n" for line in lines))

    given = {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)}
    date = time.strftime("%Y-%m-%d", time.gmtime())
    say("conditions", date=date, device=device, torch=torch.__version__, arguments=given)
    arguments.work.mkdir(parents=True, exist_ok=True)
    row = write_row(arguments)
    if not (arguments.work / "language").is_dir():
        make_models(arguments.work, arguments.size, row)
        for stage in ("pretrain", "finetune"):
            write_set(arguments.work, stage, 2048, 64, row.seed)
    if not (arguments.work / "pretrain" / "projector").is_file():
        pretrain = Training(arguments, "pretrain", arguments.work / "pretrain", arguments.processes, [])
        say("pretrained", seconds=pretrain.wait())
    out = interrupted(arguments, say)
    if arguments.until == "end":
        say("answered", **answers_of(arguments, out / "model"))
        whole = arguments.work / "undisturbed"
        say("undisturbed", seconds=Training(arguments, "finetune", whole, arguments.processes, arguments.extra).wait())
        say("compared", **compare_curves(out, whole))
    return 0


if __name__ == "__main__":
    cli.run(main)
