"""How every figure looks, and how it is written so that equal inputs give equal bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safe_llava.core.files import atomic_path

COLUMN_INCHES = 3.45  # a column of a two-column page
TEXT_INCHES = 7.0  # the text width of such a page

# Okabe and Ito's palette and Tol's wine: distinct with the common kinds of colour blindness; markers differ too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A", "#882255")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
GRID, MUTED, BAND = "#D9D9D9", "#5F5F5F", "#F3F3F3"

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.parse_math": False,  # a dollar sign in an answer is a dollar sign
    "pdf.fonttype": 42,
    "savefig.dpi": 220,
}


def colour(position: int) -> str:
    """Return the colour of the series at ``position``; it repeats after nine."""
    return PALETTE[position % len(PALETTE)]


def marker(position: int) -> str:
    """Return the marker of the series at ``position``; where colours repeat, it is another than before."""
    return MARKERS[(position + position // len(PALETTE)) % len(MARKERS)]


def positions(names: Iterable[str], order: Iterable[str] = ()) -> dict[str, int]:
    """Return a position for each name: that in ``order``, and one behind it for names that are not there.

    With one order for all figures, a model has one colour in all of them.
    """
    return {name: position for position, name in enumerate(dict.fromkeys([*order, *names]))}


def dots(axes: Axes, points: Sequence[tuple[float, float]], shade: int, shape: int, label: str) -> None:
    """Draw one series as markers alone, which may reach over the edge of the axes."""
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        linestyle="none",
        marker=marker(shape),
        markersize=3.5,
        color=colour(shade),
        label=label,
        clip_on=False,
        in_layout=False,
    )


def category_axis(axes: Axes, labels: Sequence[str], margin: float = 0.6) -> None:
    """Make the vertical axis one of categories from the top down, with no ticks, and the horizontal one a grid."""
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 1 + margin, -margin)
    axes.grid(axis="x")


def percent_axis(axes: Axes) -> None:
    """Make the horizontal axis one of percents, with room for a marker at either end."""
    axes.set_xlim(-4, 104)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.grid(axis="x")


def save(figure: Figure, path: Path | str, form: str) -> None:
    """Write ``figure`` as ``form`` (pdf or png), whole or not at all, without a date in it."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it lists every glyph that it embeds
    metadata = {"CreationDate": None, "Producer": None, "Creator": None} if form == "pdf" else {"Software": None}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=form, metadata=metadata)
