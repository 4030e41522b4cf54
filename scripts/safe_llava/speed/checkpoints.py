"""Time a checkpoint beside plain reads and writes of as many bytes, by the same processes and threads.

``python -m safe_llava.train.launch --processes 2 --module safe_llava.speed.checkpoints -- --folder DIR --out LOG``; DIR
lies on the disk that is measured. Files leave the page cache before they are read, where the file system has one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from safe_llava.core import cli
from safe_llava.core.files import write_text
from safe_llava.train.loop.checkpoint import CheckpointFolder
from safe_llava.train.loop.deepspeed import Processes, cpu_threads, join_processes
from safe_llava.train.loop.state import Piece
from safe_llava.train.loop.storage import threads

TENSOR = 1 << 24  # elements: a 7B's matrix of 4,096 by 4,096
AT_ONCE = 1 << 24  # bytes
GB = 1e9
PAIRS = {"save": "plain write", "verify": "plain read", "load": "plain read"}


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where it writes; emptied at the end")
    parser.add_argument("--out", type=Path, required=True, help="log, JSON lines")
    parser.add_argument("--gb", type=float, default=2.0, help="decimal gigabytes of a checkpoint, over all processes")
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def make_state(elements: int, rank: int) -> list[Piece]:
    """Return pieces with random values in matrices' sizes, at least one."""
    torch.manual_seed(rank)
    values = torch.rand(elements)
    return [Piece(f"{rank}.{number}/weight", 0, len(part), part) for number, part in enumerate(values.split(TENSOR))]


class Plain:
    """As many bytes in files of the same number, without plan, manifest and hashes."""

    def __init__(self, folder: Path, pieces: Sequence[Piece], rank: int) -> None:
        self._pieces, self._files = pieces, [folder / f"plain-{rank}-{number}" for number in range(threads())]

    def write(self) -> None:
        """Write all, a thread a file, and put it on disk."""
        with ThreadPoolExecutor(len(self._files)) as pool:
            list(pool.map(self._write, self._files, range(len(self._files))))

    def read(self) -> None:
        """Read all, a thread a file."""
        with ThreadPoolExecutor(len(self._files)) as pool:
            list(pool.map(self._read, self._files))

    def _write(self, file: Path, number: int) -> None:
        with file.open("wb", buffering=0) as stream:
            for piece in self._pieces[number :: len(self._files)]:
                values: Any = piece.values.numpy()
                left = memoryview(values).cast("B")
                while left:
                    left = left[stream.write(left[:AT_ONCE]) :]
            os.fsync(stream.fileno())

    def _read(self, file: Path) -> None:
        buffer = bytearray(AT_ONCE)
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def drop_page_cache(folder: Path, processes: Processes) -> None:
    """Drop what the page cache has of a folder's files."""
    torch.distributed.barrier()
    for file in folder.rglob("*"):
        if processes.first and file.is_file():
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    torch.distributed.barrier()


def timed(work: Callable[[], object]) -> float:
    """Return how long the slowest process took."""
    torch.distributed.barrier()
    start = time.monotonic()
    work()
    torch.distributed.barrier()
    return time.monotonic() - start


def time_ways(folder: Path, pieces: Sequence[Piece], processes: Processes) -> dict[str, float]:
    """Return the seconds of each way, once; plain files and checkpoint are not there at the same time."""
    plain = Plain(folder, pieces, processes.rank)
    took = {"plain write": timed(plain.write)}
    drop_page_cache(folder, processes)
    took["plain read"] = timed(plain.read)
    torch.distributed.barrier()
    for file in folder.glob("plain-*") if processes.first else []:
        file.unlink()
    checkpoints = CheckpointFolder(folder / "checkpoints", {}, processes, keep=1)
    checkpoints.agree({"world_size": processes.world_size})
    took["save"] = timed(lambda: checkpoints.save(1, pieces, {}))
    drop_page_cache(folder, processes)
    took["verify"] = timed(checkpoints.find)
    drop_page_cache(folder, processes)
    took["load"] = timed(lambda: checkpoints.load(pieces))
    checkpoints.release()
    torch.distributed.barrier()
    if processes.first:
        shutil.rmtree(folder / "checkpoints")
    return took


def main(argv: Sequence[str] | None = None) -> None:
    """Measure several times, and write the log."""
    arguments = parser().parse_args(argv)
    processes = join_processes("cpu", 1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    elements = int(arguments.gb * GB) // 4
    pieces = make_state(elements // processes.world_size, processes.rank)
    conditions: dict[str, Any] = {
        "kind": "conditions",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "torch": torch.__version__,
    }
    conditions |= {"processes": processes.world_size, "threads": threads(), "cpus": cpu_threads(), "gb": arguments.gb}
    found = [time_ways(arguments.folder, pieces, processes) for _ in range(arguments.repeats)]
    if not processes.first:
        return
    median = {name: statistics.median(took[name] for took in found) for name in found[0]}
    ratios = {name: statistics.median(took[name] / took[plain] for took in found) for name, plain in PAIRS.items()}
    lines = [
        conditions,
        *({"kind": "seconds", **{name: round(value, 3) for name, value in took.items()}} for took in found),
        {"kind": "GB/s", **{name: round(arguments.gb / value, 3) for name, value in median.items()}},
        {"kind": "times plain", **{name: round(value, 3) for name, value in ratios.items()}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(arguments.out, text)
    print(text, end="")


if __name__ == "__main__":
    cli.run(main)
