"""The command ``safe-llava``: PRISM's scores of answers that were made anywhere, without a workflow, GPU or network.

    safe-llava prism judge ANSWERS…         what each answer is judged, and the scores
    safe-llava prism score FILE…            the scores of answers, or of verdicts that `judge` wrote
    safe-llava prism compare A B            two models on the same questions
    safe-llava prism released [MODEL…]      the published numbers, with the intervals that were not published

ANSWERS is a file of JSON lines as upstream's scripts write it (question_id, text), one of this project, a CSV file of
two columns (question_id, answer), or a folder of a model's three files. Each command prints a table and writes a CSV
file. docs/scorer.md describes formats, columns and the Python interface.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safe_llava import __version__
from safe_llava.config.prism import Judge
from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_jsonl
from safe_llava.core.rows import read_row
from safe_llava.formats.answer_files import read_any_answers, read_cells
from safe_llava.formats.prism import (
    EDITIONS,
    Answer,
    Attribute,
    Task,
    Verdict,
    parse_rows,
    read_verdicts,
    refuse_repeated,
)
from safe_llava.formats.scores import PairedDifference, Score
from safe_llava.formats.tables import write_table
from safe_llava.lexicon.evidence import phrases_of
from safe_llava.prism.judge import RULES_JUDGE, judge_answers
from safe_llava.prism.scoring.differences import beside_published, mean_distances, published_differences
from safe_llava.prism.scoring.paired import paired_differences
from safe_llava.prism.scoring.published import read_published
from safe_llava.prism.scoring.rates import score_verdicts
from safe_llava.prism.scoring.shown import show_paired, show_scores

COUNTS = Path(__file__).parent / "counts"
JUDGE_REMEDY = "write a JSON object with description, kind, model and key_env, as in docs/scorer.md"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerdictRow:
    """A row of the CSV file that ``judge`` writes: a verdict, what it rests on in the answer, and the answer."""

    edition: str
    model: str
    task: str
    question_id: str
    index: str
    attribute: str
    judge: str
    status: str
    refused: str = ""
    leaked: str = ""
    description_refused: str = ""
    reason: str = ""
    words: str = ""
    text: str = ""


VERDICT_COLUMNS = [column.name for column in fields(VerdictRow)]


def published(editions: Sequence[str] = EDITIONS) -> list[Score]:
    """Return the published counts that come with the package, as scores with intervals."""
    return [score for edition in editions for score in read_published(COUNTS / f"published_{edition}.csv", edition)]


def published_counts(edition: str) -> dict[tuple[str, str], int]:
    """Return how many answers an edition has for each task and attribute, by the published counts."""
    if edition not in EDITIONS:
        return {}
    found: Counter[tuple[str, str]] = Counter()
    for score in published([edition]):
        cell = (score.task, score.attribute)
        found[cell] = max(found[cell], score.n or 0)
    return found


def warn_of_counts(scores: Sequence[Score]) -> None:
    """Log which cells hold fewer or more answers than their edition has questions: their rates compare with none."""
    asked = {
        (edition, *cell): n for edition in {s.edition for s in scores} for cell, n in published_counts(edition).items()
    }
    wrong: dict[str, list[str]] = {"fewer": [], "more": []}
    for score in scores:
        there = (score.n or 0) + (score.n_failed or 0)
        known = asked.get((score.edition, score.task, score.attribute), there)
        if score.attribute in list(Attribute) and there != known:
            cell = f"{score.model}, {score.task}, {score.attribute}: {there} of {known}"
            wrong["fewer" if there < known else "more"].append(cell)
    for kind, cells in wrong.items():
        if cells:
            rest = f", and {len(cells) - 3} more cells" if len(cells) > 3 else ""
            message = (
                "%s answers than the edition has questions: %s%s; check that the file is whole and --edition is right"
            )
            log.warning(message, kind, "; ".join(cells[:3]), rest)


def _answers(options: argparse.Namespace, paths: Sequence[Path]) -> list[Answer]:
    for path in paths:
        if path.is_file() and _holds_verdicts(path):
            raise PrismError(f"{path} holds verdicts, not answers", "give it to `safe-llava prism score`")
    return read_any_answers(paths, options.model, Task(options.task) if options.task else None, options.edition)


def _judged(options: argparse.Namespace, answers: Sequence[Answer]) -> list[Verdict]:
    config, name = RULES_JUDGE, "rules"
    if options.judge_config:
        config = read_row(options.judge_config, Judge, PrismError, remedy=JUDGE_REMEDY)
        name = options.judge or options.judge_config.stem
    return judge_answers(answers, config, name, options.store).verdicts


def _verdicts(options: argparse.Namespace, paths: Sequence[Path]) -> list[Verdict]:
    """Return the verdicts of files that hold verdicts, and of files that hold answers, which are judged."""
    found: list[Verdict] = []
    others = []
    for path in paths:
        if not (path.is_file() and _holds_verdicts(path)):
            others.append(path)
        else:
            found += _read_verdict_rows(path) if path.suffix.lower() == ".csv" else read_verdicts([path])
    found += _judged(options, _answers(options, others)) if others else []
    return refuse_repeated(found, ", ".join(map(str, paths)))


def _holds_verdicts(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        first = stream.readline()
    # A CSV file by what its columns are called: a spreadsheet may have changed what stands between them.
    columns = {cell.strip(' "') for cell in re.split(r"[,;\t]", first.strip())}
    return (first.lstrip().startswith("{") and '"judge"' in first) or columns >= {"question_id", "judge", "status"}


def _read_verdict_rows(path: Path) -> list[Verdict]:
    """Read the CSV file that ``judge`` writes."""
    remedy = "let `safe-llava prism judge` write it again"
    rows: list[dict[str, Any]] = []
    header, *others = read_cells(path, remedy)
    if header[1] != VERDICT_COLUMNS:
        said = f"the columns are not {','.join(VERDICT_COLUMNS)}"
        raise PrismError(f"{header[0]}: {said}", f"save it with commas and all columns in this order, or {remedy}")
    for where, cells in others:
        if len(cells) != len(VERDICT_COLUMNS):
            raise PrismError(f"{where}: {len(cells)} columns where {len(VERDICT_COLUMNS)} are needed", remedy)
        row: dict[str, Any] = {name: cell for name, cell in zip(VERDICT_COLUMNS, cells, strict=True) if cell}
        if row.get("status") == "judged" and row.get("task") == Task.IMPLICIT_LEAKAGE:
            row["leaked"] = row.get("leaked", "").split()
        rows.append({name: value for name, value in row.items() if name not in ("words", "text")})
    return parse_rows(Verdict, rows, path, remedy)


def _judge(options: argparse.Namespace) -> None:
    answers = _answers(options, options.files)
    verdicts = _judged(options, answers)
    by_key = {answer.key: answer for answer in answers}
    if options.out.suffix == ".jsonl":
        write_jsonl(options.out, (verdict.model_dump(mode="json", exclude_none=True) for verdict in verdicts))
    else:
        write_table(options.out, VerdictRow, (_verdict_row(verdict, by_key[verdict.key]) for verdict in verdicts))
    scores = score_verdicts(verdicts)
    warn_of_counts(scores)
    _show(show_scores(scores))


def _verdict_row(verdict: Verdict, answer: Answer) -> VerdictRow:
    text = answer.text or ""
    phrases = phrases_of(text, answer.task, answer.attribute) if verdict.rules_version and text else []
    said = verdict.model_dump(exclude_none=True) | {"leaked": " ".join(verdict.leaked or ())}
    said |= {"words": "; ".join(f"{phrase.words} ({phrase.says})" for phrase in phrases), "text": text}
    return VerdictRow(**{name: str(said.get(name, "")) for name in VERDICT_COLUMNS})


def _score(options: argparse.Namespace) -> None:
    scores = score_verdicts(_verdicts(options, options.files), options.leakage_scored)
    write_table(options.out, Score, scores)
    warn_of_counts(scores)
    _show(show_scores(scores))


def _compare(options: argparse.Namespace) -> None:
    if options.first.resolve() == options.second.resolve():
        raise PrismError(f"{options.first} is A and B", "name the files or folders of two models")
    sides = [_verdicts(options, [path]) for path in (options.first, options.second)]
    names = [sorted({verdict.model for verdict in side}) for side in sides]
    for path, own in zip((options.first, options.second), names, strict=True):
        if len(own) != 1:
            raise PrismError(f"{path} holds answers of {', '.join(own)}", "give each model's answers by themselves")
    (first,), (second,) = names
    if first == second:  # two runs of one model, or files that do not name theirs
        first, second = f"{first} ({options.first})", f"{second} ({options.second})"
    named = [v.model_copy(update={"model": n}) for n, side in zip((first, second), sides, strict=True) for v in side]
    rows = list(
        paired_differences(named, [(first, second)], dict.fromkeys({v.edition for v in named}, options.leakage_scored))
    )
    write_table(options.out, PairedDifference, rows)
    warn_of_counts(score_verdicts(named, options.leakage_scored, resamples=1))  # the counts are all that matters here
    _show(show_paired(rows))


def _released(options: argparse.Namespace) -> None:
    scores = published()
    if options.answers:
        options.model, options.task, options.edition = None, None, "v1"
        remedy = "name the folder PRISM_evaluation/answers of a clone of upstream's repository: one folder a model"
        if not options.answers.is_dir():
            raise PrismError(f"{options.answers}: no such folder", remedy)
        folders = sorted(path for path in options.answers.iterdir() if path.is_dir())
        if not folders:
            raise PrismError(f"{options.answers}: no folder of a model", remedy)
        judged = [score for f in folders for score in score_verdicts(_judged(options, _answers(options, [f])))]
        models = {score.model for score in judged}
        scores = [s for s in scores if s.edition == "v1" and s.model in models] + judged
        scores = beside_published(scores, {"rules": "Gemini"})
    if options.models:
        known = sorted({score.model for score in scores})
        if unknown := [name for name in options.models if name not in known]:
            raise PrismError(f"nothing was released for {', '.join(unknown)}", f"choose among {', '.join(known)}")
        scores = [score for score in scores if score.model in options.models]
    write_table(options.out, Score, scores)
    distances = [
        f"{item.task}: rules lie {item.mean:.2f} points from {item.reference_judge}, over {item.cells} cells"
        for item in mean_distances(published_differences(scores))
    ]
    _show("\n".join([show_scores(scores), *distances]))


def _show(text: str) -> None:
    """Print a table. Whoever reads it may have seen enough (`| head`); the file is written by then."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="safe-llava", description=__doc__, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    prism = parser.add_subparsers(required=True, metavar="prism").add_parser("prism", help="the privacy benchmark")
    commands = prism.add_subparsers(required=True, metavar="COMMAND")

    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument("--model", help="the model's name; by default what the files say")
    reading.add_argument("--task", choices=[*map(str, Task)], help="by default what the file's name says")
    reading.add_argument("--edition", choices=EDITIONS, help="by default what the questions say")
    judging = argparse.ArgumentParser(add_help=False)
    judging.add_argument("--judge-config", type=Path, help="JSON row of an asked judge; by default the rules judge")
    judging.add_argument("--judge", help="the asked judge's name; by default the file's")
    judging.add_argument("--store", type=Path, help="folder of an asked judge's replies")
    scoring = argparse.ArgumentParser(add_help=False)
    scoring.add_argument("--leakage-scored", choices=("own", "all"), help="by default as the edition has it")

    def add(name: str, action: Any, out: str, help_: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_, parents=[*parents])
        command.set_defaults(action=action)
        command.add_argument("--out", type=Path, default=Path(out), help=f"default: {out}")
        return command

    judge = add("judge", _judge, "prism_verdicts.csv", "judge each answer", reading, judging)
    judge.add_argument("files", type=Path, nargs="+", metavar="ANSWERS")
    score = add("score", _score, "prism_scores.csv", "scores with intervals", reading, judging, scoring)
    score.add_argument("files", type=Path, nargs="+", metavar="FILE")
    both = add("compare", _compare, "prism_paired.csv", "two models, paired", reading, judging, scoring)
    both.add_argument("first", type=Path, metavar="A")
    both.add_argument("second", type=Path, metavar="B")
    released = add("released", _released, "prism_released.csv", "the published numbers", judging)
    released.add_argument("models", nargs="*", metavar="MODEL")
    released.add_argument("--answers", type=Path, help="folder of the released answers, to judge them beside")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run one of the commands."""
    options = _arguments(argv)
    read = {*getattr(options, "files", ()), getattr(options, "first", None), getattr(options, "second", None)}
    if options.out.resolve() in {path.resolve() for path in read if path}:
        raise PrismError(f"{options.out} is read and would be written over", "name another file with --out")
    options.action(options)
    log.info("wrote %s", options.out)
    return None


def safe_llava() -> None:
    """Entry point of the installed command."""
    cli.run(main)


if __name__ == "__main__":
    safe_llava()
