"""`make demo`: the whole workflow in small, on a machine without GPU, keys or internet.

    python -m safe_llava.demo.run [--results results/demo] [--cores N] [--configfile FILE …] [-- SNAKEMAKE ARGUMENTS]

Makes the miniature upstream, serves it on this machine, and runs the same Snakefile and the same
rules as for the paper with `config/demo.yaml` laid over the paper's configuration. It may be killed
at any moment and run again: it goes on where it was. On a cluster: ``… -- --profile slurm``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from safe_llava.config.selection import ROOT
from safe_llava.core import cli
from safe_llava.core.errors import SafeLlavaError
from safe_llava.core.files import file_digest
from safe_llava.core.locks import NO_LOCKS
from safe_llava.demo.server import UpstreamServer

CONFIG = ROOT / "config" / "demo.yaml"
SEED = 42


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run the whole workflow in small.")
    parser.add_argument("--results", default="results/demo", help="folder of everything that the demo makes")
    parser.add_argument("--cores", default="all", help="cores to use")
    parser.add_argument("--configfile", nargs="+", default=[], help="files that overlay the demo's configuration")
    parser.add_argument("snakemake", nargs="*", help="further arguments for Snakemake, after `--`")
    return parser.parse_args(argv)


def demo_environment(address: str) -> dict[str, str]:
    """Return the environment of every step: one thread each, the miniature upstream as the only mirror."""
    return {
        **os.environ,
        "SAFE_LLAVA_MIRRORS": address,
        # The hub that the demo asks is on this machine, whatever a user has set for the real one.
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # A driver without a usable card must not change what the demo runs on.
        "CUDA_VISIBLE_DEVICES": "",
        # Nothing is compiled on a CPU: DeepSpeed need not import torch's compiler for an optimizer that is not used.
        "TORCHDYNAMO_DISABLE": "1",
    }


def snakemake(results: str, cores: str, *arguments: str, files: Sequence[str] = ()) -> list[str]:
    """Return the command line of Snakemake for the demo; with a profile, that says how much runs at once.

    Args:
        results: the folder of results, from the clone.
        cores: how many processes run at once.
        arguments: flags and targets of Snakemake.
        files: of configuration, which overlay the demo's.
    """
    return [
        *(sys.executable, "-m", "snakemake"),
        *([] if "--profile" in arguments else ["--cores", cores]),
        *("--config", f"results={results}", f"data={{root: {results}/data}}"),
        *("--configfile", str(CONFIG), f"{results}/upstream/pins.yaml", *files),
        # The demo's own lock is let go of when its process dies; Snakemake's would have to be removed by hand.
        # `--configfile` takes whatever follows it: this stands between it and a target.
        "--nolock",
        *arguments,
    ]


@contextlib.contextmanager
def only_demo(results: Path) -> Iterator[int]:
    """Hold the lock of a results folder, and yield its descriptor.

    Whoever inherits the descriptor keeps the lock, which core.locks has no way to say: where this process alone is
    killed, Snakemake works on, and another demo must not begin beside it.
    """
    with (results / ".demo.lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "wait for it, or name another --results"
            raise SafeLlavaError(f"{results}: another demo is running there", remedy) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{results}: no lock here ({error.strerror}): start no other demo there", file=sys.stderr)
        yield stream.fileno()


def make_report(results: str, env: dict[str, str]) -> Path:
    """Make Snakemake's report, unless the one that is there was made from these very tables and figures."""
    report, stamp = Path(results) / "report.html", Path(results) / ".report.stamp"
    shown = sorted([*Path(results, "tables").glob("*.csv"), *Path(results, "figures").glob("*.png")])
    state = "\n".join(f"{path} {file_digest(path)}" for path in shown)
    if not (report.is_file() and stamp.is_file() and stamp.read_text() == state):
        command = snakemake(results, "1", "--quiet", "all", "--report", str(report))
        subprocess.run(command, check=True, env=env, cwd=ROOT)
        stamp.write_text(state)
    return report


def summarise(results: str, report: Path) -> None:
    """Print what the demo found, and where to look."""
    with Path(results, "tables", "demo.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    print("\nWhat the demo found (lines with a threshold are asserted):")
    for row in rows:
        print("  " + "  ".join(f"{key}: {value}" for key, value in row.items() if value))
    print(f"\nTables:  {results}/tables\nFigures: {results}/figures\nReport:  {report}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return Snakemake's exit status."""
    arguments = parse_arguments(argv)
    os.chdir(ROOT)
    results = arguments.results.rstrip("/")
    Path(results).mkdir(parents=True, exist_ok=True)
    upstream = Path(results) / "upstream"
    build = ["-m", "safe_llava.demo.upstream", "--out", str(upstream), "--seed", str(SEED)]
    with only_demo(Path(results)) as lock:
        subprocess.run([sys.executable, *build], check=True, pass_fds=[lock])
        with UpstreamServer(upstream) as server:
            env = demo_environment(server.address)
            command = snakemake(results, arguments.cores, *arguments.snakemake, files=arguments.configfile)
            code = subprocess.run(command, env=env, check=False, pass_fds=[lock]).returncode
        if code == 0 and not arguments.snakemake:
            summarise(results, make_report(results, env))
    return code


if __name__ == "__main__":
    cli.run(main)
