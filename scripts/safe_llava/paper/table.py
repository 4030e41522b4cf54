"""Make one table of the paper, as Markdown and as LaTeX, from a tidy scores file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from safe_llava.config.paper import TableKind
from safe_llava.core import cli
from safe_llava.core.files import write_text
from safe_llava.formats.grid import to_latex, to_markdown
from safe_llava.paper.tables.scores import TABLES


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
