"""A table as data, and its two forms: Markdown that reads well raw, and LaTeX for booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

EMPTY = "–"
MINUS = "−"

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After a line's end these would be read as the argument of the line break.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    MINUS: "$-$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "·": r"$\cdot$",
}


@dataclass(frozen=True)
class Cell:
    """One value: its text, its interval, and how many of its questions failed."""

    text: str = EMPTY
    interval: str = ""
    failed: int = 0


@dataclass(frozen=True)
class TableLine:
    """One row of a section; lines of the same group stand together."""

    group: str
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """One block with its own header (``\n`` breaks a header cell in LaTeX); LaTeX's label is made of ``name``."""

    name: str
    title: str
    head: tuple[str, ...]
    lines: tuple[TableLine, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A whole table: its sections, and the notes that explain its marks."""

    title: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


def number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """Return a number, halves rounded away from zero, with a real minus sign, or a dash where there is none."""
    if value is None:
        return EMPTY
    # Through the written form: 72.25 of a CSV is a half, whatever the nearest binary fraction is.
    rounded = Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    text = f"{abs(rounded):f}"
    if rounded < 0:
        return MINUS + text
    return f"+{text}" if signed and rounded > 0 else text


def probability(value: float | None) -> str:
    """Return a p-value: three decimals, ``<0.001`` below them, a dash where there is none."""
    if value is None:
        return EMPTY
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Return ``[low, high]``, or nothing where an end is unknown."""
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def count_range(counts: Sequence[int | None]) -> str:
    """Return ``49–50`` for counts that differ, ``50`` for equal ones, a dash for none."""
    known = [count for count in counts if count is not None]
    if not known:
        return EMPTY
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low}–{high}"


def to_markdown(table: Table) -> str:
    """Return the table as Markdown whose columns are padded, so that it reads well as plain text."""
    parts = [f"# {table.title}"]
    for section in table.sections:
        parts.append(f"## {section.title}")
        rows = [[line.group, line.label, *map(_markdown_cell, line.cells)] for line in section.lines]
        head = [text.replace("\n", " ") for text in section.head]
        parts.append(markdown_grid([head, *rows], text_columns=2))
        if section.remarks:
            parts.append("\n".join(f"- {remark}" for remark in section.remarks))
    parts += list(table.notes)
    return "\n\n".join(parts) + "\n"


def markdown_grid(rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Return a pipe table of ``rows``, the first being the header; ``text_columns`` are flush left, the rest right."""
    cells = [[re.sub(r"([|\\`*<])", r"\\\1", text) for text in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    rule = ["-" * width if i < text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [
        [text.ljust(width) if i < text_columns else text.rjust(width) for i, (text, width) in enumerate(pairs)]
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def _markdown_cell(cell: Cell) -> str:
    text = f"{cell.text} {cell.interval}".rstrip()
    return f"{text} †{cell.failed}" if cell.failed else text


def latex_escape(text: str) -> str:
    """Return ``text`` with every character that LaTeX would read as a command made literal."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """Return one ``table*`` a section, to be ``\\input`` by a document that loads booktabs."""
    parts = ["% Needs \\usepackage{booktabs}; made by safe_llava.paper.table."]
    for position, section in enumerate(table.sections):
        notes = " ".join(table.notes) if position == 0 else ""
        parts.append(_latex_section(section, notes))
    return "\n\n".join(parts) + "\n"


def _latex_section(section: Section, notes: str) -> str:
    caption = latex_escape(f"{section.title}. {notes}".strip())
    lines = [
        r"\begin{table*}[tbp]",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9.]+', '-', section.name).lower()}}}",
        f"  \\begin{{tabular}}{{ll{'r' * (len(section.head) - 2)}}}",
        r"    \toprule",
        *_latex_head(section.head),
        r"    \midrule",
    ]
    group = None
    for line in section.lines:
        if group not in (None, line.group):
            lines.append(r"    \addlinespace")
        lines += _latex_line(line, name=line.group if line.group != group else "")
        group = line.group
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    if section.remarks:
        remarks = r" \\ ".join(map(latex_escape, section.remarks))
        lines.append(f"  \\par\\smallskip\\parbox{{0.9\\textwidth}}{{\\raggedright\\scriptsize {remarks}}}")
    return "\n".join([*lines, r"\end{table*}"])


def _latex_head(head: Sequence[str]) -> list[str]:
    depth = max(text.count("\n") for text in head) + 1
    columns = [[*text.split("\n"), *[""] * depth][:depth] for text in head]
    return ["    " + " & ".join(map(latex_escape, row)) + r" \\" for row in zip(*columns, strict=True)]


def _latex_line(line: TableLine, name: str) -> list[str]:
    texts = [latex_escape(cell.text) + (f"$^{{\\dagger{cell.failed}}}$" if cell.failed else "") for cell in line.cells]
    rows = ["    " + " & ".join([latex_escape(name), latex_escape(line.label), *texts]) + r" \\"]
    if any(cell.interval for cell in line.cells):
        small = [f"{{\\scriptsize {latex_escape(cell.interval)}}}" if cell.interval else "" for cell in line.cells]
        # A row of its own for the intervals keeps seven columns within the width of a page.
        rows.append("    " + " & ".join(["", "", *small]) + r" \\")
    return rows
