"""Make the tidy table of the audit from the counts of each set and the published ones.

`python -m safe_llava.data.audit_table --pair ORIGINAL SAFE [--published ORIGINAL Age=7600 …] --counts FILE.json… --out
OUT.csv`. A row a set, part, measure and attribute; published numbers are rows of their own, of the source `published`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json
from safe_llava.formats.mentions import MentionCount
from safe_llava.formats.prism import Attribute
from safe_llava.formats.tables import write_table

REMEDY = "let the workflow audit the set again"


def audit_rows(
    pair: str, dataset: str, role: Literal["original", "safe"], counts: Mapping[str, Any]
) -> list[MentionCount]:
    """Return the rows of one set of a pair."""
    return [
        MentionCount(
            *(pair, dataset, role, row["part"], row["measure"], row["attribute"]),
            *(counts["total"][row["part"]]["samples"], row["samples"]),
            *(counts["total"][row["part"]]["answers"], row["answers"]),
            source="computed",
        )
        for row in counts["mentions"]
    ]


def published_rows(pair: str, dataset: str, published: Mapping[str, int]) -> list[MentionCount]:
    """Return the rows of published numbers, in the order of the attributes."""
    return [
        MentionCount(
            pair, dataset, "original", "all", "published", name, None, published[name], None, None, "published"
        )
        for name in map(str, Attribute)
        if name in published
    ]


def parse_published(words: Sequence[str]) -> tuple[str, dict[str, int]]:
    """Return the set and the numbers of one ``--published``.

    Raises:
        DataError: a word is not ATTRIBUTE=NUMBER.
    """
    name, *numbers = words
    found = {}
    for word in numbers:
        attribute, _, number = word.partition("=")
        if attribute not in set(Attribute) or not number.isdigit():
            raise DataError(f"--published {word}: not ATTRIBUTE=NUMBER", f"attributes are {', '.join(Attribute)}")
        found[attribute] = int(number)
    return name, found


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="Make the tidy table of the audit.")
    parser.add_argument("--pair", action="append", nargs=2, required=True, metavar=("ORIGINAL", "SAFE"))
    parser.add_argument("--published", action="append", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--counts", type=Path, nargs="+", required=True, metavar="SET.json", help="named by their sets")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    args = parser.parse_args(argv)
    counts = {path.stem: read_json(path, REMEDY) for path in args.counts}
    published = dict(map(parse_published, args.published))
    rows: list[MentionCount] = []
    for original, safe in args.pair:
        if absent := [name for name in (original, safe) if name not in counts]:
            raise DataError(f"--counts: nothing of {absent[0]}", REMEDY)
        rows += audit_rows(safe, original, "original", counts[original]) + audit_rows(safe, safe, "safe", counts[safe])
        rows += published_rows(safe, original, published.get(original, {}))
    write_table(args.out, MentionCount, rows)


if __name__ == "__main__":
    cli.run(main)
