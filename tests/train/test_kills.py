"""Killed or told to stop at many random moments of one training, it goes on each time and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.cli import EXIT_RUN_AGAIN
from safe_llava.train.loop.metrics import read_metrics
from train.tiny import Tiny, environment, make_row

KINDS = {"all ranks killed": 8, "one rank killed": 6, "SIGTERM": 5, "SIGUSR1": 5}
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}
STEPS = 180
# No kill is aimed at the last steps: it is to lie inside the work on a slow machine too.
LAST_TARGET = STEPS - 20
ROW = make_row(
    finetune={"epochs": 40, "max_steps": STEPS}, checkpoints={"every_steps": 3, "every_minutes": 60, "keep": 2}
)
SECONDS = 120


class Zygote:
    """The process that starts trainings by forking."""

    def __init__(self, log: Path) -> None:
        self._log = log
        command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
        self._process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"

    def start(self, arguments: list[str]) -> int:
        """Start a training; return the launcher's process id, which is its process group's too."""
        assert self._process.stdin
        order = {"arguments": ["--processes", "2", "--", *arguments], "log": str(self._log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """Wait for the training to end; return its exit code, negative for a signal."""
        return int(self._read())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the process that starts trainings has ended; see {self._log}"
        return json.loads(line)


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    started = Zygote(tmp_path / "log.txt")
    yield started
    started.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Watched:
    """The table that a training writes as it goes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoints" / "metrics.csv"
        self._before = self._number()

    def wait_for_step(self, step: int, launcher: int) -> int:
        """Wait until this start has taken a step of its own and is behind ``step``; return the steps by then."""
        deadline = time.monotonic() + SECONDS
        resumed = None
        while time.monotonic() < deadline:
            if self._number() != self._before:  # a start writes the table anew, cut back to its checkpoint
                taken = len(read_metrics(self.file))
                resumed = taken if resumed is None else resumed
                if taken > max(step - 1, resumed):
                    return taken
            assert Path(f"/proc/{launcher}").exists(), "the training has ended by itself"
            time.sleep(0.002)
        raise AssertionError(f"step {step} was not seen")

    def _number(self) -> int | None:
        return self.file.stat().st_ino if self.file.exists() else None


def interrupt(kind: str, launcher: int, chance: random.Random) -> None:
    if kind == "all ranks killed":
        os.killpg(launcher, signal.SIGKILL)
    elif kind == "one rank killed":
        os.kill(chance.choice(children(launcher)), signal.SIGKILL)
    else:
        os.kill(launcher, SIGNALS[kind])


def check_end(kind: str, code: int, folder: Path) -> None:
    """The exit code is the one of its kind; a training that was told to stop has lost nothing."""
    if kind in SIGNALS:
        assert code == EXIT_RUN_AGAIN, (kind, code)
        newest = max(path.name for path in (folder / "checkpoints").glob("step-*"))
        assert newest == f"step-{len(read_metrics(folder / 'checkpoints' / 'metrics.csv')):08d}"
    elif kind == "all ranks killed":
        assert code == -signal.SIGKILL, (kind, code)
    else:
        # The other rank fails as well, and either may be seen first.
        assert code in (1, 128 + signal.SIGKILL), (kind, code)


def test_many_interruptions_of_one_training_change_nothing(zygote: Zygote, tiny: Tiny, tmp_path: Path) -> None:
    seed = int(os.environ.get("SAFE_LLAVA_KILL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed of the interruptions: {seed} (SAFE_LLAVA_KILL_SEED repeats it)")
    chance = random.Random(seed)
    reference, out = tmp_path / "reference", tmp_path / "run"
    zygote.start(tiny.arguments(reference, ROW, "finetune"))
    assert zygote.wait() == 0, (tmp_path / "log.txt").read_text()[-3000:]
    expected = read_metrics(reference / "metrics.csv")
    step_seconds = expected[-1].seconds / STEPS

    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    chance.shuffle(kinds)
    targets = sorted(chance.sample(range(1, LAST_TARGET), len(kinds)))
    moments = []
    for kind, target in zip(kinds, targets, strict=True):
        watched = Watched(out)
        launcher = zygote.start(tiny.arguments(out, ROW, "finetune"))
        seen = watched.wait_for_step(target, launcher)
        time.sleep(chance.random() * 2 * step_seconds)
        interrupt(kind, launcher, chance)
        code = zygote.wait()
        taken = len(read_metrics(watched.file))
        print(f"{kind}: after step {taken} of {STEPS} (aimed at {target}, seen {seen}), exit code {code}")
        assert 1 <= taken < STEPS, "the moment lies inside the work"
        assert not (out / "model").exists() and not (out / "metrics.csv").exists()
        check_end(kind, code, out)
        moments.append(taken)
    assert len(moments) >= 20

    zygote.start(tiny.arguments(out, ROW, "finetune"))
    assert zygote.wait() == 0, (tmp_path / "log.txt").read_text()[-3000:]
    names = {file.name for file in (reference / "model").iterdir()}
    assert {file.name for file in (out / "model").iterdir()} == names
    for name in names:
        assert (out / "model" / name).read_bytes() == (reference / "model" / name).read_bytes(), name
    steps = read_metrics(out / "metrics.csv")
    assert [item.step for item in steps] == list(range(1, STEPS + 1))
    assert [(item.loss, item.learning_rate, item.grad_norm) for item in steps] == [
        (item.loss, item.learning_rate, item.grad_norm) for item in expected
    ]
    assert len((out / "metrics.csv").read_text().splitlines()) == STEPS + 1
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["finished"], "no checkpoints are left"
