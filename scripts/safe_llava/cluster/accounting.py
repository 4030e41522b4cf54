"""Say what a run has cost: `python -m safe_llava.cluster.accounting --ledger … --usage … --out costs.csv`.

Two sources, a line a stage each, and never a sum of both:

- ``slurm``: what SLURM's accounting (sacct) says of every job that the executor's ledger names, lost ones too.
- ``steps``: what Snakemake's benchmark files say of the steps themselves, wherever they ran. A file holds the last run
  of its step that ended well; what was killed before is not in it.

What nobody knows is an empty cell, never 0: accounting that is away, or has forgotten a job.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from safe_llava.config.schema import Config
from safe_llava.core import cli
from safe_llava.core.errors import PaperError
from safe_llava.core.files import read_jsonl
from safe_llava.formats.costs import StageCost
from safe_llava.formats.tables import write_table

logger = logging.getLogger(__name__)

STAGES = ("data", "train", "prism", "benchmarks", "paper")
OTHER = "other"
SUBMIT_LINE = "SubmitLine"  # since SLURM 21.08; sacct answers nothing at all where it does not know a field
FORMAT = f"JobIDRaw,JobName,State,ElapsedRaw,CPUTimeRAW,AllocTRES,MaxRSS,{SUBMIT_LINE}"
# Every way of sbatch to ask for GPUs, or for a share of one (`shard`, `mps`), long options cut short as it takes them;
# a number of 0 asks for none, and a whole node may have some.
ASKS_GPU = re.compile(
    r"\s(?:(?:--gpus(?:-per-\w+)?[ =]|-G[ =]?)(?!(?:[\w.]+:)?0(?![\w.,:]))\S|--ntasks-per-g"
    r"|(?:--gres|--tres-[\w-]+)[ =](?:\S*[,/:=])?(?:gpu|shard|mps)(?![\w.]*(?::[\w.]+)*[:=]0\b)|--exclus)"
)
AT_A_TIME = 500
SACCT_SECONDS = 300.0
HOUR = 3600.0
MEMORY_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
MIB = 2**20
GIB = 2**30
One = TypeVar("One")


@dataclass(frozen=True)
class Submission:
    """A submission that the ledger names: SLURM's number, the job's own name there, and what became of it."""

    job: str
    name: str
    fate: str

    @property
    def rule(self) -> str:
        """The rule: a job's name is rule, key and number of the submission, behind a prefix where a site has one."""
        return self.name.rsplit(".", 2)[0].rpartition(".")[2]

    @property
    def key(self) -> str:
        """The job of the workflow, which may have been submitted several times."""
        return self.name.rsplit(".", 1)[0]


@dataclass
class JobUsage:
    """What one submission took; seconds, and bytes of its hungriest step, None where nobody counted or sampled it."""

    states: list[str] = field(default_factory=list)
    wall: float = 0.0
    gpu: float | None = 0.0
    cpu: float = 0.0
    memory: float | None = None


def stage_of(rule: str) -> str:
    """Return the stage whose name a rule begins with, behind what another workflow put before it."""
    return next((part for part in rule.split("_") if part in STAGES), OTHER)


def read_ledger(path: Path) -> list[Submission]:
    """Read the executor's ledger; none where nothing was submitted from here."""
    if not path.is_file():
        return []
    rows = read_jsonl(path, "move it away: what was submitted before is not counted then")
    try:
        # A Snakemake killed between this line and its own note of it writes the line again.
        found = {(str(row["job"]), str(row["name"])): row["fate"] for row in rows if row["job"] is not None}
        return [Submission(job, name, fate) for (job, name), fate in found.items()]
    except KeyError as error:
        raise PaperError(f"{path}: a row without {error}", "move it away, or mend the row") from error


def ask_sacct(jobs: Sequence[str]) -> str:
    """Return what sacct prints in ``FORMAT`` about jobs, each time that they ran; "" where it is away."""
    found = []
    for first in range(0, len(jobs), AT_A_TIME):
        numbers = jobs[first : first + AT_A_TIME]
        text, fault = _sacct(numbers, FORMAT)
        if SUBMIT_LINE in fault:
            text, fault = _sacct(numbers, FORMAT.removesuffix(f",{SUBMIT_LINE}"))
            text = "".join(f"{line}|\n" for line in text.splitlines())
        if fault:
            logger.warning("what %d jobs took is unknown: %s", len(numbers), fault)
        found.append(text)
    return "".join(found)


def _sacct(jobs: Sequence[str], fields: str) -> tuple[str, str]:
    """Return what sacct prints, and why it prints nothing."""
    command = ["sacct", "--duplicates", "--parsable2", "--noheader", f"--jobs={','.join(jobs)}", f"--format={fields}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SACCT_SECONDS, check=False)
    except OSError as error:
        return "", str(error)
    except subprocess.TimeoutExpired:
        return "", f"sacct gives no answer within {SACCT_SECONDS:.0f} s"
    return ("", done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else (done.stdout, "")


def parse_usages(text: str) -> dict[tuple[str, str], JobUsage]:
    """Read what sacct prints, by SLURM's number and the job's name.

    A number alone is not enough: a cluster may begin to count anew. Times are those of the job's own lines, one for
    each time that it was requeued; memory is the most of the steps, whose lines follow. A job whose times are no whole
    seconds in one of its lines is left out: part of a sum would pass for all of it.
    """
    usages: dict[tuple[str, str], JobUsage] = {}
    unread: set[tuple[str, str]] = set()
    latest = JobUsage()
    for line in text.split("\n"):
        cells = line.split("|", FORMAT.count(","))
        if len(cells) != len(FORMAT.split(",")):
            continue
        number, name, state, elapsed, cpu, resources, memory, submitted = cells
        if "." in number:
            if (size := bytes_of(memory)) is not None:
                latest.memory = max(size, latest.memory or 0.0)
            continue
        latest = usages.setdefault((number, name), JobUsage())
        if not (elapsed.isdecimal() and cpu.isdecimal()):
            unread.add((number, name))
            continue
        seconds = float(elapsed)
        latest.states.append(state.split()[0] if state else "UNKNOWN")
        latest.wall += seconds
        count = allocated_gpus(resources, submitted)
        latest.gpu = None if latest.gpu is None or (count is None and seconds) else latest.gpu + seconds * (count or 0)
        latest.cpu += float(cpu)
    return {job: usage for job, usage in usages.items() if job not in unread}


def allocated_gpus(resources: str, submitted: str) -> int | None:
    """Return the GPUs in a list of allocated resources: `billing=8,cpu=8,gres/gpu=2,gres/gpu:h200=2` has two.

    A site that does not name gres/gpu in its AccountingStorageTRES counts none, and none are counted of GPUs that SLURM
    does not consume (``no_consume``): then None, unless ``submitted``, the call of sbatch, shows that the job asked for
    none.
    """
    counts = {name: int(number) for name, number in re.findall(r"(gres/gpu(?::[^=,]+)?)=(\d+)", resources)}
    count = counts.pop("gres/gpu", 0) or sum(counts.values())
    return count if count or (submitted and not ASKS_GPU.search(submitted)) else None


def bytes_of(text: str) -> float | None:
    """Return a memory size as sacct writes it, `1234K` or `1.5G`; None where it writes none."""
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", text.strip())
    return float(found[1]) * MEMORY_UNITS[found[2]] if found else None


def of_slurm(submissions: Sequence[Submission], usages: Mapping[tuple[str, str], JobUsage]) -> list[StageCost]:
    """Return a line a stage from the accounting of the ledger's submissions."""
    lines = []
    for stage, group in _by_stage((stage_of(one.rule), one) for one in submissions):
        known = [usages[one.job, one.name] for one in group if (one.job, one.name) in usages]
        memory = [one.memory for one in known if one.memory is not None]
        # Without accounting there is still what the executor saw.
        states = Counter(state for one in known for state in one.states) if known else Counter(o.fate for o in group)
        lines.append(
            StageCost(
                stage=stage,
                source="slurm",
                jobs=len({one.key for one in group}),
                submissions=len(group),
                unaccounted=len(group) - len(known),
                wall_hours=_hours([one.wall for one in known]),
                # Part of a sum would pass for all of it.
                gpu_hours=None if any(one.gpu is None for one in known) else _hours([one.gpu for one in known]),
                cpu_hours=_hours([one.cpu for one in known]),
                max_memory_gib=round(max(memory) / GIB, 3) if memory else None,
                states=", ".join(f"{state} {count}" for state, count in sorted(states.items())),
            )
        )
    return lines


def of_steps(folder: Path, gpus: Mapping[str, int]) -> list[StageCost]:
    """Return a line a stage from Snakemake's benchmark files below a folder.

    Args:
        gpus: GPUs of a step, by the beginning of its file's path below the folder.
    """
    found = []
    for file in sorted(folder.rglob("*.tsv")):
        path = file.relative_to(folder)
        asked = next((count for start, count in gpus.items() if path.as_posix().startswith(start)), 0)
        found.append((path.parts[0], (asked, _read_usage(file))))
    lines = []
    for stage, group in _by_stage(found):
        walls = [row["s"] for _, row in group]
        charged = [None if row["s"] is None else count * row["s"] for count, row in group]
        memory = [row["max_rss"] for _, row in group if row["max_rss"] is not None]
        lines.append(
            StageCost(
                stage=stage,
                source="steps",
                jobs=len(group),
                submissions=None,
                unaccounted=walls.count(None),
                wall_hours=_hours(walls),
                gpu_hours=_hours(charged),
                cpu_hours=_hours([row["cpu_time"] for _, row in group]),
                max_memory_gib=round(max(memory) * MIB / GIB, 3) if memory else None,
                states="",
            )
        )
    return lines


def _read_usage(file: Path) -> dict[str, float | None]:
    """Read the last line of a benchmark file: seconds, and MiB; what could not be sampled is None."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    last = rows[-1] if rows else {}
    return {name: _number(last.get(name)) for name in ("s", "max_rss", "cpu_time")}


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _hours(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return round(sum(known) / HOUR, 4) if known else None


def _by_stage(pairs: Iterable[tuple[str, One]]) -> Iterator[tuple[str, list[One]]]:
    groups: dict[str, list[One]] = {}
    for stage, one in pairs:
        groups.setdefault(stage, []).append(one)
    yield from ((stage, groups[stage]) for stage in (*STAGES, OTHER) if stage in groups)


def gpus_by_path(config: Config) -> dict[str, int]:
    """Return how many GPUs a step has, by the beginning of its benchmark file's path."""
    trained = {f"train/{name}/": row.processes for name, row in config.train.models.items() if row.accelerator == "gpu"}
    asked = [name for name, row in config.models.items() if row.accelerator == "gpu"]
    editions = config.prism.editions
    answers = {f"prism/answers/{edition}/{name}.tsv": 1 for edition in editions for name in asked}
    return trained | answers | {f"benchmarks/{name}/": 1 for name in asked}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ledger", type=Path, required=True, help="jobs.jsonl of the SLURM executor; may be absent")
    parser.add_argument("--usage", type=Path, required=True, help="folder of Snakemake's benchmark files")
    parser.add_argument("--gpus", type=json.loads, default={}, help="GPUs of a step by its path there, as JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    options = parser.parse_args(argv)
    submissions = read_ledger(options.ledger)
    usages = parse_usages(ask_sacct([one.job for one in submissions]))
    write_table(options.out, StageCost, [*of_slurm(submissions, usages), *of_steps(options.usage, options.gpus)])


if __name__ == "__main__":
    cli.run(main)
