"""Tables of two models on the same questions, and of how far the judges agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safe_llava.formats.markup import MINUS, Cell, Section, Table, TableLine, count_range, interval, number, probability
from safe_llava.formats.scores import AGGREGATES, CELLS, JudgeAgreement, PairedDifference
from safe_llava.formats.tables import in_order, keyed, read_table, unique
from safe_llava.paper.tables.titles import TASK_TITLES, attribute_title, by_edition_and_task

PAIRED_NOTE = (
    "Differences in points with their 95 % intervals, over the questions that both models have a verdict for (n pairs "
    "a cell). p: two-sided, not corrected for their number; McNemar's exact test where every photo is asked once, "
    "random signs of whole photos where it is asked several times."
)
AGREEMENT_NOTE = (
    "Both, judge, other, neither: in how many answers both found a refusal (or a leak), only the judge, only the "
    "other, none of them. Agreement in percent, kappa Cohen's. –: both said one and the same throughout."
)
AGREEMENT_HEAD = ("Judge and other", "What", "n", "Both", "Judge", "Other", "Neither", "Agree", "Kappa")
AGREEMENT_TITLES = {
    "hand": "Judges and labels given by hand",
    "released": "Judges on the released answers",
    "judges": "Judges on the same answers",
}
WHAT_TITLES = {"refused": "refused", "all": "all five attributes", "exact": "same set of attributes"}


def paired_table(path: Path | str) -> Table:
    """Return the differences between two models: a line a pair and judge, and one below for its p-values."""
    rows = read_table(path, PairedDifference)
    cells = keyed(rows, lambda r: (r.edition, r.task, r.first, r.second, r.judge, r.attribute), path)
    sections = []
    for edition, task, here in by_edition_and_task(rows):
        columns = in_order((r.attribute for r in here), CELLS)
        lines = [
            line
            for first, second, judge in dict.fromkeys((r.first, r.second, r.judge) for r in here)
            for line in _pair_lines([cells.get((edition, task, first, second, judge, a)) for a in columns])
        ]
        head = ("Models", "Judge", *map(attribute_title, columns), "n")
        heading = f"PRISM {edition}, {TASK_TITLES[task]}: paired differences, in points"
        sections.append(Section(f"paired {edition} {task}", heading, head, tuple(lines)))
    return Table("PRISM: two models on the same questions", tuple(sections), (PAIRED_NOTE,))


def _pair_lines(rows: Sequence[PairedDifference | None]) -> list[TableLine]:
    known = [row for row in rows if row is not None]
    group = f"{known[0].first} {MINUS} {known[0].second}"
    cells = [
        Cell() if r is None else Cell(number(r.difference, signed=True), interval(r.ci_low, r.ci_high)) for r in rows
    ]
    counts = count_range([r.n_pairs for r in known if r.attribute not in AGGREGATES])
    chances = [Cell(probability(None if r is None else r.p_value)) for r in rows]
    return [TableLine(group, known[0].judge, (*cells, Cell(counts))), TableLine(group, "p", (*chances, Cell("")))]


def judges_table(path: Path | str) -> Table:
    """Return the agreement of judges with labels, with each other, and their distance from the published ones."""
    rows = read_table(path, JudgeAgreement)
    sections = []
    for comparison, title in AGREEMENT_TITLES.items():
        for edition in unique(r.edition for r in rows if r.comparison == comparison):
            here = over_all_models([r for r in rows if (r.comparison, r.edition) == (comparison, edition)])
            lines = tuple(
                TableLine(f"{r.judge}, {r.reference}", what_agrees(r), tuple(_agreement_cells(r))) for r in here
            )
            name = f"judges {comparison} {edition}"
            sections.append(Section(name, f"PRISM {edition}: {title.lower()}", AGREEMENT_HEAD, lines))
    for edition in unique(r.edition for r in rows if r.comparison == "published"):
        here = [r for r in rows if (r.comparison, r.edition) == ("published", edition)]
        lines = tuple(
            TableLine(
                f"{r.judge}, {r.reference}",
                TASK_TITLES[r.task],
                (Cell(count_range([r.n_cells])), Cell(number(r.mean_distance, 2))),
            )
            for r in here
        )
        head = ("Judge and published judge", "Task", "Cells", "Mean distance")
        heading = f"PRISM {edition}: rates and published rates, in points"
        sections.append(Section(f"judges published {edition}", heading, head, lines))
    notes = [AGREEMENT_NOTE] if any(r.comparison != "published" for r in rows) else []
    notes += ["nearest: the nearer of the published judges in each cell."] * any(r.reference == "nearest" for r in rows)
    return Table("PRISM: how far the judges agree", tuple(sections), (" ".join(notes),))


def over_all_models(rows: Sequence[JudgeAgreement]) -> list[JudgeAgreement]:
    """Return the rows over all models; a comparison on one model alone has none, and stands for itself."""
    every = {(r.judge, r.reference, r.task, r.attribute) for r in rows if r.model == "all"}
    return [r for r in rows if r.model == "all" or (r.judge, r.reference, r.task, r.attribute) not in every]


def what_agrees(row: JudgeAgreement) -> str:
    """Return what a row is about, for people."""
    what = WHAT_TITLES.get(row.attribute, attribute_title(row.attribute))
    return f"{TASK_TITLES[row.task]}, {what}"


def _agreement_cells(row: JudgeAgreement) -> list[Cell]:
    counts = (row.n, row.both, row.judge_only, row.reference_only, row.neither)
    agreement = None if row.agreement is None else 100 * row.agreement
    return [*(Cell(count_range([count])) for count in counts), Cell(number(agreement)), Cell(number(row.kappa, 2))]
