"""The efficiency report: what the jobs of this run used of what they asked for, as the accounting knows it.

The published plugin asks for the jobs by one name that they all have; here each submission has a name of its own, and
its number is known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_slurm_steady import slurm
from snakemake_executor_plugin_slurm_steady.published import parse_sacct_data

COLUMNS = "JobID,JobName,Comment,Elapsed,TotalCPU,NNodes,NCPUS,MaxRSS,ReqMem"
AT_ONCE = 500  # job numbers in one request
LATE_SECONDS = 15.0  # within which the accounting hears of the last jobs


def write_report(jobs: Sequence[str], threshold: float, folder: Path | None, name: str, logger: Any) -> None:
    """Write ``efficiency_report_NAME.csv``, and warn of jobs that used less of their CPUs than the threshold.

    Args:
        jobs: SLURM's numbers.
        threshold: a fraction.
        folder: where the report goes; None: the working directory.
    """
    deadline = time.monotonic() + LATE_SECONDS
    try:
        while len(slurm.remembered(jobs)) < len(jobs) and time.monotonic() < deadline:
            time.sleep(1)
        rows = sacct_rows(jobs)
    except slurm.SlurmError as error:
        logger.warning(f"No efficiency report: the accounting does not answer ({error}).")
        return
    if not rows:
        logger.warning("No efficiency report: the accounting knows none of this run's jobs.")
        return
    # The published plugin compares percent.
    table = parse_sacct_data(rows, 100 * threshold, name, logger)
    file = (folder or Path.cwd()) / f"efficiency_report_{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(file)
    logger.info(f"Efficiency report: {file}")


def sacct_rows(jobs: Sequence[str]) -> list[str]:
    """Return what the accounting says of jobs and their steps, a line each; one that is not as asked is left out.

    Memory is in one unit: the published plugin knows none above G.
    """
    rows: list[str] = []
    for first in range(0, len(jobs), AT_ONCE):
        asked = ",".join(jobs[first : first + AT_ONCE])
        rows += slurm.call(["sacct", "-P", "-n", "--units=M", "-j", asked, "-o", COLUMNS]).splitlines()
    return [_with_rule(row) for row in rows if row.count("|") == COLUMNS.count(",")]


def _with_rule(row: str) -> str:
    """A job's row with its rule as its comment, which sites need not keep, and without its name.

    The published plugin takes rows for those of no step whose names have "batch" or "extern" in them.
    """
    number, name, comment, rest = row.split("|", 3)
    if "." in number:
        return row
    rule = name.rsplit(".", 2)[0].rpartition(".")[2]
    return f"{number}|job|{comment or f'rule_{rule}'}|{rest}"
