"""Compare every fast path that this device has with the plain path: loss and gradients of one tiny model.

``python -m safe_llava.speed.verify``: a line for each attention back end, compiled and not. It ends with an error
where one differs by more than bf16 explains. The same holds on a CPU in fp32, which the tests assert.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import torch

from safe_llava.core import cli
from safe_llava.core.errors import TrainError
from safe_llava.speed.training import make_model, make_row
from safe_llava.speed.training import parser as bench_parser
from safe_llava.train.model import attention
from safe_llava.train.model.loss import LossModel
from safe_llava.train.model.packed_loss import PackedLossModel
from safe_llava.train.samples.annotated import Features
from safe_llava.train.samples.batches import MicroBatch, Packing, make_micro_batch
from safe_llava.train.samples.conversation import IGNORE_INDEX

VOCABULARY = 32_000
LARGEST_ERROR = {torch.bfloat16: 0.05, torch.float32: 1e-4}  # of a gradient, relative to its norm


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    return argparse.ArgumentParser(prog="python -m safe_llava.speed.verify", description=__doc__.split("\n")[0])


def make_features(edge: int, image_tokens: int) -> list[Features]:
    """Return samples of differing lengths, one of them without an image."""
    generator = torch.Generator().manual_seed(3)
    features = []
    for number, (before, after) in enumerate([(5, 40), (9, 170), (3, 90), (30, 260)]):
        shows = number != 2
        words = torch.randint(3, VOCABULARY, (before + after,), generator=generator).tolist()
        image = [VOCABULARY] * image_tokens if shows else []
        ids = words[:before] + image + words[before:]
        labels = [IGNORE_INDEX] * (before + len(image) + after // 2) + words[before + after // 2 :]
        pixels = torch.randn(3, edge, edge, generator=generator) if shows else None
        span = (before, before + image_tokens) if shows else None
        features.append(Features(ids, labels, pixels, f"s{number}", before + after, span))
    return features


def gradients(model: LossModel, batch: MicroBatch, device: torch.device) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and each parameter's gradient."""
    tensors = {key: value.to(device) if value.ndim else value for key, value in batch.tensors.items()}
    weights = torch.full((len(batch.groups),), 1.0 / int(batch.labelled.sum()), device=device)
    loss, _ = model(**tensors, weights=weights)
    loss.backward()
    found = {name: value.grad.float() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found


def compare_paths(device: torch.device) -> list[tuple[str, float, float]]:
    """Return for each path its name, its loss over the plain path's, and the largest error of a gradient."""
    gpu = device.type == "cuda"
    row = make_row(bench_parser().parse_args(["--stage", "finetune", "--work", ".", "--out", "-"]), gpu)
    llava = make_model("tiny", row, VOCABULARY, device)
    llava.model.vision_tower.requires_grad_(False)
    tower = llava.config.vision_config
    features = make_features(tower.image_size, llava.config.image_seq_length)
    dtype = torch.bfloat16 if gpu else torch.float32
    packing = Packing(VOCABULARY, llava.config.image_seq_length, tower.image_size, dtype)
    packed = packing.micro_batch(features, [0] * len(features))
    padded = make_micro_batch(features, [0] * len(features), 0, tower.image_size)
    reference = LossModel(copy.deepcopy(llava).float(), VOCABULARY)  # fp32: the error is the path's own
    expected, plain = gradients(reference, padded, device)
    results = []
    paths: list[tuple[str, bool]] = [(attention.PADDED, False)]
    paths += [(name, done) for name in attention.PACKED if attention.available(name, device) for done in (False, gpu)]
    for name, compiled in dict.fromkeys(paths):
        if name == attention.FLEX and not gpu:
            continue  # PyTorch has no backward pass of it on a CPU
        model = _model(copy.deepcopy(llava), name, compiled)
        loss, found = gradients(model, padded if name == attention.PADDED else packed, device)
        errors = [float((found[key] - value).norm() / value.norm().clamp(min=1e-12)) for key, value in plain.items()]
        results.append((f"{name}{' compiled' if compiled else ''}", loss / expected, max(errors)))
    return results


def _model(llava: Any, name: str, compiled: bool) -> LossModel:
    if name == attention.PADDED:
        return LossModel(llava, VOCABULARY)
    model = PackedLossModel(llava, VOCABULARY, name)
    if compiled:
        model.compile_layers()
    return model


def main(argv: Sequence[str] | None = None) -> int | None:
    """Print a line a path; fail where one is wrong."""
    parser().parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    largest = LARGEST_ERROR[torch.bfloat16 if device.type == "cuda" else torch.float32]
    results = compare_paths(device)
    for name, ratio, error in results:
        print(f"{name:20s} loss ratio {ratio:.6f}  largest gradient error {error:.2e}")
    wrong = [name for name, ratio, error in results if not (abs(ratio - 1) < largest and error < largest)]
    if wrong:
        remedy = "install another PyTorch, or train by hand with an --attention that is right, or --compile off"
        raise TrainError(f"{', '.join(wrong)}: not the plain path's gradients", remedy)
    return 0


if __name__ == "__main__":
    cli.run(main)
