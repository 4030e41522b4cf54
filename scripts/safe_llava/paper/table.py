"""Make one table of the paper, as Markdown and as LaTeX, from a tidy scores file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from safe_llava.config.paper import TableKind
from safe_llava.core import cli
from safe_llava.core.files import write_text
from safe_llava.formats.markup import Table, to_latex, to_markdown
from safe_llava.paper.tables.audit import audit_table
from safe_llava.paper.tables.benchmarks import benchmark_pairs_table, benchmarks_table
from safe_llava.paper.tables.costs import costs_table
from safe_llava.paper.tables.judging import judges_table, paired_table
from safe_llava.paper.tables.prism import differences_table, prism_table, released_table

TABLES: dict[str, Callable[[Path | str], Table]] = {
    "prism": prism_table,
    "prism_released": released_table,
    "prism_paired": paired_table,
    "prism_judges": judges_table,
    "differences": differences_table,
    "benchmarks": benchmarks_table,
    "benchmarks_paired": benchmark_pairs_table,
    "audit": audit_table,
    "costs": costs_table,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the scores, write both forms of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True, choices=get_args(TableKind))
    parser.add_argument("--scores", required=True, type=Path, metavar="FILE.csv")
    parser.add_argument("--markdown", required=True, type=Path, metavar="FILE.md")
    parser.add_argument("--latex", required=True, type=Path, metavar="FILE.tex")
    options = parser.parse_args(argv)
    table = TABLES[options.kind](options.scores)
    write_text(options.markdown, to_markdown(table))
    write_text(options.latex, to_latex(table))


if __name__ == "__main__":
    cli.run(main)
