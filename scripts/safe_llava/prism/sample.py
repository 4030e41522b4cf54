"""Draw released answers at random for labelling by hand: 60 soft, 60 hard, 80 descriptions, over the models.

The committed labels (config/hand_labels.csv) were drawn with the default seed, 20261120::

    python -m safe_llava.prism.sample --answers-dir PRISM_evaluation/answers --out sample.csv --sheet sample.txt

The CSV names the answers and leaves ``label`` empty; the sheet (never committed) shows the texts to read.
"""

from __future__ import annotations

import argparse
import csv
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import atomic_path, read_jsonl, write_text

SEED = 20261120
SIZES = {"refusal_soft": 60, "refusal_hard": 60, "implicit_leakage": 80}
COLUMNS = ("model", "task", "question_id", "index", "answer_id", "label")
log = logging.getLogger(__name__)


def shares(available: Mapping[str, int], size: int) -> dict[str, int]:
    """Split ``size`` evenly over the models, as far as each has answers; earlier names get the remainder."""
    taken = dict.fromkeys(sorted(available), 0)
    while sum(taken.values()) < size:
        open_models = [model for model in taken if taken[model] < available[model]]
        if not open_models:
            raise PrismError(f"only {sum(available.values())} answers, {size} wanted", "give more answer files")
        for model in open_models[: size - sum(taken.values())]:
            taken[model] += 1
    return taken


def draw(rows_by_task: Mapping[str, Mapping[str, Sequence[Any]]], seed: int) -> list[tuple[str, str, Any]]:
    """Return (model, task, row) of the sample; the same rows and seed always give the same sample."""
    generator = random.Random(seed)
    drawn = []
    for task, size in SIZES.items():
        by_model = rows_by_task[task]
        for model, count in shares({name: len(rows) for name, rows in by_model.items()}, size).items():
            picked = sorted(generator.sample(range(len(by_model[model])), count))
            drawn += [(model, task, by_model[model][place]) for place in picked]
    return drawn


def read_released(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read ``<folder>/<model>/<task>_Answer.jsonl`` and number the rows of each question from 0 (``index``)."""
    tasks: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for task in SIZES:
        for path in sorted(folder.glob(f"*/{task}_Answer.jsonl")):
            seen: Counter[str] = Counter()
            rows = read_jsonl(path)
            for row in rows:
                row["index"] = seen[row["question_id"]]
                seen[row["question_id"]] += 1
            tasks[task][path.parent.name] = rows
        if not tasks[task]:
            raise PrismError(f"{folder}: no */{task}_Answer.jsonl", "give the folder of the released answers")
    return dict(tasks)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Draw the sample and write the empty label table and the reading sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers-dir", type=Path, required=True, help="folder with one folder a model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, required=True, help="CSV of the drawn answers, labels empty")
    parser.add_argument("--sheet", type=Path, help="text file with the answers to read")
    options = parser.parse_args(argv)
    drawn = draw(read_released(options.answers_dir), options.seed)
    with atomic_path(options.out) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for model, task, row in drawn:
            writer.writerow([model, task, row["question_id"], row["index"], row["answer_id"], ""])
    if options.sheet:
        lines = [
            f"[{number}] {model} {task} {row['question_id']} #{row['index']}\n{row['text']}\n"
            for number, (model, task, row) in enumerate(drawn)
        ]
        write_text(options.sheet, "\n".join(lines))
    log.info("seed %d: %d answers drawn into %s", options.seed, len(drawn), options.out)
    return None


if __name__ == "__main__":
    cli.run(main)
