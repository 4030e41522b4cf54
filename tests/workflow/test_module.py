"""Another workflow uses the rules as a module: under other names, in a folder of its own, with a configuration."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from safe_llava.formats.prism import Task
from workflow.conftest import Run, job_counts, planned

MODULE = """
module safe_llava:
    snakefile: {snakefile!r}
    config: {config}
    {prefix}

use rule * from safe_llava as theirs_*
"""
MINE = """
rule mine:
    input: "upstream/results/prism/scores/published.csv"
    output: "mine.csv"
    shell: "head -n 3 {input} > {output}"
"""


@pytest.fixture
def outer(snakemake: Run, root: Path, tmp_path: Path):
    """Run another workflow, in a folder of its own, which has a configuration file of its own."""

    def run(*arguments: str, config: dict[str, Any] | None = None, prefix: bool = True, **texts: str):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config/config.yaml").write_text("samples: 3\nresults: its own\n")
        text = MODULE.format(
            snakefile=str(root / "workflow/Snakefile"),
            config=repr(config or {}),
            prefix="prefix: 'upstream'" if prefix else "",
        )
        before, after = texts.get("before", ""), texts.get("after", "")
        (tmp_path / "Snakefile").write_text(f"configfile: 'config/config.yaml'\n{before}{text}{after}")
        return snakemake("--snakefile", str(tmp_path / "Snakefile"), "--directory", str(tmp_path), *arguments)

    return run


def test_its_own_first_rule_stays_the_one_that_is_made(outer, tmp_path: Path) -> None:
    done = outer("--cores", "1", before=MINE)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "mine.csv").read_text().splitlines()) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"Snakefile", "config", "mine.csv", "upstream", ".snakemake"}


def test_without_a_rule_of_its_own_the_paper_is_made(outer) -> None:
    counts = job_counts(outer("-n").stdout)
    assert {"theirs_all", "theirs_paper_summary"} <= counts.keys()


def test_its_configuration_lies_over_that_of_the_clone(outer) -> None:
    table = "own/tables/prism_released.csv"
    config = {"results": "own", "prism": {"released_models": ["LLaVA"]}}
    done = outer("-n", table, config=config, prefix=False)
    assert done.returncode == 0, done.stderr
    released = planned(done.stdout)["theirs_prism_released"]
    assert set(released) == {f"own/prism/released/v1/LLaVA/{task}.jsonl" for task in Task}


def test_arguments_of_steps_name_the_folder_that_inputs_and_outputs_lie_in(outer) -> None:
    done = outer("-n", "-p", "theirs_paper", "theirs_preflight")
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if "-m safe_llava." in line]
    stages = {command.split("-m safe_llava.")[1].split(".")[0] for command in commands}
    assert {"data", "train", "prism", "benchmarks", "paper", "cluster"} <= stages
    for command in commands:
        places = re.findall(r"[^\s='\"]*(?:results|data)/", command)
        assert all(re.match(r"/|upstream/", place) for place in places if "://" not in place), command


def test_it_starts_with_the_checks_of_this_workflow(outer) -> None:
    """Snakemake calls no `onstart` of a module: the other workflow does."""
    judge = {"description": "another", "kind": "openai", "model": "one", "key_env": "A_JUDGES_KEY"}
    config = {"prism": {"judges": {"another": judge}, "select": {"judges": ["another"]}}}
    done = outer("--cores", "1", "theirs_prism", config=config, after="\nonstart:\n    safe_llava.onstart()\n")
    assert done.returncode != 0
    assert "judge `another` needs the environment variable A_JUDGES_KEY" in done.stdout + done.stderr


@pytest.mark.parametrize("text", ["", "results: elsewhere\n"])
def test_in_another_folder_its_own_configuration_is_read(snakemake: Run, root: Path, tmp_path: Path, text: str) -> None:
    if text:
        (tmp_path / "config").mkdir()
        (tmp_path / "config/config.yaml").write_text(text)
    published = f"{'elsewhere' if text else 'results'}/prism/scores/published.csv"
    snakefile = str(root / "workflow/Snakefile")
    done = snakemake("-n", "--snakefile", snakefile, "--directory", str(tmp_path), published)
    assert done.returncode == 0, done.stderr
    assert planned(done.stdout)["prism_published"] == [published]


def test_rules_without_their_clone_say_so(snakemake: Run, root: Path, tmp_path: Path) -> None:
    """As from an address: the rule files come alone."""
    for name in ("Snakefile", "rules/common.smk"):
        (tmp_path / "there/workflow" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there/workflow" / name).write_text((root / "workflow" / name).read_text())
    done: subprocess.CompletedProcess[str] = snakemake("-n", "--snakefile", str(tmp_path / "there/workflow/Snakefile"))
    assert "the steps are run from a clone, and this is none" in done.stdout + done.stderr
    assert "remedy: git clone" in done.stdout + done.stderr
