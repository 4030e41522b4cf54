"""Tables of PRISM's scores: models down, attributes across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safe_llava.core.errors import PaperError
from safe_llava.formats.markup import MINUS, Cell, Section, Table, TableLine, count_range, interval, number
from safe_llava.formats.prism import Attribute
from safe_llava.formats.scores import (
    AGGREGATES,
    CELLS,
    GIVEN,
    MACRO,
    OVER_REFUSAL,
    WILSON_IMAGES,
    RateDifference,
    Score,
)
from safe_llava.formats.tables import in_order, keyed, read_table, unique
from safe_llava.paper.tables.titles import (
    FAILED_NOTE,
    RATE_TITLES,
    TASK_TITLES,
    attribute_title,
    by_edition_and_task,
    judge_title,
)
from safe_llava.prism.scoring.differences import FEWEST_ANSWERS

EMPTY_NOTE = "–: no rate."
MACRO_NOTE = "Macro: the mean of the five attributes' rates."
PHOTOS_NOTE = "Where the photos do not differ, and in published leakage, Wilson's trials are the photos."
CUT_NOTE = "Cut off: answers that used up their tokens."
RATES_NOTE = (
    "Rates in percent with their 95 % intervals: Wilson's where every photo is asked once, by drawing whole photos "
    "where it is asked several times; n: judged answers a cell."
)
GIVEN_TITLE = "refused, and not leaked in the descriptions that were given (%)"


def prism_table(path: Path | str) -> Table:
    """Return the PRISM table: a section an edition and task, a line a model and judge."""
    scores = read_table(path, Score)
    return _prism(scores, path, "PRISM", "PRISM")


def released_table(path: Path | str) -> Table:
    """Return the table of the released answers, judged here and as published.

    Raises:
        PaperError: no model has both a computed and a published rate.
    """
    return _prism(
        both_sources(read_table(path, Score), path), path, "PRISM on the released answers", "Released answers"
    )


def both_sources(scores: Sequence[Score], path: Path | str) -> list[Score]:
    """Return the rows of those models, editions and tasks that have computed and published rates.

    Raises:
        PaperError: there are none.
    """
    sources: dict[tuple[str, str, str], set[str]] = {}
    for score in scores:
        sources.setdefault((score.edition, score.model, score.task), set()).add(score.source)
    kept = [s for s in scores if len(sources[s.edition, s.model, s.task]) == 2]
    if not kept:
        raise PaperError(
            f"{path}: no model has both a computed and a published rate in the column source",
            "give the scores of the released answers together with the published ones",
        )
    return kept


def _prism(scores: Sequence[Score], path: Path | str, title: str, what: str) -> Table:
    cells = keyed(scores, lambda s: (s.edition, s.model, s.task, s.attribute, s.judge, s.source), path)
    sections = []
    for edition, task, here in by_edition_and_task(scores):
        for given, rates in ((False, RATE_TITLES[task]), (True, GIVEN_TITLE)):
            if part := [s for s in here if (s.attribute in (OVER_REFUSAL, *GIVEN)) == given]:
                heading = f"{what} {edition}, {TASK_TITLES[task]}: {rates}"
                name = f"{what} {edition} {task}" + " given" * given
                sections.append(_prism_section(name, heading, part, cells))
    notes = [RATES_NOTE]
    notes += [MACRO_NOTE] if any(s.attribute == MACRO for s in scores) else []
    notes += [PHOTOS_NOTE] if any(s.ci == WILSON_IMAGES for s in scores) else []
    notes += [CUT_NOTE] if any(s.n_truncated is not None for s in scores) else []
    notes += [FAILED_NOTE % "rate"] if any(s.n_failed for s in scores) else []
    notes += [EMPTY_NOTE] if any(s.rate is None for s in scores) else []
    return Table(title, tuple(sections), (" ".join(notes),))


def _prism_section(name: str, heading: str, scores: Sequence[Score], cells: dict[tuple[str, ...], Score]) -> Section:
    edition, task = scores[0].edition, scores[0].task
    order = CELLS if OVER_REFUSAL not in {s.attribute for s in scores} else (OVER_REFUSAL, *GIVEN)
    columns = in_order((s.attribute for s in scores), order)
    cut = any(s.n_truncated is not None for s in scores)
    lines = []
    for model in unique(s.model for s in scores):
        for source, judge in judges_of([s for s in scores if s.model == model]):
            found = [cells.get((edition, model, task, a, judge, source)) for a in columns]
            lines.append(_prism_line(model, judge, source, found, cut))
            lines += _published_line(model, judge, found, blanks=2 if cut else 1)
    head = ("Model", "Judge", *map(attribute_title, columns), *(["Cut off"] if cut else []), "n")
    return Section(name, heading, head, tuple(lines))


def judges_of(scores: Sequence[Score]) -> list[tuple[str, str]]:
    """Return the (source, judge) pairs of some rows, computed ones first."""
    pairs = dict.fromkeys((s.source, s.judge) for s in scores)
    return sorted(pairs, key=lambda pair: pair[0] != "computed")


def _prism_line(model: str, judge: str, source: str, scores: Sequence[Score | None], cut: bool) -> TableLine:
    cells = [
        Cell() if s is None else Cell(number(s.rate), interval(s.ci_low, s.ci_high), s.n_failed or 0) for s in scores
    ]
    # Every answer counts in an attribute's cell; the aggregates are about the same answers.
    own = [
        s for s in scores if s is not None and (s.attribute not in AGGREGATES or s.attribute in GIVEN[: len(Attribute)])
    ]
    if cut:
        known = [(s.n_truncated, s.n) for s in own if s.n_truncated is not None and s.n]
        share = 100 * sum(k for k, _ in known) / sum(n for _, n in known) if known else None
        cells.append(Cell(number(share)))
    return TableLine(model, judge_title(judge, source), (*cells, Cell(count_range([s.n for s in own]))))


def _published_line(model: str, judge: str, scores: Sequence[Score | None], blanks: int) -> list[TableLine]:
    """Return the differences from the published judge that corresponds, where there are any."""
    others = unique(s.published_judge for s in scores if s is not None and s.difference is not None)
    if not others:
        return []
    cells = [Cell(number(None if s is None else s.difference, signed=True)) for s in scores]
    label = f"{judge} {MINUS} {judge_title(others[0], 'published')}"
    return [TableLine(model, label, (*cells, *[Cell("")] * blanks))]


def differences_table(path: Path | str) -> Table:
    """Return how far the computed rates lie from the published ones, with each line's mean distance."""
    rows = read_table(path, RateDifference)
    cells = keyed(rows, lambda r: (r.edition, r.model, r.task, r.attribute, r.judge, r.reference_judge), path)
    sections = []
    for edition, task, here in by_edition_and_task(rows):
        columns = in_order((r.attribute for r in here), CELLS)
        lines = [
            _difference_line(m, f"{j} {MINUS} {k}", [cells.get((edition, m, task, a, j, k)) for a in columns])
            for m, j, k in dict.fromkeys((r.model, r.judge, r.reference_judge) for r in here)
        ]
        head = ("Model", "Judges", *map(attribute_title, columns), "Mean\ndistance")
        heading = f"PRISM {edition}, {TASK_TITLES[task]}: computed minus published, in points"
        sections.append(Section(f"differences {edition} {task}", heading, head, tuple(lines)))
    notes = [f"Mean distance: over the attributes with at least {FEWEST_ANSWERS} judged answers, without sign."]
    notes += [EMPTY_NOTE] if any(r.difference is None for r in rows) else []
    return Table("PRISM: computed against published", tuple(sections), (" ".join(notes),))


def _difference_line(model: str, label: str, rows: Sequence[RateDifference | None]) -> TableLine:
    own = [
        abs(r.difference)
        for r in rows
        if r is not None and r.difference is not None and r.attribute not in AGGREGATES and (r.n or 0) >= FEWEST_ANSWERS
    ]
    cells = [Cell() if r is None else Cell(number(r.difference, signed=True)) for r in rows]
    return TableLine(model, label, (*cells, Cell(number(sum(own) / len(own) if own else None))))
