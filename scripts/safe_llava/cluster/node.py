"""Say what a job finds where it runs: `python -m safe_llava.cluster.node --out FACTS.json`.

The container image it runs in, the GPUs that torch sees there and their memory, whether what was compiled for them
can be loaded, a sum over two of them, the room in the folders that will be written. Facts only, and no failure: what
cannot be had is a fact too, with its reason; `preflight` judges. Needs nothing but Python; torch where GPUs or sums are
asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safe_llava.core import cli
from safe_llava.core.files import write_json
from safe_llava.core.provenance import LABELS_INSIDE, package_versions
from safe_llava.data.download.room import of_file_system

PACKAGES = ("torch", "transformers", "deepspeed", "flash-attn", "vllm", "lmms-eval", "pydantic", "matplotlib")
# Only when it is loaded does a package show that it was compiled for other libraries. vLLM loads its kernels when it
# looks for its platform.
LOADS = {
    "flash-attn": "from flash_attn import flash_attn_varlen_func",
    "vllm": "import vllm.platforms; vllm.LLM; vllm.platforms.current_platform.is_cuda() or exit('vLLM sees no GPU')",
}
LOAD_SECONDS = 240.0
SUM_SECONDS = 240.0
SAID_CHARACTERS = 600


def image() -> dict[str, Any] | None:
    """Return the container image that this runs in and its labels; None outside of one."""
    path = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    if path is None:
        return None
    try:
        labels = json.loads(LABELS_INSIDE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        labels = {}
    return {"path": path, "labels": labels}


def gpus() -> dict[str, Any]:
    """Return the GPUs that torch sees: name and memory in bytes of each, and why there are none."""
    try:
        import torch
    except ImportError as error:
        return {"devices": [], "why_none": f"torch cannot be imported: {error}"}
    try:
        seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        return {"devices": [], "why_none": str(error)[:SAID_CHARACTERS]}
    reason = "torch is built without CUDA" if torch.version.cuda is None else "torch sees none"
    devices = [{"name": one.name, "memory": one.total_memory} for one in seen]
    return {"devices": devices, "why_none": None if devices else reason, "cuda": torch.version.cuda}


def loaded(installed: Iterable[str]) -> dict[str, str | None]:
    """Return why packages of ``LOADS`` cannot be loaded, None for those that can, of those that are installed."""
    found: dict[str, str | None] = {}
    for name in sorted(LOADS.keys() & set(installed)):
        done = _run(["-c", LOADS[name]], LOAD_SECONDS)
        if done is None:
            found[name] = f"not loaded within {LOAD_SECONDS:.0f} s"
        else:
            found[name] = _why(done) if done.returncode else None
    return found


def summed() -> dict[str, Any]:
    """Return what ``all_reduce`` says, or why it says nothing."""
    done = _run(["-m", "safe_llava.cluster.all_reduce"], SUM_SECONDS)
    if done is None:
        return {"error": f"no sum within {SUM_SECONDS:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": _why(done)}
    return found


def _run(arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run Python in a process of its own, for it may hang or die; None where it was ended after so many seconds."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    return done.stderr.strip()[-SAID_CHARACTERS:] or f"exit code {done.returncode}"


def folder(path: Path) -> dict[str, Any]:
    """Return the room in a folder that need not exist yet, and why nothing can be written to it."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as stream:
            stream.write(b"x")
        error = None
    except OSError as fault:
        error = fault.strerror or str(fault)
    left = of_file_system(there)
    return {"path": str(path), "free_bytes": left.free_bytes, "free_files": left.free_files, "error": error}


def facts(folders: Sequence[Path], with_gpus: bool, with_sum: bool) -> dict[str, Any]:
    """Return everything that is found here, ready for ``write_json``."""
    scratch = Path(tempfile.gettempdir())
    installed, seen = package_versions(PACKAGES), gpus() if with_gpus else None
    return {
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "image": image(),
        "packages": installed,
        "gpus": seen,
        "loaded": loaded(installed) if seen and seen["devices"] else {},
        "all_reduce": summed() if with_sum else None,
        "folders": [folder(path) for path in folders],
        "scratch": folder(scratch),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Write the facts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, action="append", default=[], help="a folder that a run writes to")
    parser.add_argument("--gpus", action="store_true", help="look for GPUs, through torch")
    parser.add_argument("--all-reduce", action="store_true", help="sum a tensor over two GPUs, or two processes")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the facts")
    options = parser.parse_args(argv)
    write_json(options.out, facts(options.folder, options.gpus, options.all_reduce))


if __name__ == "__main__":
    cli.run(main)
