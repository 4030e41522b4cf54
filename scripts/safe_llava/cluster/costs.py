"""Say what a run costs before it runs: `python -m safe_llava.cluster.costs --config CONFIG.json …`.

A line for each thing that takes GPU hours, disk or money, with how its figures were got, and the sums by stage.
`snakemake costs` prints it for the chosen configuration. What nobody measured is `unknown` (an empty cell of the CSV
file); it is in no sum, and each sum says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_llava.cluster.estimates.estimate import (
    NOTHING,
    Amount,
    Basis,
    answering_hours,
    benchmark_hours,
    questions_of,
    training_hours,
    worst,
)
from safe_llava.cluster.estimates.footprint import GB, Footprint, footprint
from safe_llava.cluster.estimates.measured import Measured, read_measured
from safe_llava.config.prism import Judge
from safe_llava.config.schema import Config
from safe_llava.config.selection import needed
from safe_llava.core import cli
from safe_llava.core.errors import ConfigError, PrismError
from safe_llava.core.files import write_text
from safe_llava.core.rows import read_row
from safe_llava.data.planning.volume import PlanLine, known, lines_of
from safe_llava.formats.markup import EMPTY, markdown_grid
from safe_llava.formats.prism import Answer, Attribute, Task
from safe_llava.formats.tables import write_table
from safe_llava.judges.calls import Call
from safe_llava.judges.cost import BATCH_SHARE, BYTES_PER_TOKEN, cost_of, estimated_usage
from safe_llava.prism.prompts.load import Prompts, load_prompts
from safe_llava.prism.prompts.protocol import make_call

UNKNOWN = "unknown"
SUM = "sum"


@dataclass(frozen=True)
class CostItem:
    """Something that costs: GPU hours, decimal gigabytes, US dollars for GPUs and for judges; None is unknown."""

    stage: str
    what: str
    gpu_hours: float | None
    disk_gb: float | None
    gpu_dollars: float | None
    judge_dollars: float | None
    basis: Basis
    how: str


COLUMNS: dict[str, Callable[[CostItem], float | None]] = {
    "GPU hours": lambda item: item.gpu_hours,
    "disk, GB": lambda item: item.disk_gb,
    "GPUs, $": lambda item: item.gpu_dollars,
    "judges, $": lambda item: item.judge_dollars,
}


def planned(config: Config, measured: Measured, lines: Sequence[PlanLine]) -> list[CostItem]:
    """Return every item of a configuration.

    Args:
        lines: of the data plan, which know what is here already.
    """
    stages = (
        _data(config, lines),
        _training(config, measured),
        _prism(config, measured),
        _benchmarks(config, measured),
    )
    return [item for stage in stages for item in stage]


def _item(
    config: Config, stage: str, what: str, gpu: Amount = NOTHING, disk: Amount = NOTHING, judge: Amount = NOTHING
) -> CostItem:
    amounts, price = (gpu, disk, judge), config.costs.gpu_hour
    priced = gpu.value if gpu.value == 0 else None if gpu.value is None or price is None else gpu.value * price
    how = "; ".join(amount.how for amount in amounts if amount.how)
    return CostItem(stage, what, gpu.value, disk.value, priced, judge.value, worst(a.basis for a in amounts), how)


def _data(config: Config, lines: Sequence[PlanLine]) -> Iterator[CostItem]:
    written, unknown = known(lines, "to_write")
    how = f"{len(lines) - unknown} of {len(lines)} sets, fetched and unpacked, by pinned and reported sizes"
    yield _item(config, "data", "sets of known size", disk=Amount(written / GB, "estimated", how))
    for line in lines:
        if line.to_write is None:
            yield _item(config, "data", line.name, disk=Amount(None, "unknown", "its size is not pinned"))


def _training(config: Config, measured: Measured) -> Iterator[CostItem]:
    for name in config.train.select.models:
        for stage in ("pretrain", "finetune"):
            yield _item(config, "train", f"{name}, {stage}", training_hours(config, measured, name, stage))
        yield _item(config, "train", f"{name}, its files", disk=_files(footprint(config, measured, name)))


def _files(found: Footprint | None) -> Amount:
    if found is None:
        return Amount(None, "unknown", "the sizes of its parts are not noted")
    checkpoints = f"{found.count} checkpoints of {found.checkpoint / GB:.0f} GB while it is finetuned"
    memory = f"{found.staging / GB:.0f} GB of each machine's memory, from which they are written beside the steps"
    how = f"{found.model / GB:.0f} GB that stay, and {checkpoints} (and {memory})"
    return Amount((found.model + found.checkpoints) / GB, "estimated", how)


def _prism(config: Config, measured: Measured) -> Iterator[CostItem]:
    select, judges = config.prism.select, config.prism.judges
    for edition in select.editions:
        for name in select.models:
            amount = answering_hours(config, measured, name, edition)
            yield _item(config, "prism", f"{edition}: {name}", amount)
        for name in select.judges:
            if judges[name].kind != "rules":
                amount = judging_dollars(config, measured, judges[name], edition)
                yield _item(config, "prism", f"{edition}: judge {name}", judge=amount)


def _benchmarks(config: Config, measured: Measured) -> Iterator[CostItem]:
    select = config.benchmarks.select
    for name in select.models:
        amounts = [benchmark_hours(config, measured, name, task) for task in select.tasks]
        unknown = [task for task, amount in zip(select.tasks, amounts, strict=True) if amount.value is None]
        if len(unknown) < len(amounts):
            known_ones = [amount for amount in amounts if amount.value is not None]
            hours = sum(amount.value or 0.0 for amount in known_ones)
            total = Amount(hours, worst(amount.basis for amount in known_ones), known_ones[0].how)
            yield _item(config, "benchmarks", f"{name}, {len(known_ones)} benchmarks", total)
        if unknown:
            what = name if len(unknown) == len(amounts) else f"{name}, {', '.join(unknown)}"
            yield _item(config, "benchmarks", what, next(amount for amount in amounts if amount.value is None))
    for judge in sorted({config.benchmarks.judge_of(task) for task in select.tasks} - {None}, key=str):
        how = "the tokens of its calls were never counted"
        yield _item(config, "benchmarks", f"judge {judge}", judge=Amount(None, "unknown", how))


def judging_dollars(config: Config, measured: Measured, judge: Judge, edition: str) -> Amount:
    """Return what a judge takes for the answers of all selected models to an edition; equal calls count each time."""
    asked = measured.editions.get(edition)
    if asked is None:
        return Amount(None, "unknown", f"the number of questions of {edition} is unknown")
    try:
        prompts = load_prompts(judge.prompts, edition, judge.prompts_of, Path(config.data.root) / "eval/PRISM/judges")
    except PrismError:
        return Amount(None, "unknown", "its prompts are not fetched yet (`snakemake data`)")
    total, models = 0.0, len(config.prism.select.models)
    for task, questions in questions_of(asked).items():
        call = _typical_call(measured, judge, prompts, task)
        cost = cost_of(judge, call.model, estimated_usage(judge, call), judge.batch)
        if cost is None:
            return Amount(None, "unknown", f"no price of {call.model} (prism.judges)")
        total += models * questions * cost
    calls = models * sum(questions_of(asked).values())
    half = f", at {BATCH_SHARE:.0%} in batches" if judge.batch else ""
    return Amount(total, "estimated", f"{calls:,.0f} calls at most, a token for {BYTES_PER_TOKEN} bytes{half}")


def _typical_call(measured: Measured, judge: Judge, prompts: Prompts, task: Task) -> Call:
    tokens, attribute = getattr(measured.answer_tokens, task), next(iter(Attribute))
    answer = Answer(
        edition="v1",
        model="any",
        task=task,
        question_id=f"{attribute}/any",
        index=0,
        attribute=attribute,
        image="any",
        prompt="x" * round(measured.question_tokens * BYTES_PER_TOKEN),
        text="x" * round(tokens * BYTES_PER_TOKEN),
        status="ok",
    )
    return make_call(judge, task, prompts.text(answer))


def sums(items: Sequence[CostItem]) -> list[CostItem]:
    """Return a line a stage and one for all: what is known, and how many items are unknown beside it."""
    stages = list(dict.fromkeys(item.stage for item in items))
    groups = [(stage, [item for item in items if item.stage == stage]) for stage in stages]
    return [_sum(name, group) for name, group in [*groups, ("all", list(items))]]


def _sum(stage: str, items: Sequence[CostItem]) -> CostItem:
    found = {name: [column(item) for item in items] for name, column in COLUMNS.items()}
    unknown = [f"{name} of {values.count(None)}" for name, values in found.items() if None in values]
    how = f"of {len(items)} items" + (f"; not in it, as unknown: {'; '.join(unknown)}" if unknown else "")
    gpu_hours, disk_gb, gpu_dollars, judge_dollars = map(_total, found.values())
    return CostItem(
        stage, SUM, gpu_hours, disk_gb, gpu_dollars, judge_dollars, worst(item.basis for item in items), how
    )


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of what is known; None where that is nothing, and not all."""
    here = [value for value in values if value is not None]
    return sum(here) if any(here) or len(here) == len(values) else None


def page_of(items: Sequence[CostItem], config: Config, measured: Measured) -> str:
    """Return the page, in Markdown that reads well raw: what is known, the sums, how, and what is unknown."""
    price = config.costs.gpu_hour
    shown = {name: column for name, column in COLUMNS.items() if price is not None or name != "GPUs, $"}
    there = [item for item in items if item.basis != "unknown"]
    hows = {how: number for number, how in enumerate(dict.fromkeys(item.how for item in there), start=1)}
    head = ["stage", "what", *shown, "basis", "note"]
    body = [[i.stage, i.what, *_cells(i, shown), i.basis, f"{hows[i.how]}"] for i in there]
    body += [[i.stage, i.what, *_cells(i, shown), "", ""] for i in sums(items)]
    money = f", and ${price:g} for an hour of a GPU" if price is not None else "; `costs.gpu_hour` has GPUs counted too"
    parts = [
        "# What this run will cost",
        markdown_grid([head, *body], text_columns=2),
        "\n".join(f"{number}. {how or 'no GPU is used'}" for how, number in hows.items()),
        *_unknown(items),
        f"GPU hours are those of an {measured.device}; nothing was measured on another GPU (docs/costs.md). Answers "
        "and tables take megabytes, which are not counted. "
        f"Dollars are what judges behind an API take{money}.",
    ]
    return "\n\n".join(parts) + "\n"


def _unknown(items: Sequence[CostItem]) -> Iterator[str]:
    unknown: dict[tuple[str, str], list[str]] = {}
    for item in items:
        if item.basis == "unknown":
            unknown.setdefault((item.stage, item.how), []).append(item.what)
    if unknown:
        yield "Unknown, and in no sum:"
        yield "\n".join(f"- {stage}, {how}: {', '.join(whats)}" for (stage, how), whats in unknown.items())


def _cells(item: CostItem, columns: dict[str, Callable[[CostItem], float | None]]) -> list[str]:
    values = [column(item) for column in columns.values()]
    return [UNKNOWN if value is None else EMPTY if value == 0 else f"{value:,.2f}" for value in values]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the page and write it, and its lines as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the whole configuration, as JSON")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--page", type=Path, required=True, metavar="FILE.md")
    options = parser.parse_args(argv)
    config, measured = read_row(options.config, Config, ConfigError), read_measured()
    items = planned(config, measured, lines_of(config.data, needed(config)))
    page = page_of(items, config, measured)
    write_table(options.table, CostItem, [*items, *sums(items)])
    write_text(options.page, page)
    sys.stdout.write(page)


if __name__ == "__main__":
    cli.run(main)
