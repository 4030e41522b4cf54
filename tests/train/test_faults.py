"""Whatever goes wrong in the middle: one clear error that names the samples, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safe_llava.checkpoints import export
from safe_llava.core.errors import CheckpointError, TrainError
from safe_llava.formats.metrics import StepMetrics
from safe_llava.train import run
from safe_llava.train.loop import storage
from safe_llava.train.loop.deepspeed import TrainingEngine
from safe_llava.train.loop.guards import LossGuard, dead_worker_named, listed, memory_named, taken_gpu_named
from safe_llava.train.loop.metrics import COLUMNS, MetricsLog, read_metrics
from safe_llava.train.samples import annotated as samples
from train.tiny import Tiny, make_row

pytestmark = pytest.mark.usefixtures("one_process")
SIX = make_row(finetune={"max_steps": 6}, checkpoints={"every_steps": 2, "every_minutes": 60, "keep": 2})


def train(tiny: Tiny, out: Path, row: Any, *extra: str, annotations: Path | None = None) -> int:
    return run.train(run.parser().parse_args(tiny.arguments(out, row, "finetune", *extra, annotations=annotations)))


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("*step-*"))


@pytest.fixture(scope="module")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Path:
    """``SIX`` without a fault."""
    out = tmp_path_factory.mktemp("whole")
    assert train(tiny, out, SIX) == 0
    return out


def same(out: Path, whole: Path) -> bool:
    files = [folder / "model" / "model.safetensors" for folder in (out, whole)]
    steps = [[(s.step, s.loss, s.grad_norm) for s in read_metrics(folder / "metrics.csv")] for folder in (out, whole)]
    return files[0].read_bytes() == files[1].read_bytes() and steps[0] == steps[1]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let the system refuse to write more than ``size`` bytes to a file, as a full disk does in the midst of one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("in_place", [False, True], ids=["beside", "in place"])
def test_a_full_disk_leaves_the_checkpoint_of_before(
    in_place: bool, tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = storage.write_at

    def write_on_a_full_disk(descriptor: int, *rest: Any) -> None:
        full = "step-00000004" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        with files_up_to(2000) if full else nullcontext():
            write(descriptor, *rest)

    message = r"step-00000004: the checkpoint cannot be written: process 0: .*File too large"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_at", write_on_a_full_disk)
        if in_place:
            patch.setattr("safe_llava.train.loop.checkpoint.usable_memory", lambda: 0)
        with pytest.raises(TrainError, match=message) as caught:
            train(tiny, tmp_path, SIX, "--every-steps", "2" if in_place else "1")
    assert "free space" in caught.value.remedy
    assert checkpoints(tmp_path)[-1] == ("step-00000002" if in_place else "step-00000003")
    assert train(tiny, tmp_path, SIX) == 0
    assert same(tmp_path, whole)


def test_a_full_disk_at_the_end_costs_the_last_files_only(
    tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export.save_torch_state_dict

    def write_on_a_full_disk(*arguments: Any) -> None:
        with files_up_to(2000):
            write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(export, "save_torch_state_dict", write_on_a_full_disk)
        with pytest.raises(CheckpointError, match="model: the checkpoint cannot be written"):
            train(tiny, tmp_path, SIX)
        patch.setattr(export, "save_torch_state_dict", write)
        assert [path for path in tmp_path.iterdir() if "model" in path.name] == []
        assert train(tiny, tmp_path, SIX) == 0
    assert same(tmp_path, whole)


def test_a_step_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv", 0)
    log.close()
    log._stream = Path("/dev/full").open("a")  # noqa: SIM115 - closing it would fail as the test wants writing to
    with pytest.raises(TrainError, match=r"metrics\.csv: the step cannot be written"):
        log.add(StepMetrics(1, 1.0, 2.0, 1e-3, 0.5, 1.0, 1.0, 1.0))


def test_out_of_memory_names_the_micro_batch(
    tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_backward, calls = TrainingEngine.forward_backward, []

    def sometimes(engine: TrainingEngine, *arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return forward_backward(engine, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingEngine, "forward_backward", sometimes)
        with pytest.raises(TrainError, match="out of memory in a micro-batch of 8 samples with") as caught:
            train(tiny, tmp_path, SIX)
    assert "Tried to allocate 2.00 GiB" in caught.value.message
    assert sum(f"s{k}" in caught.value.message.replace(")", ",").split("samples ")[-1] for k in range(44)) >= 8
    assert "gradient_checkpointing" in caught.value.remedy
    assert checkpoints(tmp_path) == ["step-00000002"]
    assert train(tiny, tmp_path, SIX) == 0
    assert same(tmp_path, whole)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_named("a step", ["a"]):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(TrainError, match="out of memory in a step"), memory_named("a step", ["a"]):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def test_a_dead_loader_process_names_the_samples(
    tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, parent = samples.load_image, os.getpid()
    victim = tmp_path / "ran"

    def load_or_die(path: Path) -> Image.Image:
        if os.getpid() != parent and path.name == "4.png" and not victim.exists():
            victim.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return load(path)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "load_image", load_or_die)
        with pytest.raises(TrainError, match="a loader process died") as caught:
            train(tiny, tmp_path, SIX, "--workers", "1")
    named = caught.value.message.split("the next samples were ")[1].split(", ")
    assert len(named) == 8 and set(named) <= {sample["id"] for sample in tiny.samples}
    assert "mem_mb" in caught.value.remedy
    assert train(tiny, tmp_path, SIX, "--workers", "1") == 0
    assert same(tmp_path, whole)


def test_a_gpu_that_others_hold_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 30, 140 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 << 30)
    message = "GPU 1 has too little memory: of its 140 GiB, 3 are free, this training holds 2, and other processes 135"
    with pytest.raises(TrainError, match=message) as caught, taken_gpu_named(torch.device("cuda", 1)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 86.00 MiB.")
    assert "nvidia-smi" in caught.value.remedy


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_process_that_dies_while_it_hands_over_is_a_dead_one(error: Exception) -> None:
    message = r"a loader process died .* the next samples were a, b"
    with pytest.raises(TrainError, match=message), dead_worker_named(lambda: ["a", "b"]):
        raise error


def test_a_loss_that_explodes_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    fast = {"epochs": 5, "learning_rate": 3.0}
    keep = {"every_steps": 2, "every_minutes": 60, "keep": 2}
    row = make_row(finetune=fast, loss_limit=1.5, checkpoints=keep)
    message = r"the loss .* over 1\.5 times its running mean .* exploded; samples: "
    with pytest.raises(TrainError, match=message) as caught:
        train(tiny, tmp_path, row)
    named = caught.value.message.split("samples: ")[1].split(", ")
    assert len(named) == 8 and set(named) <= {sample["id"] for sample in tiny.samples}
    steps = read_metrics(tmp_path / "checkpoints" / "metrics.csv")
    assert 10 <= len(steps) < 30
    assert checkpoints(tmp_path)[-1] == f"step-{len(steps) // 2 * 2:08d}"
    # It goes on from there into the same wall; without a limit, which is no part of the run's identity, past it.
    with pytest.raises(TrainError, match="exploded"):
        train(tiny, tmp_path, row)
    assert train(tiny, tmp_path, make_row(finetune=fast, checkpoints=keep)) == 0


def test_the_running_mean_is_kept_over_a_restart() -> None:
    guard = LossGuard(2.0)
    assert not any(guard.exploded(step, loss) for step, loss in enumerate([50.0, *[4.0] * 300]))
    assert guard.mean == pytest.approx(4.0, rel=0.05)
    again = LossGuard(2.0, guard.mean)
    assert not again.exploded(301, 7.9)
    assert again.exploded(302, 8.6)
    assert again.mean is not None and again.mean < 4.5, "an exploded loss is not taken into the mean"
    assert not LossGuard(None, 1.0).exploded(100, 1e9)


def test_long_lists_of_samples_are_cut() -> None:
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(k) for k in range(20)]).endswith("15 and 4 more")


def test_tensorboard_has_the_table_also_after_an_interruption(
    tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = ("--tensorboard", str(tmp_path / "events"))
    add = MetricsLog.add

    def add_and_fail(log: MetricsLog, item: StepMetrics) -> None:
        add(log, item)
        if item.step == 3:
            raise TrainError("the power", "is out")

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "add", add_and_fail)
        with pytest.raises(TrainError, match="the power"):
            train(tiny, tmp_path / "run", SIX, *board)
    assert train(tiny, tmp_path / "run", SIX, *board) == 0
    read = EventAccumulator(str(tmp_path / "events")).Reload()
    assert set(read.Tags()["scalars"]) == {f"train/{name}" for name in COLUMNS[2:]}
    steps = read_metrics(tmp_path / "run" / "metrics.csv")
    for name in ("loss", "learning_rate", "grad_norm"):
        found = [(item.step, item.value) for item in read.Scalars(f"train/{name}")]
        assert [step for step, _ in found] == [item.step for item in steps]
        assert [value for _, value in found] == pytest.approx([getattr(item, name) for item in steps])
    assert same(tmp_path / "run", whole)


def test_without_the_package_tensorboard_is_refused_at_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_llava.train.loop.metrics.find_spec", lambda name: None)
    with pytest.raises(TrainError, match="tensorboard is not installed"):
        train(tiny, tmp_path, SIX, "--tensorboard", str(tmp_path / "events"))
    assert not (tmp_path / "checkpoints").exists()


def test_the_run_is_recorded_beside_its_result(whole: Path, tiny: Tiny) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    provenance = summary["provenance"]
    assert provenance["seed"] == SIX.seed
    assert provenance["config"] == SIX.identity("finetune")
    assert {"annotations", "config", "projector", "language_model", "vision_tower"} <= provenance["inputs"].keys()
    assert len(provenance["inputs"]["annotations"]["sha256"]) == 64
    assert any("torch" in json.dumps(value) for key, value in provenance.items() if key not in ("config", "inputs"))
