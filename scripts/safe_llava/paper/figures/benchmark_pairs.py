"""Two models on the same questions of the general benchmarks: the table and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from safe_llava.formats.grid import MINUS, Cell, Line, Section, Table, interval, number, probability, section_name
from safe_llava.formats.tidy import BenchmarkPair, asked_in_part, keyed, metric_title, read_tidy
from safe_llava.paper.figures.style import COLUMN_INCHES, MUTED, colour, positions

NOTE = (
    "Differences on the scale of the scores, with 95 % intervals. Only first, only second: questions that one model "
    "alone has right, where a question is right or wrong. p: two-sided, not corrected for their number; McNemar's "
    "exact test, random signs where a question has shares of a point, and units that change places where the score "
    "is no mean."
)
UNPAIRED_NOTE = (
    "†k: k units (questions, or those about one picture) that one model alone has: they count in neither score."
)
HEAD = ("Benchmark", "Metric", "First", "Second", "Difference", "n", "Only first", "Only second", "p")


def benchmark_pairs_table(path: Path | str) -> Table:
    """Return the differences between two models: a section a pair, a line a benchmark and metric."""
    rows = read_tidy(BenchmarkPair, path)
    keyed(rows, lambda r: (r.first, r.second, r.benchmark, r.metric), path)
    sections = []
    for first, second in dict.fromkeys((r.first, r.second) for r in rows):
        lines = [_line(r) for r in rows if (r.first, r.second) == (first, second)]
        heading = f"General benchmarks: {first} {MINUS} {second}"
        sections.append(Section(section_name("benchmarks-paired", first, second), heading, HEAD, tuple(lines)))
    part = asked_in_part(rows)
    notes = [f"Not whole benchmarks: {part}."] if part else []
    notes += [NOTE, UNPAIRED_NOTE] if any(r.n_unpaired for r in rows) else [NOTE]
    return Table("General benchmarks: two models on the same questions", tuple(sections), tuple(notes))


def _line(row: BenchmarkPair) -> Line:
    alone = [Cell("" if count is None else str(count)) for count in (row.first_only, row.second_only)]
    cells = (
        Cell(number(row.first_score)),
        Cell(number(row.second_score)),
        Cell(number(row.difference, signed=True), interval(row.ci_low, row.ci_high)),
        Cell(f"{row.n}", failed=row.n_unpaired or 0),
        *alone,
        Cell(probability(row.p_value)),
    )
    return Line(row.benchmark, metric_title(row.benchmark, row.metric), cells)


def benchmark_pairs_figure(path: Path | str, order: Sequence[str] = ()) -> Figure:
    """Return differences with 95 % intervals, a mark a pair, in units of the second model's score.

    The scales of the benchmarks differ: a difference is drawn as a share of the score that it is a difference from.
    ``order`` is that of the models' colours.
    """
    rows = [row for row in read_tidy(BenchmarkPair, path) if row.second_score]
    names = list(dict.fromkeys((row.benchmark, row.metric) for row in rows))
    pairs = list(dict.fromkeys((row.first, row.second) for row in rows))
    shades = positions((first for first, _ in pairs), order)
    figure = Figure(figsize=(COLUMN_INCHES * 1.25, 0.9 + 0.22 * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    for place, (first, second) in enumerate(pairs):
        own = [
            (row, names.index((row.benchmark, row.metric)))
            for row in rows
            if (row.first, row.second) == (first, second)
        ]
        shift = 0.6 * ((place + 0.5) / len(pairs) - 0.5)
        for row, y in own:
            if row.ci_low is not None and row.ci_high is not None:
                ends = [100 * end / row.second_score for end in (row.ci_low, row.ci_high)]
                axes.plot(ends, [y + shift] * 2, color=colour(shades[first]), linewidth=0.9)
        axes.plot(
            [100 * row.difference / row.second_score for row, _ in own],
            [y + shift for _, y in own],
            linestyle="none",
            marker="o",
            markersize=3.5,
            color=colour(shades[first]),
            label=f"{first} {MINUS} {second}",
        )
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(
        range(len(names)), [f"{benchmark} {metric_title(benchmark, metric)}" for benchmark, metric in names]
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    part = asked_in_part(rows)
    axes.set_xlabel("difference (% of the second model's score)" + (f"\n{part}" if part else ""))
    axes.grid(axis="x")
    if pairs:
        figure.legend(loc="outside upper center")
    return figure
