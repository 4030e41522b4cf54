"""Start the training processes of one machine and pass their exit code on.

``python -m safe_llava.train.launch --processes 8 -- --config ROW.json --stage finetune …``

torchrun does as well, but turns every failure into exit code 1: the "run again" of a training that was
told to stop would be lost. Signals go on to the processes; when one fails, the others are ended.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from safe_llava.core import cli
from safe_llava.core.errors import TrainError

RENDEZVOUS = "SAFE_LLAVA_RENDEZVOUS"
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.train.launch", description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, required=True, help="processes on this machine, one a GPU")
    parser.add_argument("--module", default="safe_llava.train.run", help="module that every process runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the arguments of that module")
    return parser


class Group:
    """Processes that live and end together."""

    def __init__(self, command: Sequence[str], processes: int, rendezvous: Path) -> None:
        self._members = [
            subprocess.Popen(
                command,
                preexec_fn=_end_with_parent,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "LOCAL_WORLD_SIZE": str(processes),
                    RENDEZVOUS: str(rendezvous),
                    # Read when torch is imported; the step itself sets torch's number of threads.
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                    # Micro-batches differ in length: without it the GPU's memory falls to pieces.
                    "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
                },
            )
            for rank in range(processes)
        ]

    def forward(self, number: int, _frame: FrameType | None = None) -> None:
        """Send a signal to every process that is still there."""
        for member in self._members:
            if member.poll() is None:
                member.send_signal(number)

    def wait(self) -> int:
        """Wait for all; at the first failure end the others. Return the first exit code that is not 0."""
        while True:
            codes = [member.poll() for member in self._members]
            failed = [code for code in codes if code not in (None, 0, cli.EXIT_RUN_AGAIN)]
            if failed:
                self.end()
                return _exit_code(failed[0])
            if None not in codes:
                return max(code or 0 for code in codes)
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Ask the processes to end, and make them after a while."""
        self.forward(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(member.poll() is None for member in self._members):
            time.sleep(POLL_SECONDS)
        self.forward(signal.SIGKILL)
        for member in self._members:
            member.wait()


def _end_with_parent() -> None:
    """Have Linux kill a process whose launcher was killed: it would keep its GPU and its checkpoint folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_code(code: int | None) -> int:
    """A process ended by a signal has a negative code: 128 + the signal, as a shell says it."""
    return 128 - code if code is not None and code < 0 else int(code or 0)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the processes to their end."""
    arguments = parser().parse_args(argv)
    if arguments.processes < 1:
        raise TrainError(f"--processes {arguments.processes}", "give a whole number above 0")
    rest = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    with tempfile.TemporaryDirectory(prefix="safe-llava-") as folder:
        command = [sys.executable, "-m", arguments.module, *rest]
        group = Group(command, arguments.processes, Path(folder) / "rendezvous")
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, group.forward)
        try:
            return group.wait()
        finally:
            group.end()


if __name__ == "__main__":
    cli.run(main)
