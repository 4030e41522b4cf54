"""What can be said on the login node, before any job: `python -m safe_llava.cluster.login --config … --plan …`.

Container images are there, the data has room, layouts were checked, keys are set, and the partitions let the jobs
start and end. Writes its findings for ``preflight``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safe_llava.cluster.checks import partitions
from safe_llava.cluster.checks.findings import CheckResult, CheckState
from safe_llava.cluster.checks.node import Expected, NodeKind, labelled, made_again
from safe_llava.cluster.estimates.estimate import answering_hours, benchmark_hours, training_hours
from safe_llava.cluster.estimates.footprint import GB, Footprint, footprint
from safe_llava.cluster.estimates.measured import Measured, read_measured
from safe_llava.config.base import Row
from safe_llava.config.data import DataConfig
from safe_llava.config.schema import Config
from safe_llava.config.secrets import WITHOUT_KEYS, missing_keys
from safe_llava.config.selection import ROOT, needed
from safe_llava.config.train import StageName
from safe_llava.containers.tag import base
from safe_llava.core import cli
from safe_llava.core.errors import ConfigError, DataError, SafeLlavaError
from safe_llava.core.files import write_json
from safe_llava.core.rows import read_row
from safe_llava.data.download.room import Room, room
from safe_llava.data.planning.volume import PlanLine, decimal_size, known, lacking, lines_of, room_verdict

WHERE = "login node"
TRAINING_RULES: dict[str, StageName] = {"train_pretrain": "pretrain", "train_finetune": "finetune"}


class RuleResources(Row):
    """What a rule's resources say; the names are Snakemake's."""

    rule: str
    model: str | None = None
    partition: str | None = None
    nodes: int = 1
    gpus: int = 0
    cpus: int = 1
    mem_mb: int = 0
    runtime: int | None = None


class ImageNote(Row):
    """What stands beside a container image (``containers.build``)."""

    sha256: str
    bytes: int
    labels: dict[str, str]


class JobPlan(Row):
    """What the workflow is about to do, as ``preflight.smk`` knows it."""

    slurm: bool
    jobs: dict[NodeKind, Expected]
    asks: list[RuleResources]
    keys: list[str]  # names of the judges that will be asked
    layouts: dict[str, str]  # the summary of a passed layout check, by data set


class LoginFindings(Row):
    """What this step hands to ``preflight``: its findings, and the jobs whose facts are still to come."""

    findings: list[CheckResult]
    jobs: dict[NodeKind, Expected]


def check_images(images: Mapping[NodeKind, str], made_from: str = "") -> Iterator[CheckResult]:
    """Say whether each container image is there, and what its labels or the note beside it tell.

    Args:
        images: the container images by name.
        made_from: the base that missing ones are made from.
    """
    make = "snakemake images"
    if made_from.endswith("@unknown"):
        make = f"python -m safe_llava.containers.build pin, where there is internet: the base has no digest yet; {make}"
    if not images:
        yield CheckResult(
            WHERE, "images", "ok", "none are used (no --sdm apptainer): steps run with what is installed here"
        )
    for name, path in images.items():
        what = f"image {name}"
        if "://" in path:
            yield CheckResult(WHERE, what, "ok", f"{path} was pulled for the job that looks into it")
        elif not Path(path).is_file():
            yield CheckResult(WHERE, what, "red", f"{path} is not there", make)
        else:
            yield _labelled(what, Path(path))


def _labelled(what: str, path: Path) -> CheckResult:
    from safe_llava.containers.build import labels

    note, size, again = Path(f"{path}.json"), path.stat().st_size, made_again(str(path))
    try:
        if not note.is_file():
            return labelled(WHERE, what, str(path), labels(path), f"{path}, sha256 unknown")
        noted = read_row(note, ImageNote, DataError)
    except (SafeLlavaError, OSError) as error:
        return CheckResult(WHERE, what, "red", f"{path}: its labels cannot be read: {error}", again)
    if size != noted.bytes:
        said = f"{path} has {size:,} bytes, and {noted.bytes:,} by its note: it was cut short or replaced"
        return CheckResult(WHERE, what, "red", said, again)
    # To compute the digest anew would take a minute.
    return labelled(WHERE, what, str(path), noted.labels, f"{path}, sha256 {noted.sha256} by its note")


def check_data_room(data: DataConfig, lines: Sequence[PlanLine], there: Room) -> CheckResult:
    """Say whether what will be fetched and unpacked fits."""
    faults, unknown = lacking(lines, there), known(lines, "to_write")[1]
    remedy = "make room, set `data.root` to a larger disk, or `data.storage: archive`" if faults else ""
    if unknown and not faults:
        remedy = "look at the sizes where the sets come from; `snakemake -n data` lists what is known of each"
    # Where room is not to be looked at, the run starts all the same.
    state: CheckState = "red" if faults and not data.ignore_space else "open" if faults or unknown else "ok"
    return CheckResult(WHERE, "room for the data", state, room_verdict(lines, there, Path(data.root)), remedy)


@dataclass(frozen=True)
class Share:
    """What training writes to one disk; ``keys`` of the configuration say where that is."""

    what: str
    gigabytes: float
    folder: Path
    keys: str


def shares(config: Config, found: Sequence[Footprint | None]) -> list[Share]:
    """Return what training takes by disk: models go to the results, checkpoints to a folder of their own."""
    results = Path(config.results)
    checkpoints = results / config.train.checkpoint_root
    models = sum(one.model for one in found if one) / GB
    states = sum(one.checkpoints for one in found if one) / GB
    if _device(results) == _device(checkpoints):
        keys = "`results` or `train.checkpoint_root`"
        return [Share("models and their checkpoints", models + states, results, keys)]
    return [
        Share("models", models, results, "`results`"),
        Share("checkpoints", states, checkpoints, "`train.checkpoint_root`"),
    ]


def check_training_room(share: Share, unknown: int, there: Room, beside: int) -> CheckResult:
    """Say whether what training writes to one disk fits.

    Args:
        unknown: how many models more there are, of unknown size.
        beside: bytes of data that will come to the same disk.
    """
    what, wanted = f"room for {share.what}", share.gigabytes * GB
    said = f"{decimal_size(int(wanted))} for {share.what}"
    said += f" ({unknown} more models are of unknown size)" if unknown else ""
    said += f", {decimal_size(there.free_bytes)} free at {share.folder}"
    said += f", where {decimal_size(beside)} of data will come too" if beside else ""
    if there.free_bytes is not None and wanted and wanted + beside > there.free_bytes:
        return CheckResult(WHERE, what, "red", said, f"make room, or set {share.keys} to a larger disk")
    if unknown:
        remedy = "leave room for them; `snakemake costs` lists what is known of each"
        return CheckResult(WHERE, what, "open", said, remedy)
    return CheckResult(WHERE, what, "ok", said)


def check_room(config: Config, figures: Measured) -> Iterator[CheckResult]:
    """Say whether what will be fetched, unpacked and trained fits."""
    lines = lines_of(config.data, needed(config))
    root = Path(config.data.root)
    yield check_data_room(config.data, lines, room(root))
    if models := config.train.select.models:
        each = [footprint(config, figures, name) for name in models]
        for share in shares(config, each):
            beside = known(lines, "to_write")[0] if _device(root) == _device(share.folder) else 0
            yield check_training_room(share, each.count(None), room(share.folder), beside)


def _device(folder: Path) -> int:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return there.stat().st_dev


def check_layouts(layouts: Mapping[str, str]) -> Iterator[CheckResult]:
    """Say which data sets are there and were looked through."""
    for name, summary in layouts.items():
        path = Path(summary)
        if path.is_file():
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            yield CheckResult(WHERE, f"layout of {name}", "ok", f"checked {when}")
        else:
            said = "not checked yet; the run does it before it asks for a GPU"
            yield CheckResult(WHERE, f"layout of {name}", "open", said, f"snakemake {summary}")


def check_judge_keys(config: Config, judges: Sequence[str], environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """Say whether each judge's key is set; its value is never read into a message."""
    rows = {name: config.prism.judges[name] for name in judges}
    for name, row in rows.items():
        if row.key_env is None:
            yield CheckResult(WHERE, f"key of {name}", "ok", "it needs none")
        elif missing_keys({name: row}, environment) is None:
            yield CheckResult(WHERE, f"key of {name}", "ok", f"{row.key_env} is set")
        else:
            yield CheckResult(
                WHERE,
                f"key of {name}",
                "red",
                f"{row.key_env} is not set",
                f"export {row.key_env}=…; or {WITHOUT_KEYS}",
            )


def with_estimate(ask: RuleResources, config: Config, figures: Measured) -> partitions.Ask:
    """Return a kind of job with how long it is estimated to take."""
    hours: float | None = None
    rule = ask.rule.removesuffix("_spread")
    if rule in TRAINING_RULES and ask.model:
        row = config.train.models[ask.model]
        whole = training_hours(config, figures, ask.model, TRAINING_RULES[rule]).value
        hours = None if whole is None or row.accelerator == "cpu" else whole / row.processes
    elif rule == "prism_answers" and ask.model:
        editions = config.prism.select.editions
        hours = _longest([answering_hours(config, figures, ask.model, edition).value for edition in editions])
    elif rule == "benchmarks_run" and ask.model:
        tasks = config.benchmarks.select.tasks
        hours = _longest([benchmark_hours(config, figures, ask.model, task).value for task in tasks])
    job = f"{ask.rule} {ask.model}" if ask.model else ask.rule
    limits = (ask.nodes, ask.gpus, ask.cpus, ask.mem_mb, ask.runtime)
    return partitions.Ask(job, ask.partition, *limits, hours=hours, resumes=rule in TRAINING_RULES)


def merged(asks: Sequence[partitions.Ask]) -> list[partitions.Ask]:
    """Return the jobs with those of a rule that ask for the same as one, which takes as long as the longest."""
    groups: dict[partitions.Ask, list[partitions.Ask]] = {}
    for ask in asks:
        kind = ask if ask.resumes else replace(ask, job=ask.job.split()[0], hours=None)
        groups.setdefault(kind, []).append(ask)
    return [
        group[0]
        if len(group) == 1
        else replace(kind, job=f"{kind.job} of {len(group)} models", hours=_longest([ask.hours for ask in group]))
        for kind, group in groups.items()
    ]


def _longest(hours: Sequence[float | None]) -> float | None:
    there = [value for value in hours if value]
    return max(there, default=None)


def check_partitions(plan: JobPlan, config: Config, figures: Measured) -> list[CheckResult]:
    """Say whether the partitions let the jobs start and end."""
    if not plan.slurm:
        return [CheckResult(partitions.WHERE, "time limits", "ok", "jobs run on this machine, without any")]
    asks = [with_estimate(ask, config, figures) for ask in plan.asks]
    return partitions.check_asks(merged(asks), partitions.parse_sinfo(partitions.ask_sinfo()))


def findings(config: Config, plan: JobPlan, figures: Measured, environment: Mapping[str, str]) -> list[CheckResult]:
    """Return everything that the login node knows."""
    images = {name: job.image for name, job in plan.jobs.items() if job.image}
    return [
        *check_images(images, base(config.images, ROOT)),
        *check_room(config, figures),
        *check_layouts(plan.layouts),
        *check_judge_keys(config, plan.keys, environment),
        *check_partitions(plan, config, figures),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the findings, and the page without those of the jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the whole configuration, as JSON")
    parser.add_argument("--plan", type=Path, required=True, help="what the workflow is about to do, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the findings")
    options = parser.parse_args(argv)
    config, plan = read_row(options.config, Config, ConfigError), read_row(options.plan, JobPlan, ConfigError)
    found = findings(config, plan, read_measured(), os.environ)
    write_json(options.out, LoginFindings(findings=found, jobs=plan.jobs).model_dump())


if __name__ == "__main__":
    cli.run(main)
