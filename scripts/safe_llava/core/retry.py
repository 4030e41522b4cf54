"""How Snakemake is made to run a step again whose result holds failures, or outlives what it was made of.

A step writes into its record how many of its rows failed, and the stamp that it was started with. The workflow reads
the stamp of the next run from the record and passes it as a parameter. The stamp changes exactly where something
failed: Snakemake then runs the step again, and the step asks only what failed. It changes too where a file that the
result was made of is gone: Snakemake by itself makes no input anew for a result that is there.

The parameter's function may take only the wildcards: Snakemake neither keeps nor compares a parameter that is made from
inputs or outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def outcome(failed: int, stamp: str) -> dict[str, Any]:
    """Return what a record holds for ``retry_stamp``.

    Args:
        failed: rows without a result.
        stamp: the stamp that the step was started with, empty on its first run.
    """
    return {"failed": failed, "retry": stamp}


def retry_stamp(record: Path | str, made_of: Iterable[Path | str] = ()) -> str:
    """Return the stamp of a step's next run, from the record of its last one.

    It is that of the last run where all is well, new where something failed or is gone, and empty where there is no
    record.

    Args:
        record: of the step's last run.
        made_of: files that its result was made of.
    """
    path = Path(record)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        failed, stamp = int(facts.get("failed", 0)), str(facts.get("retry", ""))
        gone = sum(not Path(file).exists() for file in made_of)
        return f"{failed} failed, {gone} gone, {path.stat().st_mtime_ns}" if failed or gone else stamp
    except (OSError, ValueError, AttributeError, TypeError):
        return ""
