"""One table of all scores, and how far the computed ones lie from the published ones.

A computed row also holds a published judge's rate (``published``) and the difference from it, where
``--judge-published-as rules=Gemini`` names the published judge that corresponds to its own. The differences file has
every pair of judges.

No table is written where more is missing than is allowed; by default nothing may be missing.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Task
from safe_llava.formats.scores import CELLS, RateDifference, Score, read_scores
from safe_llava.formats.tables import write_table
from safe_llava.prism.scoring.completeness import ALLOWED_HELP, Allowed, refuse_incomplete
from safe_llava.prism.scoring.differences import beside_published, mean_distances, published_differences, read_aliases

log = logging.getLogger(__name__)


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
    place = CELLS.index(score.attribute)
    return (score.edition, score.model, list(Task).index(score.task), place, score.judge, score.source)


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
        # Published rates of models that are not in the table have nothing to be compared with.
        names = {aliases.get(score.model, score.model) for _, rows in files for score in rows}
        published = [score for score in read_scores(options.published) if score.model in names]
        files.append((options.published, published))
    kept = [(path, [score for score in rows if score.edition in editions]) for path, rows in files]
    scores = beside_published(combine(kept), judges, aliases)
    refuse_incomplete(scores, Allowed(options.allow_failed_answers, options.allow_failed_verdicts))
    rows = published_differences(scores, aliases)
    write_table(options.differences, RateDifference, rows)
    write_table(options.out, Score, scores)
    for item in mean_distances(rows):
        text = "%s %s: judge %s lies %.2f points from %s on average, over %d cells"
        log.info(text, item.edition, item.task, item.judge, item.mean, item.reference_judge, item.cells)
    return None


if __name__ == "__main__":
    cli.run(main)
