"""The table of what a run has cost, by stage and by who counted."""

from __future__ import annotations

from pathlib import Path

from safe_llava.formats.costs import StageCost
from safe_llava.formats.markup import Cell, Section, Table, TableLine, number
from safe_llava.formats.tables import keyed, read_table, unique

UNKNOWN = "unknown"
TITLES = {"slurm": "What SLURM's accounting says", "steps": "What the steps themselves took"}
HEADINGS = (
    *("Stage", "States", "Jobs", "Submissions"),
    *("Wall\nhours", "GPU\nhours", "CPU\nhours", "Most memory\n(GiB)", "Not\naccounted"),
)
NOTE = (
    "Hours are summed over jobs; GPU hours are those that were held, busy or not. What SLURM counts contains what the "
    "steps took in its jobs: the two are not to be added. A step's figures are those of its last run that ended well, "
    "its GPU hours those of the GPUs that it may use. unknown: nobody has counted it."
)


def costs_table(path: Path | str) -> Table:
    """Return the table: a section a source, a line a stage."""
    rows = read_table(path, StageCost)
    keyed(rows, lambda row: (row.stage, row.source), path)
    sections = []
    for source in unique(row.source for row in rows):
        lines = tuple(TableLine(row.stage, row.states or "", _cells(row)) for row in rows if row.source == source)
        sections.append(Section(f"costs {source}", TITLES[source], HEADINGS, lines))
    return Table("What the run has cost", tuple(sections), (NOTE,))


def _cells(row: StageCost) -> tuple[Cell, ...]:
    submissions = Cell() if row.submissions is None else Cell(f"{row.submissions}")
    hours = [
        Cell(UNKNOWN if value is None else number(value, 2))
        for value in (row.wall_hours, row.gpu_hours, row.cpu_hours, row.max_memory_gib)
    ]
    return Cell(f"{row.jobs}"), submissions, *hours, Cell(f"{row.unaccounted}")
