"""One table of all scores, and how far the computed ones lie from the published ones.

A computed row has beside its rate the one that a published judge gave (``published``, ``difference``), where the judge
is said to correspond to one: ``--judge-published-as rules=Gemini``. The differences file has every pair of judges.

Where more is missing than is allowed (nothing, unless said otherwise), no table is written.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.tables import write_rows
from safe_llava.formats.cells import ROW_ORDER
from safe_llava.formats.prism import Attribute, Task
from safe_llava.prism.score import Score, read_scores, write_scores
from safe_llava.prism.scoring.completeness import ALLOWED_HELP, Allowed, refuse_incomplete

FEWEST_ANSWERS = 10  # a cell of fewer says nothing of a judge, and is left out of the mean distances
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """A computed rate beside a published one; the fields are the columns, the difference is in points."""

    edition: str
    model: str
    task: str
    attribute: str
    judge: str
    reference_judge: str
    n: int | None
    reference_n: int | None
    rate: float
    reference_rate: float
    difference: float


def combine(files: Iterable[tuple[Path, Sequence[Score]]]) -> list[Score]:
    """Return all scores, sorted by edition, model, task, attribute, judge and source.

    Raises:
        PrismError: there are no scores, or two rows for one cell.
    """
    scores = [score for _, rows in files for score in rows]
    if not scores:
        raise PrismError("the scores files hold no rows", "give files with scores")
    cell, count = Counter(score.cell for score in scores).most_common(1)[0]
    if count > 1:
        raise PrismError(f"{count} scores for {' / '.join(cell)}", "name each scores file once")
    return sorted(scores, key=_order)


def _order(score: Score) -> tuple[str, str, int, int, str, str]:
    tasks, attributes = [str(task) for task in Task], [str(name) for name in ROW_ORDER]
    try:
        task, attribute = tasks.index(score.task), attributes.index(score.attribute)
    except ValueError as error:
        remedy = f"tasks are {', '.join(tasks)}; attributes are {', '.join(attributes)}"
        raise PrismError(f"unknown cell {score.task} / {score.attribute} of {score.model}", remedy) from error
    return (score.edition, score.model, task, attribute, score.judge, score.source)


def differences(scores: Sequence[Score], published_as: Mapping[str, str] | None = None) -> list[Difference]:
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
            rows.append(Difference(*where, score.n, other.n, rate, reference, round(rate - reference, 2)))
    return rows


@dataclass(frozen=True)
class Distance:
    """How far a judge's rates lie from a published judge's on one task, on average over its cells, in points."""

    edition: str
    task: str
    judge: str
    reference_judge: str
    cells: int
    mean: float


def distances(rows: Sequence[Difference]) -> list[Distance]:
    """Return the mean distances of each task over models and the five attributes.

    The reference ``nearest`` takes for each cell the published judge that is nearer. Aggregates, and
    cells of fewer than ten judged answers, are left out.
    """
    by_cell: dict[tuple[str, str, str], dict[tuple[str, str], dict[str, float]]] = {}
    for row in rows:
        if row.attribute in list(Attribute) and (row.n or 0) >= FEWEST_ANSWERS:
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
            found.append(Distance(edition, task, judge, reference, len(values), sum(values) / len(values)))
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


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--published", type=Path, help="published scores; those of other editions and models are left out"
    )
    parser.add_argument("--published-as", action="append", default=[], metavar="MODEL=NAME", help="may be repeated")
    parser.add_argument(
        "--judge-published-as", action="append", default=[], metavar="JUDGE=NAME", help="may be repeated"
    )
    parser.add_argument("--editions", nargs="+", help="by default those of the scores files")
    parser.add_argument("--allow-failed-answers", type=float, default=0.0, help=ALLOWED_HELP % "answers")
    parser.add_argument("--allow-failed-verdicts", type=float, default=0.0, help=ALLOWED_HELP % "verdicts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--differences", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read scores files, write the table and the differences, log the mean distances."""
    options = _arguments(argv)
    aliases = read_aliases(options.published_as)
    judges = read_aliases(options.judge_published_as, "--judge-published-as")
    files = [(path, read_scores(path)) for path in options.scores]
    editions = set(options.editions or (score.edition for _, rows in files for score in rows))
    if options.published:
        # What was published of models that are not in the table has nothing to stand beside.
        names = {aliases.get(score.model, score.model) for _, rows in files for score in rows}
        published = [score for score in read_scores(options.published) if score.model in names]
        files.append((options.published, published))
    kept = [(path, [score for score in rows if score.edition in editions]) for path, rows in files]
    scores = beside_published(combine(kept), judges, aliases)
    refuse_incomplete(scores, Allowed(options.allow_failed_answers, options.allow_failed_verdicts))
    rows = differences(scores, aliases)
    write_rows(options.differences, Difference, rows)
    write_scores(options.out, scores)
    for item in distances(rows):
        text = "%s %s: judge %s lies %.2f points from %s on average, over %d cells"
        log.info(text, item.edition, item.task, item.judge, item.mean, item.reference_judge, item.cells)
    return None


if __name__ == "__main__":
    cli.run(main)
