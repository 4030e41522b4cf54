"""Say what would be fetched: `python -m safe_llava.data.plan [--configfile FILE …]`.

One line a data set: how large it is, how much of it is not here yet, and how many files it becomes; then whether there
is room. Nothing is fetched. `snakemake data` prints the same before it starts, and `snakemake data -n -q` instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safe_llava.config.load import load
from safe_llava.config.selection import config_files, needed
from safe_llava.core import cli
from safe_llava.data.planning.volume import report


def main(argv: Sequence[str] | None = None) -> int | None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description="Say what each data set holds, what is not here yet, and if it fits.")
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[], help="files laid over those of config/, as for Snakemake"
    )
    parser.add_argument("--root", help="folder of all data, instead of data.root")
    args = parser.parse_args(argv)
    config = load(config_files(args.configfile))
    data = config.data.model_copy(update={"root": args.root} if args.root else {})
    sys.stdout.write(report(data, needed(config))[0] + "\n")
    return None


if __name__ == "__main__":
    cli.run(main)
