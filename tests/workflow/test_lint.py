"""What the Snakemake workflow catalog looks at: its linters find nothing but what is meant, and its files are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

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


def test_the_rule_files_are_formatted(root: Path) -> None:
    command = [str(Path(sys.executable).with_name("snakefmt")), "--check", "workflow"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_catalog_finds_what_it_shows(root: Path) -> None:
    """Its standardized usage: these files, and which ways to deploy software work."""
    for name in ("README.md", "LICENSE", "config/README.md", "config/config.yaml", "workflow/Snakefile"):
        assert (root / name).is_file(), name
    usage = yaml.safe_load((root / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() <= {"mandatory-flags", "software-stack-deployment", "report"}
    ways = usage["software-stack-deployment"]
    assert ways.keys() <= {"conda", "singularity", "singularity+conda", "apptainer", "apptainer+conda"}
    assert any(ways.values()) and {type(one) for one in (*ways.values(), usage["report"])} == {bool}
    rules = "".join(path.read_text() for path in root.glob("workflow/**/*.smk"))
    assert ways["conda"] == ("conda:" in rules) and ways["singularity"] == ("container:" in rules)
    assert usage["report"] == ("report(" in rules)
