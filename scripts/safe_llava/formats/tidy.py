"""The tidy CSV files that tables and figures are made from, as typed rows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from safe_llava.core.errors import PaperError
from safe_llava.formats.cells import ANSWERED, MACRO, OVER_REFUSAL, ROW_ORDER, SENTENCE
from safe_llava.formats.prism import Attribute, Task

ATTRIBUTES = ROW_ORDER
AGGREGATES = ATTRIBUTES[len(Attribute) :]
GIVEN = tuple(name for name in ATTRIBUTES if name.startswith(ANSWERED))  # over the descriptions that were not refused
TASKS = tuple(str(task) for task in Task)

ATTRIBUTE_TITLES = {"Eye_Color": "Eye colour", MACRO: "Macro", SENTENCE: "Sentence", OVER_REFUSAL: "Refused"}
TASK_TITLES = {
    "refusal_soft": "soft refusal",
    "refusal_hard": "hard refusal",
    "implicit_leakage": "implicit leakage",
}
RATE_TITLES = {
    "refusal_soft": "refused (%)",
    "refusal_hard": "refused (%)",
    "implicit_leakage": "not leaked (%)",
}


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_none_if_empty)]
Number = Annotated[FiniteFloat | None, BeforeValidator(_none_if_empty)]


def _known_attribute(value: str) -> str:
    if value not in ATTRIBUTES:
        raise ValueError(f"is none of {', '.join(ATTRIBUTES)}")
    return value


AttributeName = Annotated[str, AfterValidator(_known_attribute)]


class TidyRow(BaseModel):
    """A row of a tidy file; columns beyond the declared ones are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Score(TidyRow):
    """How often one model kept one attribute to itself, as one judge saw it; rates in percent."""

    edition: Text
    model: Text
    task: Task
    attribute: AttributeName
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
    difference: Number = None
    published_judge: str = ""
    n_unanswered: Count = None
    n_unjudged: Count = None


class Difference(TidyRow):
    """A computed rate beside a published one; the difference is in percentage points."""

    edition: Text
    model: Text
    task: Task
    attribute: AttributeName
    judge: Text
    reference_judge: Text
    n: Count
    reference_n: Count
    rate: Number
    reference_rate: Number
    difference: Number


class PairedDifference(TidyRow):
    """Two models on the same questions; rates in percent, the difference (first minus second) in percentage points."""

    edition: Text
    task: Task
    attribute: AttributeName
    judge: Text
    first: Text
    second: Text
    n_pairs: int
    first_rate: Number
    second_rate: Number
    difference: Number
    ci_low: Number
    ci_high: Number
    p_value: Number


class JudgeAgreement(TidyRow):
    """How far a judge agrees with another one, with labels given by hand, or with published rates."""

    comparison: Literal["hand", "published", "released", "judges"]
    edition: Text
    model: Text
    task: Task
    attribute: Text
    judge: Text
    reference: Text
    n: Count
    both: Count
    judge_only: Count
    reference_only: Count
    neither: Count
    agreement: Number
    kappa: Number
    n_cells: Count
    mean_distance: Number


class BenchmarkScore(TidyRow):
    """A general benchmark's score, on the scale of the published one, with its standard error."""

    model: Text
    benchmark: Text
    metric: Text
    score: Number
    stderr: Number
    n: Count
    n_failed: Count
    published: Number
    difference: Number
    source: str
    verdict: str = ""
    judge: str = ""
    published_judge: str = ""
    note: str = ""
    limit: Count = None


class BenchmarkPair(TidyRow):
    """Two models on the same questions of a benchmark; the difference is first minus second."""

    benchmark: Text
    metric: Text
    first: Text
    second: Text
    n: int
    first_score: FiniteFloat
    second_score: FiniteFloat
    difference: FiniteFloat
    ci_low: Number
    ci_high: Number
    first_only: Count
    second_only: Count
    p_value: FiniteFloat
    test: str
    limit: Count = None
    n_unpaired: Count = None


class TrainingStep(TidyRow):
    """One optimizer step of one training stage."""

    step: int
    epoch: Number
    loss: FiniteFloat
    learning_rate: Number
    grad_norm: Number
    samples_per_s: Number
    tokens_per_s: Number
    seconds: Number


AnyTidy = TypeVar("AnyTidy", bound=TidyRow)


def read_tidy(kind: type[AnyTidy], path: Path | str) -> list[AnyTidy]:
    """Read a tidy CSV file.

    Raises:
        PaperError: the file is missing, a column is missing, there are no rows, or a value
            (named by row and column) is not what the column holds.
    """
    remedy = "make the file again with the step that writes it"
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError as error:
        raise PaperError(f"{path}: no such file", remedy) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise PaperError(f"{path}: not a CSV file: {error}", remedy) from error
    if missing := [name for name, field in kind.model_fields.items() if field.is_required() and name not in columns]:
        raise PaperError(f"{path}: no column {', '.join(missing)} (it has: {', '.join(columns) or 'none'})", remedy)
    if not rows:
        raise PaperError(f"{path}: no rows", f"{remedy}; it has to hold at least one score")
    return [_parse(kind, row, path, number, remedy) for number, row in enumerate(rows, start=1)]


def _parse(kind: type[AnyTidy], row: dict[str, Any], path: Path | str, number: int, remedy: str) -> AnyTidy:
    try:
        return kind.model_validate({name: row[name] for name in kind.model_fields if name in row})
    except ValidationError as error:
        fault = error.errors()[0]
        column = fault["loc"][0]
        raise PaperError(f"{path}: row {number}: {column} = {row[str(column)]!r}: {fault['msg']}", remedy) from error


def unique(values: Iterable[str]) -> list[str]:
    """Return the values without repeats, in the order in which they first come."""
    return list(dict.fromkeys(values))


def in_order(present: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return those names of ``order`` that are present."""
    found = set(present)
    return [name for name in order if name in found]


def keyed(rows: Iterable[AnyTidy], key: Callable[[AnyTidy], tuple[str, ...]], path: Path | str) -> dict[Any, AnyTidy]:
    """Return the rows by ``key``.

    Raises:
        PaperError: two rows share a key, so that one cell would have two values.
    """
    by_key: dict[Any, AnyTidy] = {}
    for row in rows:
        if key(row) in by_key:
            raise PaperError(f"{path}: two rows for {' / '.join(key(row))}", "name each scores file once")
        by_key[key(row)] = row
    return by_key


def attribute_title(attribute: str) -> str:
    """Return an attribute's name for people; it is the same over the descriptions that were not refused."""
    name = attribute.removeprefix(ANSWERED)
    return ATTRIBUTE_TITLES.get(name, name)


def metric_title(benchmark: str, metric: str) -> str:
    """Return a metric's name as it stands beside its benchmark's, which it need not repeat."""
    return metric.removeprefix(f"{benchmark}_")


def judge_title(judge: str, source: str) -> str:
    """Return a judge's name for people, marked where its numbers are the published ones."""
    return f"{judge} (published)" if source == "published" else judge


def asked_in_part(rows: Iterable[BenchmarkScore | BenchmarkPair]) -> str:
    """Return what is said of benchmarks of which only the first questions were asked; empty where all were."""
    limits = sorted({row.limit for row in rows if row.limit is not None})
    return f"the first {' or '.join(map(str, limits))} questions only" if limits else ""
