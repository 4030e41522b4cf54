"""The peer of the trainer's benchmark: what it trains on, that rows do not mix samples, and that it runs on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from safe_llava.core.errors import TrainError
from safe_llava.speed import peer, training
from safe_llava.speed.verify import make_features
from safe_llava.train.loop.deepspeed import ENVIRONMENT, Processes

CPU = Processes(0, 1, torch.device("cpu"))
SMALL = ["--size=tiny", "--global-batch=32", "--samples=48", "--images=4"]
SHORT = ["--steps=2", "--warmup=1", "--workers=0"]


def options(work: Path, stage: str, more: Sequence[str] = ()) -> list[str]:
    return ["--stage", stage, *SMALL, *SHORT, "--work", str(work), "--out", str(work / "log.jsonl"), *more]


def log_of(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def measure(module: str, arguments: list[str]) -> None:
    """Run a benchmark in a process of its own, and of no group: the group that one makes stays until it ends."""
    alone = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    subprocess.run([sys.executable, "-m", f"safe_llava.speed.{module}", *arguments], check=True, env=alone)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])  # without pixels the first has nothing to train
def test_it_trains_on_the_samples_of_a_step_that_the_trainer_trains_on(tmp_path: Path, stage: str) -> None:
    measure("training", options(tmp_path, stage))
    _, *ours, _ = log_of(tmp_path)
    measure("peer", options(tmp_path, stage, ["--micro-batch", "8", "--masters", "autocast"]))
    first, *steps, last = log_of(tmp_path)
    assert (first["trainer"], first["attention"], first["global_batch"]) == ("transformers", "sdpa", 32)
    assert last == training.means(steps, 1, 32, 1)
    assert steps[-1]["loss"] != steps[0]["loss"], "it does not train"
    for mine, its in zip(ours, steps, strict=True):
        took = [step["samples_per_s"] / step["tokens_per_s"] for step in (mine, its)]
        assert took[0] == pytest.approx(took[1], rel=2e-3), "other samples"
        assert its["learning_rate"] == pytest.approx(mine["learning_rate"])


def test_samples_of_a_row_do_not_see_each_other() -> None:
    config = training.llava_config("tiny", peer.VOCABULARY, 32_000, -2)
    config.text_config.use_cache = False
    model = training.random_model(config, torch.device("cpu"), torch.float32).eval()
    features, collate = make_features(config.vision_config.image_size, config.image_seq_length), peer.PaddingFree(False)
    sums = [model(**collate([item]), num_items_in_batch=1).loss for item in features]
    together = model(**collate(features), num_items_in_batch=1).loss
    torch.testing.assert_close(together, torch.stack(sums).sum())


def test_a_row_says_where_its_samples_end() -> None:
    features = make_features(56, 16)
    batch = peer.PaddingFree(True)(features)
    lengths = [len(item.input_ids) for item in features]
    assert batch["bounds"].tolist() == [0, *torch.tensor(lengths).cumsum(0).tolist()]
    assert (batch["bounds"].dtype, batch["longest"]) == (torch.int32, max(lengths))
    assert batch["pixel_values"].shape[0] == sum(item.pixel_values is not None for item in features)


@pytest.mark.parametrize(
    ("more", "named"), [(["--liger", "on"], "liger_kernel is missing"), (["--micro-batch", "5"], "no whole rows")]
)
def test_what_cannot_be_set_up_is_named(
    tmp_path: Path, more: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = peer.parser().parse_args(options(tmp_path, "finetune", more))
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
    row = training.make_row(arguments, gpu=False)
    with pytest.raises(TrainError, match=named):
        peer.trainer_arguments(arguments, row.finetune, CPU)
