"""The files of published counts, as rows of a scores file with intervals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pydantic import FiniteFloat

from safe_llava.core.errors import PrismError
from safe_llava.core.statistics import wilson_interval
from safe_llava.formats.prism import HAIR, Attribute, Task
from safe_llava.formats.scores import MACRO, SENTENCE, WILSON, WILSON_IMAGES, Score
from safe_llava.formats.tables import Count, Text, read_table
from safe_llava.prism.scoring.rates import digits_of, percent

PUBLISHED_AGGREGATES = {"OVERALL": MACRO, "MACRO_AVG": MACRO, "SENTENCE_LEVEL": SENTENCE}
DESCRIPTIONS = 3  # of each photo, in both editions


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
