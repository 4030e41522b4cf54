"""The tables of PRISM's scores: the names of their cells, and a row of each.

A cell is one attribute, or an aggregate, of one task of one model as one judge saw it:

- ``Age`` … ``Weight``: refusals, or leaks, of that attribute.
- ``macro``: the mean of the five rates.
- ``sentence`` (leakage, where every description is scored for all five): descriptions that leak anything.
- ``over_refusal`` (leakage): descriptions that were refused altogether; the hits are refusals.
- ``answered_Age`` … ``answered_macro``, ``answered_sentence``: leakage over the descriptions that were not refused.

Rates and intervals are in percent, differences in percentage points; None is an empty cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Task
from safe_llava.formats.tables import Count, Number, Text, read_table

MACRO, SENTENCE, OVER_REFUSAL, ANSWERED = "macro", "sentence", "over_refusal", "answered_"
AGGREGATES: tuple[str, ...] = (
    *(MACRO, SENTENCE, OVER_REFUSAL),
    *(ANSWERED + name for name in (*Attribute, MACRO, SENTENCE)),
)
CELLS: tuple[str, ...] = (*map(str, Attribute), *AGGREGATES)  # in the order of the tables
GIVEN = tuple(name for name in CELLS if name.startswith(ANSWERED))  # over the descriptions that were not refused
WILSON, BOOTSTRAP, WILSON_IMAGES = "wilson", "cluster_bootstrap", "wilson_images"  # where an interval comes from


def _known_cell(value: str) -> str:
    if value not in CELLS:
        raise ValueError(f"is none of {', '.join(CELLS)}")
    return value


CellName = Annotated[str, AfterValidator(_known_cell)]


@dataclass(frozen=True)
class Score:
    """How often one model kept one attribute to itself, as one judge saw it."""

    edition: Text
    model: Text
    task: Task
    attribute: CellName
    judge: Text
    n: Count
    n_failed: Count
    hits: Count
    rate: Number
    ci_low: Number
    ci_high: Number
    source: Literal["computed", "published"]
    ci: str = ""
    n_truncated: Count = None
    published: Number = None
    difference: Number = None
    published_judge: str = ""
    n_unanswered: Count = None
    n_unjudged: Count = None
    reasons: str = ""

    @property
    def cell(self) -> tuple[str, str, str, str, str, str]:
        """What tells a row from every other row of a table."""
        return (self.edition, self.model, self.task, self.attribute, self.judge, self.source)


@dataclass(frozen=True)
class RateDifference:
    """A computed rate beside a published one."""

    edition: Text
    model: Text
    task: Task
    attribute: CellName
    judge: Text
    reference_judge: Text
    n: Count
    reference_n: Count
    rate: Number
    reference_rate: Number
    difference: Number


@dataclass(frozen=True)
class PairedDifference:
    """Two models on the same questions; the difference is first minus second."""

    edition: Text
    task: Task
    attribute: CellName
    judge: Text
    first: Text
    second: Text
    n_pairs: int
    n_only_first: int
    n_only_second: int
    n_images: int
    first_rate: Number
    second_rate: Number
    difference: Number
    ci_low: Number
    ci_high: Number
    ci: str
    first_alone: int
    second_alone: int
    p_value: Number
    test: str


@dataclass(frozen=True)
class JudgeAgreement:
    """How far a judge agrees with another one, with labels given by hand, or with published rates.

    The counts are of answers in which both found something, the judge alone, the reference alone, and neither;
    ``agreement`` is a fraction of 1, kappa is None where both gave one and the same label throughout.
    """

    comparison: Literal["hand", "published", "released", "judges"]
    edition: Text
    model: Text
    task: Task
    attribute: Text
    judge: Text
    reference: Text
    n: Count = None
    both: Count = None
    judge_only: Count = None
    reference_only: Count = None
    neither: Count = None
    agreement: Number = None
    kappa: Number = None
    n_cells: Count = None
    mean_distance: Number = None


def read_scores(path: Path | str) -> list[Score]:
    """Read a scores file, which may hold no rows.

    Raises:
        PrismError: the file is missing, its columns are others, or a value (named by row) is wrong.
    """
    return read_table(path, Score, PrismError, every_column=True, may_be_empty=True)
