"""One process, two processes and every ZeRO stage train the same model."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safe_llava.train import run
from safe_llava.train.loop.loop import Loop
from train.tiny import VARIANTS, Tiny, run_scenarios, variant_arguments


@pytest.fixture(scope="module")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Path:
    """One variant of each kind in this process alone."""
    folder = tmp_path_factory.mktemp("one")
    for name in VARIANTS:
        run.train(run.parser().parse_args(variant_arguments(tiny, folder, name)))
    return folder


def losses(folder: Path) -> list[tuple[float, float]]:
    with (folder / "metrics.csv").open() as stream:
        return [(float(row["loss"]), float(row["grad_norm"])) for row in csv.DictReader(stream)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = folder / "model" / "model.safetensors"
    return load_file(model if model.is_file() else folder / "projector.safetensors")


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("zero0", "zero0"),
        ("zero1", "zero0"),
        ("zero2", "zero0"),
        ("zero3", "zero0"),
        ("projector", "projector"),
        ("lora2", "lora2"),
        ("lora3", "lora2"),
    ],
)
def test_two_processes_equal_one(two_processes: Path, alone: Path, name: str, reference: str) -> None:
    two, one = two_processes / name, alone / reference
    assert losses(two) == [pytest.approx(pair, rel=1e-6, abs=1e-6) for pair in losses(one)]
    assert len(losses(one)) == 4
    expected = weights(one)
    found = weights(two)
    assert found.keys() == expected.keys()
    for tensor, value in expected.items():
        torch.testing.assert_close(found[tensor], value, rtol=0, atol=1e-5, msg=lambda text, t=tensor: f"{t}: {text}")


@pytest.fixture(scope="module")
def resumed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, alone: Path) -> Path:
    """Every variant from the checkpoint that one process wrote after its second step, resumed by two."""
    folder = tmp_path_factory.mktemp("resumed")
    for name in VARIANTS:
        shutil.copytree(alone / name / "checkpoints", folder / name / "checkpoints")
    run_scenarios(folder, 2, {name: variant_arguments(tiny, folder, name) for name in VARIANTS})
    return folder


def check_resumed(after: Path, whole: Path) -> None:
    """The same curve but for the last bits of sums: the same samples in the same order."""
    assert losses(after) == [pytest.approx(pair, rel=1e-5, abs=1e-6) for pair in losses(whole)]
    expected = weights(whole)
    for tensor, value in weights(after).items():
        torch.testing.assert_close(value, expected[tensor], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_resume_what_one_began(resumed: Path, alone: Path, name: str) -> None:
    check_resumed(resumed / name, alone / name)


@pytest.mark.parametrize("name", VARIANTS)
def test_one_process_resumes_what_two_began(two_processes: Path, tiny: Tiny, tmp_path: Path, name: str) -> None:
    shutil.copytree(two_processes / name / "checkpoints", tmp_path / name / "checkpoints")
    with patch_steps() as first:
        assert run.train(run.parser().parse_args(variant_arguments(tiny, tmp_path, name))) == 0
    assert first == [2]
    check_resumed(tmp_path / name, two_processes / name)


@contextmanager
def patch_steps() -> Iterator[list[int]]:
    """Note the step that a run begins with."""
    resume, first = Loop._resume, list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_resume", lambda loop: first.append(step := resume(loop)) or step)
        yield first


def test_training_changes_what_the_stage_trains_and_nothing_else(two_processes: Path, tiny: Tiny) -> None:
    before = load_file(tiny.language_model / "model.safetensors")
    after = weights(two_processes / "zero2")
    moved = "layers.0.self_attn.q_proj.weight"
    assert not torch.equal(after[f"language_model.model.{moved}"], before[f"model.{moved}"])
    tower = load_file(tiny.tower / "model.safetensors")
    assert all(torch.equal(after[f"vision_tower.vision_model.{name}"], value) for name, value in tower.items())
