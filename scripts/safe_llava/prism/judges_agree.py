"""How far the judges agree: with each other, with labels given by hand, and with the published rates.

``python -m safe_llava.prism.judges_agree --verdicts FILE… --released FILE… --labels labels.csv --out judges.csv``

One row a comparison, of which ``comparison`` says the kind:

- ``judges``: two judges on the same answers, by edition, task and cell, for each model and for ``all`` together;
  ``released`` the same on the answers that were released upstream, whose models may have the same names.
- ``hand``: a judge and the labels given by hand. In leakage, ``all`` takes the five attributes together as one label
  each, ``exact`` asks for the same set of attributes, and has no confusion.
- ``published``: a judge's rates and those of a published judge (``nearest``: the nearer of them in each cell), of
  whom no verdicts are known: the mean distance in points over ``n_cells`` cells of at least ten judged answers.

``both`` … ``neither`` count the answers in which both found a refusal (or a leak), one of them, or none;
``agreement`` is a fraction of 1, ``kappa`` Cohen's, empty where both gave one and the same finding throughout.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.statistics import accuracy, cohens_kappa
from safe_llava.formats.prism import Task, Verdict, read_verdicts
from safe_llava.formats.scores import ANSWERED, CELLS, JudgeAgreement, Score, read_scores
from safe_llava.formats.tables import write_table
from safe_llava.prism.scoring.cells import SCORED_HELP, ScoredFor, grouped, leakage_scored, marks_of, read_scored
from safe_llava.prism.scoring.differences import mean_distances, published_differences, read_aliases
from safe_llava.prism.scoring.labels import LabelAgreement, agreements, pair_labels, read_labels

HAND, EVERY = "hand labels", "all"
AnswerKey = tuple[str, str, int]  # model, question_id, index
AgreementCell = tuple[Literal["judges", "released"], str, str, Task, str, str, str]  # the columns before the counts
log = logging.getLogger(__name__)


def _findings(
    verdicts: Iterable[Verdict], choice: Mapping[str, ScoredFor]
) -> dict[tuple[str, Task, str], dict[str, dict[AnswerKey, bool]]]:
    """Return by edition, task and cell, and by judge, what was found in each answer."""
    found: dict[tuple[str, Task, str], dict[str, dict[AnswerKey, bool]]] = defaultdict(lambda: defaultdict(dict))
    for group, own in grouped(verdicts).items():
        cells = marks_of(group.task, own, leakage_scored(group.edition, choice.get(group.edition)))
        for name, marks in cells.items():
            if not name.startswith(ANSWERED):  # of those two judges have different answers before them
                by_key = {(v.model, v.question_id, v.index): hit for v, hit in marks if hit is not None}
                found[group.edition, group.task, name][group.judge] |= by_key
    return found


def between_judges(
    verdicts: Iterable[Verdict],
    choice: Mapping[str, ScoredFor] | None = None,
    comparison: Literal["judges", "released"] = "judges",
) -> list[JudgeAgreement]:
    """Return how each two judges agree on the answers that both have judged.

    Args:
        verdicts: of all the judges.
        choice: how an edition's descriptions are scored, where not by its default.
        comparison: what the rows are called.
    """
    rows = []
    for (edition, task, name), by_judge in _findings(verdicts, choice or {}).items():
        for judge, reference in combinations(sorted(by_judge), 2):
            one, other = by_judge[judge], by_judge[reference]
            common = sorted(one.keys() & other.keys())
            models = sorted({key[0] for key in common})
            for model in [*models, *([EVERY] if len(models) > 1 else [])]:
                keys = [key for key in common if model in (EVERY, key[0])]
                where = (comparison, edition, model, task, name, judge, reference)
                rows.append(_confusion(where, [(one[key], other[key]) for key in keys]))
    return rows


def _confusion(where: AgreementCell, pairs: Sequence[tuple[bool, bool]]) -> JudgeAgreement:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    kappa = cohens_kappa(first, second)
    return JudgeAgreement(
        *where,
        n=len(pairs),
        both=pairs.count((True, True)),
        judge_only=pairs.count((True, False)),
        reference_only=pairs.count((False, True)),
        neither=pairs.count((False, False)),
        agreement=round(accuracy(first, second), 4),
        kappa=None if kappa is None else round(kappa, 4),
    )


def with_labels(verdicts: Iterable[Verdict], labels: Path) -> list[JudgeAgreement]:
    """Return how each judge agrees with the labels given by hand; nothing where no labelled answer was judged."""
    known = read_labels(labels)
    keys = {(label.model, label.task, label.question_id, label.index) for label in known}
    labelled = [v for v in verdicts if (v.model, v.task, v.question_id, v.index) in keys and v.status == "judged"]
    if not labelled:
        log.warning("%s: none of the labelled answers was judged", labels)
        return []
    edition = labelled[0].edition
    return [
        _from_agreement(edition, row)
        for judge, found in pair_labels(known, labelled).items()
        for row in agreements(judge, found)
    ]


def _from_agreement(edition: str, row: LabelAgreement) -> JudgeAgreement:
    counts = (row.n, row.both, row.judge_only, row.label_only, row.neither)
    where = (edition, EVERY, row.task, row.what, row.judge, HAND)
    return JudgeAgreement("hand", *where, *counts, row.accuracy, row.kappa)


def with_published(
    scores: Sequence[Score], published: Sequence[Score], published_as: Mapping[str, str] | None = None
) -> list[JudgeAgreement]:
    """Return how far each judge's rates lie from the published judges', on average over models and attributes."""
    known = [score for score in published if score.source == "published"]
    found = mean_distances(published_differences([*scores, *known], published_as))
    return [
        JudgeAgreement(
            "published",
            *(item.edition, EVERY, item.task, EVERY, item.judge, item.reference_judge),
            n_cells=item.cells,
            mean_distance=round(item.mean, 2),
        )
        for item in found
    ]


def _place(row: JudgeAgreement) -> tuple[int, str, int, int, str, str, str]:
    kinds, tasks = ("hand", "published", "released", "judges"), list(Task)
    name = CELLS.index(row.attribute) if row.attribute in CELLS else len(CELLS)
    # Sorting keeps the order of equal rows: the models', with all of them behind.
    model = "\uffff" if row.model == EVERY else row.model
    return (kinds.index(row.comparison), row.edition, tasks.index(row.task), name, row.judge, row.reference, model)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read verdicts, labels and scores, write how far the judges agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=Path, nargs="*", default=[])
    parser.add_argument("--released", type=Path, nargs="*", default=[], help="verdicts on the released answers")
    parser.add_argument("--leakage-scored", nargs="+", default=[], metavar="EDITION=own|all", help=SCORED_HELP)
    parser.add_argument("--labels", type=Path, help="labels given by hand to released answers")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="scores to set beside the published ones")
    parser.add_argument("--published", type=Path, help="published scores")
    parser.add_argument("--published-as", action="append", default=[], metavar="MODEL=NAME", help="may be repeated")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    scored = read_scored(options.leakage_scored)
    rows = between_judges(read_verdicts(options.verdicts), scored) if options.verdicts else []
    if options.released:
        released = read_verdicts(options.released)
        rows += between_judges(released, scored, "released")
        rows += with_labels(released, options.labels) if options.labels else []
    if options.scores and options.published:
        scores = [score for path in options.scores for score in read_scores(path)]
        rows += with_published(scores, read_scores(options.published), read_aliases(options.published_as))
    if not rows:
        raise PrismError(
            "the judge has nothing to be compared with",
            "select a second judge, or give labelled answers (--labels) or published scores (--scores, --published)",
        )
    rows.sort(key=_place)
    write_table(options.out, JudgeAgreement, rows)
    log.info("%s: %d comparisons", options.out, len(rows))
    return None


if __name__ == "__main__":
    cli.run(main)
