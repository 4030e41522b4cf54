"""Start the training processes of one machine and pass their exit code on.

``python -m safe_llava.train.launch --processes 8 -- --config ROW.json --stage finetune …``

On several machines, one launcher on each, which SLURM's srun starts:
``srun --nodes=2 --ntasks-per-node=1 python -m … --processes 8 --nodes 2 --rendezvous HOST:PORT -- …``

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from safe_llava.core import cli
from safe_llava.core.errors import TrainError
from safe_llava.core.files import write_text

RENDEZVOUS = "SAFE_LLAVA_RENDEZVOUS"
FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.train.launch", description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, required=True, help="processes on this machine, one a GPU")
    parser.add_argument("--nodes", type=int, default=1, help="machines, each with a launcher of its own")
    parser.add_argument("--rendezvous", help="HOST:PORT of the first machine, where the processes meet")
    parser.add_argument("--module", default="safe_llava.train.run", help="module that every process runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the arguments of that module")
    return parser


class Group:
    """Processes that live and end together."""

    def __init__(self, command: Sequence[str], processes: int, meeting: Mapping[str, str], first: int = 0) -> None:
        """Start them.

        Args:
            meeting: what the processes need to find each other, as environment variables.
            first: rank of the first process of this machine.
        """
        self._members = [
            subprocess.Popen(
                command,
                preexec_fn=_end_with_parent,
                env={
                    **os.environ,
                    **meeting,
                    "RANK": str(first + local),
                    "LOCAL_RANK": str(local),
                    "LOCAL_WORLD_SIZE": str(processes),
                    # Read when torch is imported; the step itself sets torch's number of threads.
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                    # Micro-batches differ in length: without it the GPU's memory falls to pieces.
                    "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
                },
            )
            for local in range(processes)
        ]

    def forward(self, number: int, _frame: FrameType | None = None) -> None:
        """Send a signal to every process that is still there; a cluster's notice is a SIGTERM to them."""
        number = signal.SIGTERM if number == cli.NOTICE else number
        for member in self._members:
            if member.poll() is None:
                member.send_signal(number)

    def wait(self) -> int:
        """Wait until all have ended well, or one has failed; return the first exit code that is not 0."""
        while True:
            codes = [member.poll() for member in self._members]
            failed = [code for code in codes if code not in (None, 0, cli.EXIT_RUN_AGAIN)]
            if failed:
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


def meet(nodes: int, processes: int, rendezvous: str | None, folder: Path) -> dict[str, str]:
    """Return the environment by which the processes find each other: a file on one machine, an address on several.

    Raises:
        TrainError: several machines without an address, or with one that is none.
    """
    world = {"WORLD_SIZE": str(nodes * processes)}
    if nodes == 1:
        return {**world, RENDEZVOUS: str(folder / "rendezvous")}
    host, _, port = (rendezvous or "").rpartition(":")
    if not host or not port.isdigit():
        raise TrainError(f"--rendezvous {rendezvous}", "with --nodes, give HOST:PORT of the first machine")
    return {**world, "MASTER_ADDR": host, "MASTER_PORT": port}


def node_rank(nodes: int) -> int:
    """Return which of the machines this is, from 0 on, as srun says it.

    Raises:
        TrainError: nobody says it, or it is none of them.
    """
    rank = 0 if nodes == 1 else int(os.environ.get("SLURM_NODEID", "-1"))
    if not 0 <= rank < nodes:
        raise TrainError(f"node {rank} of {nodes}", "start it with srun --nodes=N --ntasks-per-node=1, or use torchrun")
    return rank


def say(code: int) -> None:
    """Put this machine's exit code and name beside the job's record.

    Of several, srun returns the code of the one that it killed. The first to say a failure is its cause: said before
    the other processes have ended, for those of other machines fail when this one is gone.
    """
    if record := os.environ.get(cli.JOB_RECORD):
        node = os.environ.get("SLURMD_NODENAME", "")
        write_text(f"{record}.{os.environ.get('SLURM_NODEID', '0')}", f"task {code} {node}\n")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the processes to their end."""
    arguments = parser().parse_args(argv)
    for name in ("processes", "nodes"):
        if getattr(arguments, name) < 1:
            raise TrainError(f"--{name} {getattr(arguments, name)}", "give a whole number above 0")
    rest = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    first = node_rank(arguments.nodes) * arguments.processes
    with tempfile.TemporaryDirectory(prefix="safe-llava-") as folder:
        command = [sys.executable, "-m", arguments.module, *rest]
        meeting = meet(arguments.nodes, arguments.processes, arguments.rendezvous, Path(folder))
        received: list[int] = []
        # Elsewhere it says that a window was resized.
        forwarded = (*FORWARDED, cli.NOTICE) if cli.JOB_RECORD in os.environ else FORWARDED
        for number in forwarded:
            signal.signal(number, lambda number, _: received.append(number))
        group = Group(command, arguments.processes, meeting, first)
        for number in forwarded:
            signal.signal(number, group.forward)
        # What came while the processes were being started.
        for missed in received:
            group.forward(missed)
        try:
            code = group.wait()
            say(code)
            return code
        finally:
            group.end()


if __name__ == "__main__":
    cli.run(main)
