"""The end of a training: whatever happens behind the last step, no step is taken twice."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from safe_llava.checkpoints import export
from safe_llava.core.cli import EXIT_RUN_AGAIN
from safe_llava.formats.metrics import StepMetrics
from safe_llava.train import run
from safe_llava.train.loop import results
from safe_llava.train.loop.deepspeed import TrainingEngine
from safe_llava.train.loop.metrics import MetricsLog, read_metrics
from train.tiny import Tiny, make_row

pytestmark = pytest.mark.usefixtures("one_process")
ROW = make_row(finetune={"max_steps": 4}, checkpoints={"every_steps": 2, "every_minutes": 60, "keep": 2})


def train(tiny: Tiny, out: Path, row: Any = ROW, *extra: str, stage: str = "finetune") -> int:
    return run.train(run.parser().parse_args(tiny.arguments(out, row, stage, *extra)))


def files(out: Path) -> dict[str, bytes]:
    """Everything that a rule declares as its output."""
    places = [*(out / "model").iterdir(), out / "metrics.csv", out / "summary.json"]
    return {path.name: path.read_bytes() for path in places}


def lose(out: Path) -> None:
    """Delete the outputs, as Snakemake does when a job has failed or is to run again."""
    shutil.rmtree(out / "model")
    for name in ("metrics.csv", "summary.json"):
        (out / name).unlink()


@pytest.fixture()
def finished(tiny: Tiny, tmp_path: Path) -> Path:
    assert train(tiny, tmp_path) == 0
    return tmp_path


@pytest.fixture()
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingEngine, "forward_backward", None)


def test_lost_results_are_given_again_without_a_step(finished: Path, tiny: Tiny, no_steps: None) -> None:
    before = files(finished)
    lose(finished)
    assert train(tiny, finished) == 0
    assert files(finished) == before
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["finished"]


def test_a_lost_projector_is_given_again_without_a_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = tmp_path / "projector.safetensors"
    assert train(tiny, tmp_path, make_row(pretrain={"max_steps": 2}), stage="pretrain") == 0
    before = projector.read_bytes()
    projector.unlink()
    monkeypatch.setattr(TrainingEngine, "forward_backward", None)
    assert train(tiny, tmp_path, make_row(pretrain={"max_steps": 2}), stage="pretrain") == 0
    assert projector.read_bytes() == before


def test_what_is_kept_takes_no_room(finished: Path) -> None:
    kept = finished / "checkpoints" / "finished"
    assert (kept / "model" / "model.safetensors").samefile(finished / "model" / "model.safetensors")
    assert not list((finished / "checkpoints").glob("*step-*"))


def test_on_a_disk_without_links_it_is_copied(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert train(tiny, tmp_path) == 0
    kept = tmp_path / "checkpoints" / "finished" / "model" / "model.safetensors"
    assert not kept.samefile(tmp_path / "model" / "model.safetensors")
    assert kept.read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()


def test_killed_before_the_results_are_in_place_it_loses_none(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "give", die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, tmp_path)
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(TrainingEngine, "forward_backward", None)
    assert train(tiny, tmp_path) == 0
    assert [item.step for item in read_metrics(tmp_path / "metrics.csv")] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_notice_while_results_are_written_stops_nothing(
    tiny: Tiny,
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save = export.write_checkpoint

    def signal_and_save(*arguments: Any) -> None:
        os.kill(os.getpid(), number)
        save(*arguments)

    monkeypatch.setattr(export, "write_checkpoint", signal_and_save)
    caplog.set_level("INFO")
    assert train(tiny, tmp_path) == 0
    assert "the signal to stop came behind the last step" in caplog.text
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_other_code_trains_anew(
    finished: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose(finished)
    monkeypatch.setattr(results, "made_with", lambda: {"code_sha256": "of another version"})
    caplog.set_level("INFO")
    assert train(tiny, finished) == 0
    assert "results of another run, or of other code: removed" in caplog.text
    assert len(read_metrics(finished / "metrics.csv")) == 4


def test_another_row_trains_anew_where_the_one_before_had_finished(finished: Path, tiny: Tiny) -> None:
    before = files(finished)["model.safetensors"]
    lose(finished)
    assert train(tiny, finished, make_row(finetune={"max_steps": 4, "learning_rate": 1e-3})) == 0
    assert files(finished)["model.safetensors"] != before


def test_a_run_goes_on_as_it_was_computed_before(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = ("--attention", "blocks", "--micro-tokens", "150")
    assert train(tiny, tmp_path / "whole", ROW, *packed) == 0
    add = MetricsLog.add

    def add_and_signal(log: MetricsLog, item: StepMetrics) -> None:
        add(log, item)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "add", add_and_signal)
        assert train(tiny, tmp_path / "run", ROW, *packed) == EXIT_RUN_AGAIN
    assert train(tiny, tmp_path / "run", ROW) == 0
    whole, run_on = files(tmp_path / "whole"), files(tmp_path / "run")
    assert run_on["model.safetensors"] == whole["model.safetensors"]
