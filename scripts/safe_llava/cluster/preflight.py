"""Gather what was found into one page: `python -m safe_llava.cluster.preflight --login … --facts train=FILE …`.

Prints every line and its remedy, and exits with 1 where one is red.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from safe_llava.cluster.checks.findings import as_page, as_text, red
from safe_llava.cluster.checks.node import NodeKind, node_findings
from safe_llava.cluster.estimates.measured import read_measured
from safe_llava.cluster.login import LoginFindings
from safe_llava.config.schema import Config
from safe_llava.core import cli
from safe_llava.core.errors import ConfigError
from safe_llava.core.files import read_json, write_text
from safe_llava.core.rows import read_row


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and print what is on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the whole configuration, as JSON")
    parser.add_argument("--login", type=Path, required=True, help="what cluster.login found")
    parser.add_argument(
        "--facts", type=_named, action="append", default=[], metavar="KIND=FILE", help="of cluster.node; may be absent"
    )
    parser.add_argument("--page", type=Path, required=True, metavar="FILE.html")
    options = parser.parse_args(argv)
    config, login = read_row(options.config, Config, ConfigError), read_row(options.login, LoginFindings, ConfigError)
    figures, facts = read_measured(), {name: read_json(path) for name, path in options.facts if path.is_file()}
    jobs = [(kind, login.jobs[kind]) for kind in get_args(NodeKind) if kind in login.jobs]
    found = [
        *login.findings,
        *(line for kind, job in jobs for line in node_findings(kind, facts.get(kind), job, config, figures)),
    ]
    write_text(options.page, as_page(found, f"{time.strftime('%Y-%m-%d %H:%M')} from {platform.node()}"))
    sys.stdout.write(f"{as_text(found)}Page: {options.page}\n")
    return int(red(found) > 0)


if __name__ == "__main__":
    cli.run(main)
