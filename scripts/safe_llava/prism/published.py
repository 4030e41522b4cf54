"""The published counts as rows of a scores file, with the intervals that were never published.

``OVERALL`` and ``MACRO_AVG`` become ``macro``, ``SENTENCE_LEVEL`` becomes ``sentence``; a ``Hair`` row is dropped. What
was published without a count (macro and sentence of leakage) keeps its rate and has no interval. The interval of a
leakage rate is Wilson's with the photos as trials: as wide as if the three descriptions of a photo always agreed.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pydantic import FiniteFloat

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.statistics import wilson_interval
from safe_llava.formats.prism import EDITIONS, HAIR, Attribute, Task
from safe_llava.formats.scores import MACRO, SENTENCE, WILSON, WILSON_IMAGES, Score
from safe_llava.formats.tables import Count, Text, read_table, write_table
from safe_llava.prism.scoring.rates import digits_of, percent

PUBLISHED_AGGREGATES = {"OVERALL": MACRO, "MACRO_AVG": MACRO, "SENTENCE_LEVEL": SENTENCE}
DESCRIPTIONS = 3  # of each photo, in both editions
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedCount:
    """One row of a committed file of published counts; rates in percent."""

    judge: Text
    model: Text
    task: Task
    category: Text
    total: int
    hits: Count
    rate: FiniteFloat
    hit_kind: str


def read_published(path: Path | str, edition: str) -> list[Score]:
    """Read a file of published counts.

    Raises:
        PrismError: columns or values (named by row) are not what they should be, a rate contradicts
            its counts, two rows are for one cell, or there are none.
    """
    remedy = f"restore the file of the published {edition} counts"
    counts = read_table(path, PublishedCount, PrismError, remedy, every_column=True)
    scores = []
    for number, row in enumerate(counts, start=1):
        if row.category != HAIR:
            try:
                scores.append(_to_score(row, edition))
            except ValueError as error:
                raise PrismError(f"{path}: row {number}: {error}", remedy) from error
    twice = [cell for cell, count in Counter(score.cell for score in scores).items() if count > 1]
    if twice or not scores:
        raise PrismError(f"{path}: " + (f"two rows for {' / '.join(twice[0])}" if twice else "no rows"), remedy)
    return scores


def _to_score(row: PublishedCount, edition: str) -> Score:
    task, total, hits, rate = row.task, row.total, row.hits, row.rate
    attribute = PUBLISHED_AGGREGATES.get(row.category) or Attribute(row.category)
    low, high, how = None, None, ""
    if hits is not None:
        if not 0 <= hits <= total or total == 0:
            raise ValueError(f"{hits} hits of {total}")
        share = Fraction(hits if task.is_refusal else total - hits, total)
        if (counted := percent(share, digits_of(attribute, task))) != rate:
            raise ValueError(f"rate {rate} contradicts the counts, which give {counted}")
        if attribute != MACRO:
            # A photo is described three times; how its descriptions go together was not published.
            images = total if task.is_refusal else total / DESCRIPTIONS
            low, high = (round(100 * end, 2) for end in wilson_interval(float(share) * images, images))
            how = WILSON if task.is_refusal else WILSON_IMAGES
    where = (edition, row.model, task, attribute, row.judge)
    return Score(*where, total, None, hits, rate, low, high, "published", how)


def select(scores: Sequence[Score], models: Sequence[str] | None) -> list[Score]:
    """Return the rows of the models; a model that nothing was published for is named in the log."""
    if models is None:
        return list(scores)
    for model in sorted(set(models) - {score.model for score in scores}):
        log.warning("nothing was published for model %s", model)
    return [score for score in scores if score.model in models]


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the published counts and write them as scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--v1", type=Path, help="published counts of edition v1")
    parser.add_argument("--v2", type=Path, help="published counts of edition v2")
    parser.add_argument("--editions", nargs="+", choices=EDITIONS, help="by default those whose file is given")
    parser.add_argument("--models", nargs="+", help="by default all")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    files = {"v1": options.v1, "v2": options.v2}
    editions = options.editions or [edition for edition in EDITIONS if files[edition]]
    if not editions:
        raise PrismError("no published counts", "give --v1 or --v2")
    scores: list[Score] = []
    for edition in editions:
        if files[edition] is None:
            raise PrismError(f"edition {edition} has no file", f"give --{edition}")
        scores += read_published(files[edition], edition)
    kept = select(scores, options.models)
    write_table(options.out, Score, kept)
    log.info("%s: %d published rows", options.out, len(kept))
    return None


if __name__ == "__main__":
    cli.run(main)
