"""A watch over the processes of a run: one that is missing from an exchange is named, and the run ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from safe_llava.train.loop.deepspeed import Processes

CHECKS = 10  # during a time-out
ANSWER = timedelta(seconds=5)  # for the store's answer: a process that is gone may have kept it


class Watch:
    """Counts the exchanges that this process has come to, and ends it where nothing moves for too long.

    Every process signs before each exchange, so that of those that stand still one that has signed less is missing.

    A process that waits for another one inside a library cannot raise an error, so a thread of its own prints it and
    ends the process; the launcher ends the others.

    Args:
        seconds: without a sign of this process; a cluster's slowest step and the first one's compiling are to fit in.
    """

    def __init__(self, processes: Processes, seconds: float) -> None:
        self._processes, self._seconds = processes, seconds
        self._count, self._at, self._paused, self._ended = 0, time.monotonic(), False, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if processes.world_size > 1:
            self._store: Any = torch.distributed.PrefixStore(
                "watch", torch.distributed.distributed_c10d._get_default_store()
            )
            self.sign()
            self._thread.start()

    def sign(self) -> None:
        """Say that this process has come to its next exchange."""
        self._count, self._at = self._count + 1, time.monotonic()
        if self._processes.world_size > 1:
            self._store.set(str(self._processes.rank), str(self._count))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Watch nothing meanwhile: a disk may take longer than any exchange."""
        self._paused = True
        try:
            yield
        finally:
            self._paused, self._at = False, time.monotonic()

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds / CHECKS):
            if not self._paused and time.monotonic() - self._at > self._seconds:
                print(f"error: {self._missing()}", file=sys.stderr, flush=True)
                os._exit(1)

    def _missing(self) -> str:
        try:
            self._store.wait([str(rank) for rank in range(self._processes.world_size)], ANSWER)
            counts = {rank: int(self._store.get(str(rank))) for rank in range(self._processes.world_size)}
            least = min(counts.values())
            late = ", ".join(str(rank) for rank, count in counts.items() if count == least < max(counts.values()))
            who = f"process {late} is missing" if late else "no process came further"
        except RuntimeError as error:  # whatever it is, this process ends
            who = f"the processes' counts cannot be read, as after the end of process 0 ({error})"
        return (
            f"the exchange between the training processes has stood still for {self._seconds:.0f} s: {who}\n"
            "  remedy: run the same command again, it resumes from the newest checkpoint; if it happens again, look at "
            "that process's GPU and node (dmesg, nvidia-smi), and at its folder of images"
        )
