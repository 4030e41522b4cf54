"""Make one figure of the paper, as PDF and PNG, from tidy files; equal inputs give equal bytes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import matplotlib as mpl
from matplotlib.figure import Figure

from safe_llava.config.paper import FigureKind
from safe_llava.core import cli
from safe_llava.core.errors import PaperError
from safe_llava.paper.figures.audit import audit_figure
from safe_llava.paper.figures.benchmarks import benchmark_pairs_figure, benchmarks_figure
from safe_llava.paper.figures.contact_sheet import examples_figure
from safe_llava.paper.figures.judging import judges_figure, paired_figure
from safe_llava.paper.figures.prism import differences_figure, prism_figure, released_figure
from safe_llava.paper.figures.style import STYLE, save
from safe_llava.paper.figures.training import training_figure

ONE_FILE = {"prism_released": released_figure, "prism_judges": judges_figure, "differences": differences_figure}
COLOURED = {
    "prism": prism_figure,
    "prism_paired": paired_figure,
    "benchmarks": benchmarks_figure,
    "benchmarks_paired": benchmark_pairs_figure,
}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True, choices=get_args(FigureKind))
    parser.add_argument("--input", nargs="+", type=Path, default=[], metavar="FILE.csv", help="tidy scores or metrics")
    parser.add_argument("--labels", nargs="+", default=[], metavar="MODEL/STAGE", help="training: one for each input")
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="in the order of their colours")
    parser.add_argument("--answers", nargs="+", type=Path, default=[], metavar="FILE.jsonl", help="examples: answers")
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="DIR", help="examples: image folders")
    parser.add_argument("--count", type=int, default=3, help="examples: how many images")
    parser.add_argument("--seed", type=int, default=42, help="examples, audit: seed of what is drawn")
    parser.add_argument("--pdf", required=True, type=Path, metavar="FILE.pdf")
    parser.add_argument("--png", required=True, type=Path, metavar="FILE.png")
    return parser.parse_args(argv)


def draw_figure(options: argparse.Namespace) -> Figure:
    """Return the figure that the options ask for.

    Raises:
        PaperError: the kind's inputs are not there, or cannot be drawn.
    """
    if options.kind == "examples":
        if not options.answers or not options.images:
            raise PaperError("the examples need answers and images", "give --answers FILE… and --images DIR…")
        return examples_figure(options.answers, options.images, options.count, options.seed)
    if options.kind == "training":
        if not options.input:
            raise PaperError("the training figure needs metrics files", "give --input FILE… and --labels MODEL/STAGE…")
        return training_figure(options.input, options.labels, options.models)
    if options.kind == "audit":
        if not options.input:
            raise PaperError("the audit's figure needs its table", "give --input TABLE.csv DIFFERENCES.csv.gz…")
        return audit_figure(options.input[0], options.input[1:], 1, options.seed)
    if len(options.input) != 1:
        raise PaperError(
            f"the {options.kind} figure is made from one file, not {len(options.input)}", "give --input one file"
        )
    if options.kind in COLOURED:
        return COLOURED[options.kind](options.input[0], options.models)
    return ONE_FILE[options.kind](options.input[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure and write both files."""
    options = _arguments(argv)
    with mpl.rc_context(STYLE):
        figure = draw_figure(options)
        save(figure, options.pdf, "pdf")
        save(figure, options.png, "png")


if __name__ == "__main__":
    cli.run(main)
