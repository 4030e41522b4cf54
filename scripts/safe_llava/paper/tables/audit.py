"""The table of the audit: what annotations mention of people, before and after they were cleaned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safe_llava.formats.markup import EMPTY, Cell, Section, Table, TableLine, number
from safe_llava.formats.mentions import MentionCount
from safe_llava.formats.prism import Attribute
from safe_llava.formats.tables import in_order, keyed, read_table, unique
from safe_llava.paper.tables.titles import attribute_title

ANY = "any"
ROWS = (*map(str, Attribute), ANY)
MEASURE_TITLES = {"implied": "mentioned or implied", "named": "named outright"}
PART_TITLES = {"all": "all samples", "with image": "samples with an image"}
HEADINGS = (
    *("Count", "Attribute", "Samples\noriginal", "Samples\nsafe", "Removed\n(%)"),
    *("Answers\noriginal", "Answers\nsafe"),
)
PUBLISHED_HEAD = "Published\noriginal"
NOTE = (
    "Samples and answers that mention an attribute; a sample counts once. Mentioned or implied: by the rules that "
    "judge leakage. Named outright: the value itself is said of a person."
)
PUBLISHED_NOTE = "Published: as stated for the original set; how it was counted is not published."


def read_mentions(path: Path | str) -> list[MentionCount]:
    """Read the tidy table of the audit; PaperError where it is none, or two rows count the same."""
    rows = read_table(path, MentionCount)
    keyed(rows, lambda r: (r.pair, r.role, r.part, r.measure, r.attribute), path)
    return rows


def row_title(attribute: str) -> str:
    """Return an attribute's name for people."""
    return "Any of them" if attribute == ANY else attribute_title(attribute)


def audit_table(path: Path | str) -> Table:
    """Return the table: a section a pair of sets (and one for the samples with an image, where not all have one)."""
    rows = read_mentions(path)
    sections = []
    for pair in unique(r.pair for r in rows):
        here = [r for r in rows if r.pair == pair]
        totals = {r.part: r.n_samples for r in here if r.role == "original" and r.source == "computed"}
        for part in in_order(totals, tuple(PART_TITLES)):
            if part == "all" or totals[part] != totals.get("all"):
                sections.append(_section(pair, part, here))
    notes = [NOTE, *([PUBLISHED_NOTE] if any(r.source == "published" for r in rows) else [])]
    return Table("What the annotations mention of people", tuple(sections), (" ".join(notes),))


def _section(pair: str, part: str, rows: Sequence[MentionCount]) -> Section:
    cells = {(r.role, r.measure, r.attribute): r for r in rows if r.part == part}
    published = {r.attribute: r.samples for r in rows if r.source == "published"} if part == "all" else {}
    known_before = {name: (Cell(_count(number)),) for name, number in published.items()}
    nothing = (Cell(),) * bool(published)
    measures = in_order((r.measure for r in rows), tuple(MEASURE_TITLES))
    lines = [
        TableLine(MEASURE_TITLES[measure], row_title(name), (*_cells(before, after), *known_before.get(name, nothing)))
        for measure in measures
        for name in in_order((r.attribute for r in rows), ROWS)
        if (before := cells.get(("original", measure, name))) and (after := cells.get(("safe", measure, name)))
    ]
    original = next(r for r in rows if r.role == "original" and r.part == part and r.source == "computed")
    safe = next(r for r in rows if r.role == "safe" and r.part == part)
    remark = (
        f"{original.dataset}: {_count(original.n_samples)} samples, {_count(original.n_answers)} answers; "
        f"{safe.dataset}: {_count(safe.n_samples)} samples, {_count(safe.n_answers)} answers."
    )
    title = f"{original.dataset} and {safe.dataset}, {PART_TITLES[part]}"
    head = (*HEADINGS, PUBLISHED_HEAD) if published else HEADINGS
    return Section(f"audit {pair} {part}", title, head, tuple(lines), (remark,))


def _cells(before: MentionCount, after: MentionCount) -> tuple[Cell, ...]:
    removed = None
    if before.samples and after.samples is not None:
        removed = 100 * (before.samples - after.samples) / before.samples
    texts = (_count(before.samples), _count(after.samples), number(removed))
    return tuple(map(Cell, (*texts, _count(before.answers), _count(after.answers))))


def _count(value: int | None) -> str:
    return EMPTY if value is None else f"{value:,}"
