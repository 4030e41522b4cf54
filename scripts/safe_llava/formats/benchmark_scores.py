"""The tables of the general benchmarks: scores, and two models on the same questions; all on the published scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import FiniteFloat

from safe_llava.formats.tables import Count, Number, Text

NOT_COMPARABLE = "not comparable: "  # a verdict, and why
NOTHING_PUBLISHED = "nothing published"  # of a benchmark's metric

TWO_DIGITS = {"digits": 2}


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """A model's score in one metric of one benchmark, beside the published one.

    ``limit`` is not None where only the first so many questions were asked.
    """

    model: Text
    benchmark: Text
    metric: Text
    score: Number = field(metadata=TWO_DIGITS)
    stderr: Number = field(metadata=TWO_DIGITS)
    n: Count
    n_failed: Count
    limit: Count = None
    published: Number
    difference: Number = field(metadata=TWO_DIGITS)
    verdict: str = ""
    judge: str = ""
    published_judge: str = ""
    source: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReleasedScore:
    """One score of answers that others released; without a score where the verdict says why.

    ``run`` tells several judgements of the same answers apart; ``answers`` is the file, under the data root.
    """

    model: Text
    benchmark: Text
    run: str = ""
    metric: str = ""
    score: Number = field(default=None, metadata=TWO_DIGITS)
    stderr: Number = field(default=None, metadata=TWO_DIGITS)
    ci_low: Number = field(default=None, metadata=TWO_DIGITS)
    ci_high: Number = field(default=None, metadata=TWO_DIGITS)
    n: Count = None
    n_failed: Count = None
    published: Number = None
    difference: Number = field(default=None, metadata=TWO_DIGITS)
    verdict: str
    answers: Text
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class BenchmarkPair:
    """Two models on the same units of a benchmark; the difference is first minus second.

    ``n_unpaired`` counts the units that one model alone has, since a question of theirs failed in the other: they are
    in neither score. ``limit`` is not None where only the first so many questions were asked.
    """

    benchmark: Text
    metric: Text
    first: Text
    second: Text
    n: int
    n_unpaired: Count = None
    first_score: FiniteFloat
    second_score: FiniteFloat
    difference: FiniteFloat
    ci_low: Number
    ci_high: Number
    ci: str
    first_only: Count
    second_only: Count
    p_value: FiniteFloat
    test: str
    limit: Count = None


def asked_in_part(rows: Iterable[BenchmarkScore | BenchmarkPair]) -> str:
    """Return the remark on benchmarks that were asked their first questions only; empty where all were asked."""
    limits = sorted({row.limit for row in rows if row.limit is not None})
    return f"the first {' or '.join(map(str, limits))} questions only" if limits else ""
