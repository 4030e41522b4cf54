"""Snakemake's own linter finds nothing in the rule files but what is meant."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# A stage's functions stand on top of its own file, where a reader of its rules looks for them. The linter wants them
# in one common file, and has no option to leave this out.
MEANT = {"Mixed rules and functions in same snakefile."}
LINT = re.compile(r"^Lints for (?P<item>.+):$|^    \* (?P<title>.+):$", re.MULTILINE)


def test_the_linter_finds_nothing_else(root: Path) -> None:
    """Every finding is printed with its file or rule."""
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert "Lints for" in done.stderr, done.stderr
    found, item = [], ""
    for match in LINT.finditer(done.stderr):
        item = match["item"] or item
        if match["title"] and match["title"] not in MEANT:
            found.append(f"{item}: {match['title']}")
    assert found == []
