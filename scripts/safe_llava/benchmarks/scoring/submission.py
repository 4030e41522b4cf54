"""The file that a benchmark's server scores: checked against the server's format before it is kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import write_text

TYPES = {"integer": int, "string": str}
PARTIAL = ".partial.json"  # of a file that may lack questions: nobody is to hand it in
FOLDER = "submissions"  # of lmms-eval, under its output folder


def keep_submission(out: Path, task: BenchmarkTask, target: Path, questions: int) -> int:
    """Check the file that lmms-eval wrote, keep it, and return how many entries it has.

    Args:
        out: lmms-eval's output folder.
        task: the benchmark's row.
        target: where the file goes.
        questions: how many were asked; the server wants an entry for each.

    Raises:
        BenchmarkError: there is not one file, or it is not as the server wants it.
    """
    files = sorted((out / FOLDER).glob("*.json"))
    if len(files) != 1:
        raise BenchmarkError(
            f"{task.lmms_task} wrote {len(files)} files for its server", "choose an lmms_task that writes one"
        )
    try:
        entries = json.loads(files[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(
            f"{task.lmms_task}: its file for the server is not JSON: {error}", "look at the task"
        ) from error
    check_entries(entries, task, questions)
    _other(target).unlink(missing_ok=True)  # of another run: whole, or a part
    write_text(target, json.dumps(entries, ensure_ascii=False) + "\n")
    return len(entries)


def _other(target: Path) -> Path:
    """Return where the file of a run lies that asked a part of the questions, or of one that asked them all."""
    whole = target.name.removesuffix(PARTIAL)
    if whole != target.name:
        return target.with_name(f"{whole}.json")
    return target.with_name(f"{target.stem}{PARTIAL}")


def check_entries(entries: Any, task: BenchmarkTask, questions: int) -> None:
    """Check a submission: a list with one entry for each question, each with the fields of the row and no others.

    Raises:
        BenchmarkError: naming the entry.
    """
    remedy = "correct `submission_fields` in the benchmark's row, or choose another lmms_task"
    if not isinstance(entries, list) or len(entries) != questions:
        count = len(entries) if isinstance(entries, list) else "no list of"
        raise BenchmarkError(f"{task.lmms_task}: {count} entries for {questions} questions", remedy)
    fields = task.submission_fields
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or entry.keys() != fields.keys():
            raise BenchmarkError(f"{task.lmms_task}: entry {number} does not hold exactly {', '.join(fields)}", remedy)
        for name, kind in fields.items():
            if not isinstance(entry[name], TYPES[kind]) or isinstance(entry[name], bool):
                raise BenchmarkError(f"{task.lmms_task}: entry {number}: {name} is no {kind}: {entry[name]!r}", remedy)
    key = next(iter(fields))
    twice = [value for value, count in Counter(entry[key] for entry in entries).items() if count > 1]
    if twice:
        raise BenchmarkError(f"{task.lmms_task}: {key} {twice[0]!r} comes more than once", remedy)
