"""How far computed rates lie from the published ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Task
from safe_llava.formats.scores import RateDifference, Score

FEWEST_ANSWERS = 10  # a cell of fewer says nothing of a judge, and is left out of the mean distances


def published_differences(
    scores: Sequence[Score], published_as: Mapping[str, str] | None = None
) -> list[RateDifference]:
    """Return computed minus published for each cell that has both rates, for each published judge.

    Args:
        scores: computed and published rows together.
        published_as: a model's name in the published tables, where that is another one.
    """
    references: dict[tuple[str, str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.source == "published" and score.rate is not None:
            references[score.edition, score.model, score.task, score.attribute].append(score)
    rows = []
    for score in scores:
        if score.source == "published" or score.rate is None:
            continue
        name = (published_as or {}).get(score.model, score.model)
        for other in references[score.edition, name, score.task, score.attribute]:
            rate, reference = score.rate, float(other.rate or 0.0)
            where = (score.edition, score.model, score.task, score.attribute, score.judge, other.judge)
            rows.append(RateDifference(*where, score.n, other.n, rate, reference, round(rate - reference, 2)))
    return rows


@dataclass(frozen=True)
class MeanDistance:
    """How far a judge's rates lie from a published judge's on one task, on average over its cells, in points."""

    edition: str
    task: Task
    judge: str
    reference_judge: str
    cells: int
    mean: float


def mean_distances(rows: Sequence[RateDifference]) -> list[MeanDistance]:
    """Return the mean distances of each task over models and the five attributes.

    The reference ``nearest`` takes for each cell the published judge that is nearer. Aggregates, and
    cells of fewer than ten judged answers, are left out.
    """
    by_cell: dict[tuple[str, Task, str], dict[tuple[str, str], dict[str, float]]] = {}
    for row in rows:
        if row.difference is not None and row.attribute in list(Attribute) and (row.n or 0) >= FEWEST_ANSWERS:
            cells = by_cell.setdefault((row.edition, row.task, row.judge), {})
            cells.setdefault((row.model, row.attribute), {})[row.reference_judge] = abs(row.difference)
    found = []
    for (edition, task, judge), cells in by_cell.items():
        for reference in (*sorted({name for cell in cells.values() for name in cell}), "nearest"):
            values = [
                min(cell.values()) if reference == "nearest" else cell[reference]
                for cell in cells.values()
                if reference == "nearest" or reference in cell
            ]
            found.append(MeanDistance(edition, task, judge, reference, len(values), sum(values) / len(values)))
    return found


def beside_published(
    scores: Sequence[Score], judges: Mapping[str, str], published_as: Mapping[str, str] | None = None
) -> list[Score]:
    """Return the scores with the published rate, and the difference from it, in each computed row that has one.

    Args:
        scores: computed and published rows together.
        judges: the published judge that a judge corresponds to.
        published_as: a model's name in the published tables, where that is another one.
    """
    known = {score.cell[:5]: score for score in scores if score.source == "published"}
    found = []
    for score in scores:
        name = judges.get(score.judge, "")
        model = (published_as or {}).get(score.model, score.model)
        other = known.get((score.edition, model, score.task, score.attribute, name))
        if score.source == "computed" and other is not None and other.rate is not None:
            difference = None if score.rate is None else round(score.rate - other.rate, 2)
            score = replace(score, published=other.rate, difference=difference, published_judge=name)
        found.append(score)
    return found


def read_aliases(pairs: Sequence[str], option: str = "--published-as") -> dict[str, str]:
    """Return name to published name from ``name=published`` pairs.

    Raises:
        PrismError: a pair has no equals sign, or a side of it is empty.
    """
    aliases = {}
    for pair in pairs:
        name, equals, published = pair.partition("=")
        if not (name and equals and published):
            raise PrismError(f"{option} {pair!r} is no pair", "write it as name=published name")
        aliases[name] = published
    return aliases
