"""Killed at any moment or told to stop, a run goes on and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from safe_llava.core.cli import EXIT_RUN_AGAIN
from safe_llava.formats.metrics import StepMetrics
from safe_llava.train import run
from safe_llava.train.loop.metrics import MetricsLog, read_metrics
from train.tiny import LONG, Tiny, environment, launch_command, make_row

MODULE = "safe_llava.train.run"


class Running:
    """A run of two processes in a process group of its own."""

    def __init__(self, tiny: Tiny, out: Path) -> None:
        self._metrics = out / "checkpoints" / "metrics.csv"
        self._log = out.with_suffix(".log").open("a")
        self._process = subprocess.Popen(
            launch_command(2, MODULE, tiny.arguments(out, LONG, "finetune")),
            env=environment(),
            start_new_session=True,
            stderr=self._log,
            stdout=self._log,
        )

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._metrics.is_file() and len(self._metrics.read_text().splitlines()) > step:
                return
            time.sleep(0.002)
        raise AssertionError(f"step {step} was not seen; exit code {self._process.poll()}")

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def finish(self) -> int:
        return self._process.wait(timeout=120)


def test_killed_it_ends_with_the_same_bytes(two_processes: Path, tiny: Tiny, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed of the interruption: {seed}")
    chance = random.Random(seed)
    out, reference = tmp_path / "run", two_processes / "long"
    total = len(read_metrics(reference / "metrics.csv"))

    killed = Running(tiny, out)
    killed.wait_for_step(chance.randrange(1, total - 20))
    time.sleep(chance.random() * 0.02)
    killed.kill()
    assert not (out / "model").exists()

    assert Running(tiny, out).finish() == 0
    names = {file.name for file in (reference / "model").iterdir()}
    assert {file.name for file in (out / "model").iterdir()} == names
    for name in names:
        assert (out / "model" / name).read_bytes() == (reference / "model" / name).read_bytes(), name
    steps, expected = read_metrics(out / "metrics.csv"), read_metrics(reference / "metrics.csv")
    assert total == 60
    assert [(s.step, s.loss, s.learning_rate, s.grad_norm) for s in steps] == [
        (s.step, s.loss, s.learning_rate, s.grad_norm) for s in expected
    ]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["finished"], "no checkpoints are left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_it_saves_and_says_run_again(
    tiny: Tiny, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, one_process: None
) -> None:
    row = make_row(finetune={"max_steps": 5})

    def train(out: Path) -> int:
        return run.train(run.parser().parse_args(tiny.arguments(out, row, "finetune")))

    assert train(tmp_path / "whole") == 0
    add = MetricsLog.add
    with monkeypatch.context() as patch:

        def add_and_signal(log: MetricsLog, item: StepMetrics) -> None:
            add(log, item)
            if item.step == 2:
                os.kill(os.getpid(), number)

        patch.setattr(MetricsLog, "add", add_and_signal)
        assert train(tmp_path / "run") == EXIT_RUN_AGAIN
    # The signal came in the step after the second: it was finished first.
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert not (tmp_path / "run" / "model").exists()
    assert train(tmp_path / "run") == 0
    files = [folder / "model" / "model.safetensors" for folder in (tmp_path / "run", tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [item.step for item in read_metrics(tmp_path / "run" / "metrics.csv")] == [1, 2, 3, 4, 5]
