"""The answers that LLaVA's authors released, scored by this project beside the published scores.

Run: ``python -m safe_llava.benchmarks.released --released ROWS.json --root DATA --fetched RECEIPT.json
--out FILE.csv``.

Needs no GPU, no key and no network. What was not fetched, or cannot be scored without labels, is a row that says so.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from safe_llava.benchmarks.scoring.released import ScoredAnswers, score_released
from safe_llava.benchmarks.table import ERRORS
from safe_llava.config.benchmarks import ReleasedAnswers, ReleasedBenchmarks
from safe_llava.core import cli
from safe_llava.core.errors import BenchmarkError
from safe_llava.core.files import read_json
from safe_llava.core.rows import read_row
from safe_llava.formats.benchmark_scores import NOT_COMPARABLE, NOTHING_PUBLISHED, ReleasedScore
from safe_llava.formats.tables import write_table

logger = logging.getLogger(__name__)
AS_PUBLISHED = "as published"  # to the digits that were published
NOT_SCORED = "not scored: "  # and why


def released_rows(row: ReleasedAnswers, root: Path, missing: Mapping[str, str]) -> Iterator[ReleasedScore]:
    """Yield the scores of one file of answers.

    Args:
        row: what the file is, and what was published about it.
        root: the data root.
        missing: why files could not be fetched, by their path.
    """
    base = ReleasedScore(
        model=row.model, benchmark=row.benchmark, run=row.run, answers=row.answers, note=row.note, verdict=""
    )
    if why := without_score(row, missing):
        for metric, published in row.published.items() or [("", None)]:
            yield replace(base, metric=metric, published=published, verdict=why)
        return
    for scored in score_released(row, root):
        for metric in dict.fromkeys([*row.published, *scored.units]):
            if metric not in scored.units:
                raise BenchmarkError(f"{row.answers}: no score `{metric}`", f"name some of {', '.join(scored.units)}")
            yield _with_score(replace(base, metric=metric, run=row.run or scored.run), row, scored)


def without_score(row: ReleasedAnswers, missing: Mapping[str, str]) -> str:
    """Return why answers have no score; empty where they have one."""
    if row.answers in missing:
        return f"{NOT_SCORED}{row.answers} was not fetched"
    if row.scored_as is None:
        return f"{NOT_SCORED}{row.note.rstrip('.')}"
    if row.questions in missing:
        return f"{NOT_SCORED}{row.questions} was not fetched"
    lacking = [path for path in row.labels if path in missing]
    # POPE's labels follow from its questions as well.
    return f"{NOT_SCORED}its labels ({', '.join(lacking)}) were not fetched" if lacking and not row.questions else ""


def _with_score(base: ReleasedScore, row: ReleasedAnswers, scored: ScoredAnswers) -> ReleasedScore:
    units, published = scored.units[base.metric], row.published.get(base.metric)
    found, stderr, interval = units.score(), units.stderr(), units.interval()
    said = released_verdict(found, stderr, published, row.questions_published.get(base.metric), len(units.names))
    if published is not None and scored.n_failed:
        said = f"{NOT_COMPARABLE}{scored.n_failed:,} questions have no answer"
    compared = published is not None and not said.startswith(NOT_COMPARABLE)
    low, high = interval or (None, None)
    return replace(
        base,
        score=found,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        n=len(units.names),
        n_failed=scored.n_failed,
        published=published,
        difference=found - published if compared and published is not None else None,
        verdict=said,
    )


def released_verdict(found: float, stderr: float | None, published: float | None, of: int | None, n: int) -> str:
    """Return what a score of released answers says about the one that was published for them.

    Args:
        found: the score.
        stderr: its standard error; None: not known.
        published: the published score; None: there is none.
        of: the questions that the published score is of; None: these.
        n: the questions that this score is of.
    """
    if published is None:
        return NOTHING_PUBLISHED
    if of is not None and of != n:
        return f"{NOT_COMPARABLE}the published score is of {of:,} questions, this one of {n:,}"
    exponent = Decimal(str(published)).as_tuple().exponent
    assert isinstance(exponent, int)
    if abs(found - published) <= 0.5 * 10.0**exponent + 1e-9:
        return AS_PUBLISHED
    if stderr is not None and abs(found - published) <= ERRORS * stderr:
        return "within two standard errors"
    return "outside"


def main(argv: Sequence[str] | None = None) -> None:
    """Score the released answers and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_llava.benchmarks.released", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--released", type=Path, required=True, help="JSON of benchmarks.released")
    parser.add_argument("--root", type=Path, required=True, help="the data root")
    parser.add_argument("--fetched", type=Path, required=True, help="receipt of safe_llava.data.fetch_set")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV")
    args = parser.parse_args(argv)
    released = read_row(args.released, ReleasedBenchmarks, BenchmarkError)
    missing: dict[str, str] = read_json(args.fetched)["missing"]
    rows = [found for row in released.answers for found in released_rows(row, args.root, missing)]
    for row in rows:
        if row.score is None:
            logger.warning("%s of %s: %s", row.benchmark, row.model, row.verdict)
    logger.info("%s: %d scores", args.out, write_table(args.out, ReleasedScore, rows))


if __name__ == "__main__":
    cli.run(main)
