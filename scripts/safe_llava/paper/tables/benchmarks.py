"""Tables of the general benchmarks: scores, and two models on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safe_llava.formats.benchmark_scores import NOTHING_PUBLISHED, BenchmarkPair, BenchmarkScore, asked_in_part
from safe_llava.formats.markup import MINUS, Cell, Section, Table, TableLine, interval, number, probability
from safe_llava.formats.tables import keyed, read_table, unique
from safe_llava.paper.tables.titles import FAILED_NOTE, metric_title

COLUMNS_A_SECTION = 7  # more do not fit the width of a page
PAIRED_NOTE = (
    "Differences on the scale of the scores, with 95 % intervals. Only first, only second: questions that one model "
    "alone has right, where a question is right or wrong. p: two-sided, not corrected for their number; McNemar's "
    "exact test, random signs where a question has shares of a point, and units that change places where the score "
    "is no mean."
)
UNPAIRED_NOTE = (
    "†k: k units (questions, or those about one image) that one model alone has: they count in neither score."
)
PAIRED_HEAD = ("Benchmark", "Metric", "First", "Second", "Difference", "n", "Only first", "Only second", "p")


def benchmarks_table(path: Path | str) -> Table:
    """Return the general benchmarks: a column each, and for a model its score, the published one, their difference."""
    rows = read_table(path, BenchmarkScore)
    cells = keyed(rows, lambda r: (r.model, r.benchmark, r.metric), path)
    columns = list(dict.fromkeys((r.benchmark, r.metric) for r in rows))
    models = unique(r.model for r in rows)
    sections = []
    for start in range(0, len(columns), COLUMNS_A_SECTION):
        block = columns[start : start + COLUMNS_A_SECTION]
        lines = [line for m in models for line in _benchmark_lines(m, [cells.get((m, *c)) for c in block])]
        part = f" ({start // COLUMNS_A_SECTION + 1})" if len(columns) > COLUMNS_A_SECTION else ""
        head = ("Model", "Score", *(f"{benchmark}\n{metric_title(benchmark, metric)}" for benchmark, metric in block))
        remarks = unique(f"{r.benchmark}: {r.note}" for r in rows if r.note and (r.benchmark, r.metric) in block)
        heading = f"General benchmarks{part}"
        sections.append(Section(f"benchmarks-{start}", heading, head, tuple(lines), tuple(remarks)))
    part = asked_in_part(rows)
    notes = [f"Not whole benchmarks: {part}."] if part else []
    notes += ["Computed scores with their standard errors, on the scale of the published ones."]
    notes += [FAILED_NOTE % "score"] if any(r.n_failed for r in rows) else []
    notes += ["–: no score."] if len(cells) < len(models) * len(columns) or any(r.score is None for r in rows) else []
    return Table("General benchmarks", tuple(sections), (" ".join(notes),))


def _benchmark_lines(model: str, rows: Sequence[BenchmarkScore | None]) -> list[TableLine]:
    computed = tuple(Cell() if r is None else Cell(_with_error(r), failed=r.n_failed or 0) for r in rows)
    lines = [TableLine(model, "computed", computed)]
    if any(r is not None and r.published is not None for r in rows):
        lines.append(TableLine(model, "published", tuple(Cell(number(r.published if r else None)) for r in rows)))
        differences = tuple(Cell(number(r.difference if r else None, signed=True)) for r in rows)
        lines.append(TableLine(model, "difference", differences))
    # The reason behind a colon is in the CSV file, and most often in the notes.
    verdicts = ["" if r is None or r.verdict == NOTHING_PUBLISHED else r.verdict.partition(":")[0] for r in rows]
    if any(verdicts):
        lines.append(TableLine(model, "verdict", tuple(Cell(text) if text else Cell() for text in verdicts)))
    return lines


def _with_error(row: BenchmarkScore) -> str:
    return number(row.score) + (f" ± {number(row.stderr)}" if row.score is not None and row.stderr is not None else "")


def benchmark_pairs_table(path: Path | str) -> Table:
    """Return the differences between two models: a section a pair, a line a benchmark and metric."""
    rows = read_table(path, BenchmarkPair)
    keyed(rows, lambda r: (r.first, r.second, r.benchmark, r.metric), path)
    sections = []
    for first, second in dict.fromkeys((r.first, r.second) for r in rows):
        lines = [_pair_line(r) for r in rows if (r.first, r.second) == (first, second)]
        heading = f"General benchmarks: {first} {MINUS} {second}"
        sections.append(Section(f"benchmarks-paired {first} {second}", heading, PAIRED_HEAD, tuple(lines)))
    part = asked_in_part(rows)
    notes = [f"Not whole benchmarks: {part}."] if part else []
    notes += [PAIRED_NOTE, UNPAIRED_NOTE] if any(r.n_unpaired for r in rows) else [PAIRED_NOTE]
    return Table("General benchmarks: two models on the same questions", tuple(sections), tuple(notes))


def _pair_line(row: BenchmarkPair) -> TableLine:
    alone = [Cell("" if count is None else str(count)) for count in (row.first_only, row.second_only)]
    cells = (
        Cell(number(row.first_score)),
        Cell(number(row.second_score)),
        Cell(number(row.difference, signed=True), interval(row.ci_low, row.ci_high)),
        Cell(f"{row.n}", failed=row.n_unpaired or 0),
        *alone,
        Cell(probability(row.p_value)),
    )
    return TableLine(row.benchmark, metric_title(row.benchmark, row.metric), cells)
