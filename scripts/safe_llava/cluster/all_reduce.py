"""Sum a tensor over processes of one machine: `python -m safe_llava.cluster.all_reduce`.

Between two GPUs with NCCL, as training does; where fewer are visible, between two processes with gloo. Prints one JSON
object; a sum that is wrong, or does not come, is an error. Imports nothing but torch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.multiprocessing
from torch import distributed

PROCESSES = 2
ELEMENTS = 16 * 2**20  # 64 MiB, about what DeepSpeed reduces at a time
ROUNDS = 10
TIMEOUT = timedelta(seconds=90)


def _sum(rank: int, backend: str, meeting: str, out: str) -> None:
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES, timeout=TIMEOUT
    )
    values = torch.full((ELEMENTS,), float(rank + 1), device=device)
    distributed.all_reduce(values)
    right = bool((values == sum(range(1, PROCESSES + 1))).all())
    values.zero_()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        distributed.all_reduce(values)
    if backend == "nccl":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / ROUNDS
    if rank == 0:
        gigabytes = values.numel() * values.element_size() / 1e9
        Path(out).write_text(
            json.dumps({"backend": backend, "right": right, "gb_per_s": round(gigabytes / seconds, 2)})
        )
    distributed.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """Sum, and print the back end, whether the sum is right, and how fast it went; exit 1 where it is wrong."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    backend = "nccl" if torch.cuda.device_count() >= PROCESSES else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        meeting, out = Path(folder, "meeting"), Path(folder, "out.json")
        torch.multiprocessing.spawn(_sum, args=(backend, str(meeting), str(out)), nprocs=PROCESSES)
        found = json.loads(out.read_text())
    print(json.dumps(found))
    return 0 if found["right"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
