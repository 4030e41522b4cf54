"""Draw released answers at random for labelling by hand: 60 soft, 60 hard, 80 descriptions, over the models.

The committed labels (config/hand_labels.csv) were drawn with the default seed, 20261120::

    python -m safe_llava.prism.sample --answers-dir PRISM_evaluation/answers --out sample.csv --sheet sample.txt

The CSV names the answers and leaves ``label`` empty; the sheet (never committed) shows the texts to read.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_text
from safe_llava.formats.answer_files import read_released
from safe_llava.formats.prism import Task, numbered
from safe_llava.formats.tables import write_table
from safe_llava.prism.scoring.labels import LabelRow

SEED = 20261120
SIZES = {Task.REFUSAL_SOFT: 60, Task.REFUSAL_HARD: 60, Task.IMPLICIT_LEAKAGE: 80}
Drawn = TypeVar("Drawn")
log = logging.getLogger(__name__)


def even_shares(available: Mapping[str, int], size: int) -> dict[str, int]:
    """Split ``size`` evenly over the models, as far as each has answers; earlier names get the remainder."""
    taken = dict.fromkeys(sorted(available), 0)
    while sum(taken.values()) < size:
        open_models = [model for model in taken if taken[model] < available[model]]
        if not open_models:
            raise PrismError(f"only {sum(available.values())} answers, {size} wanted", "give more answer files")
        for model in open_models[: size - sum(taken.values())]:
            taken[model] += 1
    return taken


def draw_sample(answers: Mapping[Task, Mapping[str, Sequence[Drawn]]], seed: int) -> list[Drawn]:
    """Return a sample of answers, given by task and model; the same answers and seed always give the same sample."""
    generator = random.Random(seed)
    drawn: list[Drawn] = []
    for task, size in SIZES.items():
        by_model = answers[task]
        for model, count in even_shares({name: len(rows) for name, rows in by_model.items()}, size).items():
            picked = sorted(generator.sample(range(len(by_model[model])), count))
            drawn += [by_model[model][place] for place in picked]
    return drawn


def read_answer_files(folder: Path) -> dict[Task, dict[str, list[tuple[LabelRow, str]]]]:
    """Read ``<folder>/<model>/<task>_Answer.jsonl``: by task and model, the row of each answer and its text."""
    found: dict[Task, dict[str, list[tuple[LabelRow, str]]]] = {}
    for task in SIZES:
        found[task] = {}
        for path in sorted(folder.glob(f"*/{task}_Answer.jsonl")):
            rows, model = read_released(path), path.parent.name
            found[task][model] = [
                (LabelRow(model, task, row.question_id, index, row.answer_id, ""), row.text)
                for row, index in zip(rows, numbered(row.question_id for row in rows), strict=True)
            ]
        if not found[task]:
            raise PrismError(f"{folder}: no */{task}_Answer.jsonl", "give the folder of the released answers")
    return found


def main(argv: Sequence[str] | None = None) -> int | None:
    """Draw the sample and write the empty label table and the reading sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers-dir", type=Path, required=True, help="folder with one folder a model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, required=True, help="CSV of the drawn answers, labels empty")
    parser.add_argument("--sheet", type=Path, help="text file with the answers to read")
    options = parser.parse_args(argv)
    drawn = draw_sample(read_answer_files(options.answers_dir), options.seed)
    write_table(options.out, LabelRow, [row for row, _ in drawn])
    if options.sheet:
        lines = [
            f"[{number}] {row.model} {row.task} {row.question_id} #{row.index}\n{text}\n"
            for number, (row, text) in enumerate(drawn)
        ]
        write_text(options.sheet, "\n".join(lines))
    log.info("seed %d: %d answers drawn into %s", options.seed, len(drawn), options.out)
    return None


if __name__ == "__main__":
    cli.run(main)
