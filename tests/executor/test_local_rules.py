"""Which rules run on the login node, and why; tests/slurm_cluster/test_demo.py shows that no other needs a network."""

from __future__ import annotations

import re
from pathlib import Path


def text_of_rules(root: Path) -> str:
    files = [root / "workflow/Snakefile", *sorted((root / "workflow/rules").glob("*.smk"))]
    return "\n".join(file.read_text() for file in files)


def local_rules(root: Path) -> set[str]:
    blocks = re.findall(r"^localrules:\n((?:    \w+,\n)+)", text_of_rules(root), re.MULTILINE)
    return {line.strip(" ,") for block in blocks for line in block.splitlines()}


def test_the_page_says_of_every_local_rule_why(root: Path) -> None:
    page = (root / "docs/cluster.md").read_text()
    table = re.search(r"\| local rules \| why \|\n\|---\|---\|\n((?:\|.+\n)+)", page)
    assert table
    said = [name for line in table[1].splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert len(said) == len(set(said))
    assert set(said) == local_rules(root)


def test_every_local_rule_is_one_of_the_workflow(root: Path) -> None:
    named = set(re.findall(r"^\s*(?:rule|use rule \w+ as) (\w+)", text_of_rules(root), re.MULTILINE))
    assert local_rules(root) <= named


def test_whatever_downloads_or_asks_a_judge_is_local(root: Path) -> None:
    assert {"data_fetch", "data_snapshot", "data_covers", "prism_judge", "benchmarks_judged"} <= local_rules(root)
