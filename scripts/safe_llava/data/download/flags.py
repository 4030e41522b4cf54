"""How bytes come: the flags, and what stands for those that are not given. Nothing of it is part of a result."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from safe_llava.config.base import Row
from safe_llava.config.data import DataConfig, ResolvedFile
from safe_llava.core.errors import DataError
from safe_llava.core.rows import check_row
from safe_llava.data.download import sources, throttle
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror

# The workflow sets it: what changes nothing that is fetched must not stand in the command of a job, which is kept and
# compared, and mirrors may hold a password.
VARIABLE = "SAFE_LLAVA_DOWNLOAD"


class Download(Row):
    """What the workflow says of downloads, as JSON in the environment; a flag that is given says more."""

    mirrors: list[str] = Field([], description="Folders or addresses that are asked before a file's origin.")
    file_mirrors: dict[str, list[str]] = Field({}, description="Other copies of a file, by its path under data.root.")
    mirrors_only: bool = False
    connect_timeout_s: float = 10.0
    retries: int = 4
    connections: int = 1
    bandwidth_mb_s: float | None = None


def of_environment(environment: Mapping[str, str] = os.environ) -> Download:
    """Return what the environment says of downloads.

    Raises:
        DataError: it is not of that form.
    """
    given = environment.get(VARIABLE) or "{}"
    return check_row(Download, given, VARIABLE, DataError, f"correct or unset {VARIABLE}", is_json=True)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where to ask and how long to bear with it; the environment fills in for them."""
    given = of_environment()
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        help=f"folder or address laid out as <host>/<path>, asked before the origin; may be given several "
        f"times; {sources.MIRRORS_VARIABLE} adds to them, separated by commas or blanks",
    )
    parser.add_argument("--mirrors-only", action="store_true", default=given.mirrors_only, help="never ask the origin")
    parser.add_argument(
        "--connect-timeout", type=float, default=given.connect_timeout_s, help="seconds to wait for a connection"
    )
    parser.add_argument("--retries", type=int, default=given.retries, help="further tries that bring no new bytes")
    parser.add_argument(
        "--connections", type=int, default=given.connections, help="how many fetch one large file together"
    )
    parser.add_argument(
        "--bandwidth-mb-s",
        type=float,
        default=given.bandwidth_mb_s,
        help="megabytes a second of all downloads of this machine",
    )


def configured(data: DataConfig) -> dict[str, object]:
    """Return what a configuration says in place of the flags that are not given (``parser.set_defaults``)."""
    return {
        "connect_timeout": data.connect_timeout_s,
        "retries": data.retries,
        "connections": data.connections,
        "bandwidth_mb_s": data.bandwidth_mb_s,
    }


def sources_of(args: argparse.Namespace, root: Path, more: list[str] | None = None) -> tuple[list[Mirror], RetryPolicy]:
    """Return the mirrors and the retry policy that the flags ask for.

    Args:
        args: what ``add_source_flags`` added.
        root: folder of all data; the bound on bandwidth is shared below it.
        more: mirrors of a configuration.
    """
    policy = RetryPolicy(
        connect_timeout_s=args.connect_timeout,
        retries=args.retries,
        connections=args.connections,
        limiter=throttle.limiter(root, args.bandwidth_mb_s),
    )
    return sources.mirrors([*args.mirror, *(more or []), *of_environment().mirrors]), policy


def with_copies(row: ResolvedFile) -> ResolvedFile:
    """Return a row with the other copies that the environment names for it."""
    copies = of_environment().file_mirrors.get(row.path, [])
    return row.model_copy(update={"mirrors": [*row.mirrors, *copies]})
