"""The audit's figure: mentions before and after, and below them some sentences with the mention marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from safe_llava.formats.mentions import MentionCount
from safe_llava.formats.tables import in_order, unique
from safe_llava.paper.figures.contact_sheet import LINE, text_width, wrap
from safe_llava.paper.figures.examples_audit import Change, choose_changes
from safe_llava.paper.figures.style import BAND, GRID, MUTED, TEXT_INCHES, colour
from safe_llava.paper.tables.audit import ROWS, read_mentions, row_title

SAFE, ORIGINAL = 0, 1  # positions of the colours
PANEL_INCHES, MARGIN, LEFT, GAP = 1.75, 0.1, 0.85, 0.25
TOP, BOTTOM = 0.3, 0.72  # of the panels: for their titles, and for their axis and the legend
POINTS, HEAD_POINTS = 7.0, 7.5
SHIFT = 0.17  # of a mark from the middle of its row
MARK = "#FBDCD4"
SERIES = (
    ("original", "implied", "original: mentioned or implied"),
    ("original", "named", "original: named outright"),
    ("safe", "implied", "safe: mentioned or implied"),
    ("safe", "named", "safe: named outright"),
)


def audit_figure(path: Path, differences: Sequence[Path], count: int, seed: int) -> Figure:
    """Return a panel a pair of sets, with the samples that mention each attribute, and examples of what was changed.

    Args:
        path: tidy table of the audit.
        differences: what was changed in each safe set.
        count: examples of each attribute.
        seed: of the draw of the examples.

    Raises:
        PaperError: a file cannot be read.
    """
    rows = [r for r in read_mentions(path) if r.part == "all"]
    changes = choose_changes(differences, count, seed)
    blocks, examples_inches = _lay_out(changes)
    height = TOP + PANEL_INCHES + BOTTOM + examples_inches
    figure = Figure(figsize=(TEXT_INCHES, height))
    names = unique(r.pair for r in rows)
    width = (TEXT_INCHES - LEFT - MARGIN - GAP * (len(names) - 1)) / len(names)
    for place, pair in enumerate(names):
        left = LEFT + place * (width + GAP)
        bottom = 1 - (TOP + PANEL_INCHES) / height
        axes = figure.add_axes((left / TEXT_INCHES, bottom, width / TEXT_INCHES, PANEL_INCHES / height))
        _panel(axes, [r for r in rows if r.pair == pair], labelled=place == 0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    above = 1 - (TOP + PANEL_INCHES + 0.34) / height
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, above), ncols=3, fontsize=6.5)
    if blocks:
        _draw_examples(figure, blocks, examples_inches / height)
    return figure


def _panel(axes: Axes, rows: Sequence[MentionCount], labelled: bool) -> None:
    names = in_order((r.attribute for r in rows), ROWS)
    shades = {"safe": colour(SAFE), "original": colour(ORIGINAL)}
    for role, measure, label in SERIES:
        known = [r for r in rows if (r.role, r.measure) == (role, measure)]
        shift = -SHIFT if role == "original" else SHIFT
        axes.plot(
            [r.samples or 0 for r in known],
            [names.index(r.attribute) + shift for r in known],
            linestyle="none",
            marker="o",
            markersize=4,
            color=shades[role],
            markerfacecolor=shades[role] if measure == "named" else "white",
            clip_on=False,
            label=label,
        )
    if said := [r for r in rows if r.source == "published"]:
        places = [names.index(r.attribute) - SHIFT for r in said]
        axes.plot([r.samples or 0 for r in said], places, "x", color="black", markersize=4, label="original: published")
    _axis(axes, rows)
    axes.set_yticks(range(len(names)), [row_title(name) for name in names] if labelled else [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    total = next(r.n_samples for r in rows if r.role == "original" and r.source == "computed")
    axes.set_title(f"{rows[0].pair} ({total:,} samples)")


def _axis(axes: Axes, rows: Sequence[MentionCount]) -> None:
    """Make the axis one of counts over decades, with a place for zero."""
    highest = max([1, *(r.samples or 0 for r in rows)])
    decades = [0, *(10**power for power in range(len(str(highest)) + 1))]
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xlim(0, decades[-1])
    axes.xaxis.set_major_locator(FixedLocator(decades))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(int(value))))
    axes.grid(axis="x")
    axes.set_xlabel("samples that mention it")


def _short(value: int) -> str:
    if value >= 1_000_000:
        return f"{value // 1_000_000}M"
    return f"{value // 1000}k" if value >= 1000 else str(value)


Block = tuple[float, Change, list[str], list[str]]
COLUMN = (TEXT_INCHES - LEFT - MARGIN - GAP) / 2


def _lay_out(changes: Sequence[Change]) -> tuple[list[Block], float]:
    """Return the examples with their places in inches from the first one's top, and how high they are together."""
    blocks: list[Block] = []
    y = 0.3
    for change in changes:
        before = wrap(change.before, COLUMN, POINTS).split("\n")
        after = wrap(change.after or "(removed)", COLUMN, POINTS).split("\n")
        blocks.append((y, change, before, after))
        y += max(len(before), len(after)) * POINTS * LINE / 72 + 0.09
    return blocks, y + MARGIN if blocks else 0.0


def _draw_examples(figure: Figure, blocks: Sequence[Block], height: float) -> None:
    page = figure.add_axes((0, 0, 1, height))
    page.set_xlim(0, TEXT_INCHES)
    page.set_ylim(height * figure.get_figheight(), 0)
    page.set_axis_off()
    for x, text, shade in ((LEFT, "original", ORIGINAL), (LEFT + COLUMN + GAP, "safe", SAFE)):
        page.text(x, 0.19, text, size=HEAD_POINTS, weight="bold", color=colour(shade), va="baseline")
    for number, (y, change, before, after) in enumerate(blocks):
        if number % 2 == 0:
            deep = max(len(before), len(after)) * POINTS * LINE / 72 + 0.07
            page.add_patch(Rectangle((MARGIN / 2, y - 0.035), TEXT_INCHES - MARGIN, deep, color=BAND, zorder=0))
        page.text(MARGIN, _baseline(y, 0), row_title(change.attribute), size=POINTS, color=MUTED, va="baseline")
        _mark(page, change, before, y)
        for x, lines in ((LEFT, before), (LEFT + COLUMN + GAP, after)):
            for place, line in enumerate(lines):
                page.text(x, _baseline(y, place), line, size=POINTS, va="baseline")
    page.axhline(0.25, MARGIN / TEXT_INCHES, 1 - MARGIN / TEXT_INCHES, color=GRID, linewidth=0.6)


def _baseline(y: float, line: int) -> float:
    return y + (line + 0.8) * POINTS * LINE / 72


def _mark(page: Axes, change: Change, lines: Sequence[str], y: float) -> None:
    """Lay a band behind the words that name the attribute, whichever lines they are on."""
    # Lines hold the same words with other spaces between them: letters are what is counted.
    begin, end = (len("".join(change.before[:place].split())) for place in change.span)
    seen = 0
    for number, line in enumerate(lines):
        inside = []
        for place, letter in enumerate(line):
            if not letter.isspace():
                if begin <= seen < end:
                    inside.append(place)
                seen += 1
        if inside:
            left = text_width(line[: inside[0]], POINTS)
            width = text_width(line[: inside[-1] + 1], POINTS) - left
            line_inches = POINTS * LINE / 72
            band = Rectangle((LEFT + left, y + number * line_inches), width, line_inches, color=MARK, zorder=0.5)
            page.add_patch(band)
