"""The crate holds what the results came from, and is valid by the validator of RO-Crates."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.errors import PaperError
from safe_llava.core.files import write_json, write_text
from safe_llava.paper import crate

SECRET = "user:secret@"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder of one table, one figure, one receipt of each kind, and logs."""
    folder = tmp_path / "results"
    for name in ("tables/prism.csv", "tables/prism.md", "figures/prism.png", "logs/prism/table.log", "costs/costs.csv"):
        write_text(folder / name, "x\n")
    file = {"set": "prism-v1", "path": "eval/a.jsonl", "size": 3, "sha256": "ab", "checked": []}
    write_json(folder / "data/fetched/eval/a.jsonl.json", file | {"url": f"https://{SECRET}host.org/a.jsonl"})
    snapshot = {"repo": "o/m", "repo_type": "model", "revision": "main", "commit": "c0ffee", "set": "clip"}
    snapshot |= {
        "url": "https://huggingface.co/o/m/resolve/main/",
        "files": {"config.json": {"size": 2, "sha256": "cd"}},
    }
    write_json(folder / "data/snapshots/clip.json", snapshot)
    write_json(tmp_path / "config.json", {"mirrors": [f"https://{SECRET}mirror.org/x"], "results": "results"})
    write_text(tmp_path / "logs/2026.snakemake.log", "Building DAG of jobs...\n")
    return folder


def packed(results: Path, root: Path) -> Path:
    work = results.parent
    fixed = ["--config", str(work / "config.json"), "--workflow", str(root / "workflow")]
    out = work / "crate"
    crate.main(["--results", str(results), *fixed, "--snakemake-logs", str(work / "logs"), "--out", str(out)])
    return out


def entities(out: Path) -> dict[str, dict[str, Any]]:
    return {one["@id"]: one for one in json.loads((out / "ro-crate-metadata.json").read_text())["@graph"]}


def test_everything_that_the_results_came_from_is_there(results: Path, root: Path) -> None:
    out = packed(results, root)
    found = entities(out)
    run = found["#run"]
    assert {one["@id"] for one in run["result"]} == {
        *("tables/prism.csv", "tables/prism.md", "figures/prism.png", "costs/costs.csv")
    }
    assert {one["@id"] for one in run["object"]} == {
        *("https://host.org/a.jsonl", "https://huggingface.co/o/m/resolve/c0ffee/config.json", "config.json")
    }
    assert (found["https://host.org/a.jsonl"]["sha256"], found["https://host.org/a.jsonl"]["contentSize"]) == (
        "ab",
        "3",
    )
    assert {"workflow/Snakefile", "workflow/rules/prism.smk", "logs/prism/table.log"} <= set(found)
    assert "logs/snakemake/2026.snakemake.log" in found
    for name, one in found.items():
        if one["@type"] == "File" and "://" not in name:
            assert (out / name).is_file()
    with (out / "inputs.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["sha256"] for row in csv.DictReader(stream)] == ["ab", "cd"]
    assert json.loads((out / "provenance.json").read_text())["commit"]
    assert SECRET not in "".join(path.read_text(errors="replace") for path in out.rglob("*") if path.is_file())


def test_it_is_made_again_whole(results: Path, root: Path) -> None:
    out = packed(results, root)
    write_text(out / "tables/old.csv", "old\n")
    packed(results, root)
    assert not (out / "tables/old.csv").exists()
    assert sorted(path.name for path in results.parent.iterdir()) == ["config.json", "crate", "logs", "results"]


def test_a_folder_of_somebody_else_is_left_alone(results: Path, root: Path) -> None:
    (packed(results, root) / "ro-crate-metadata.json").unlink()
    with pytest.raises(PaperError, match=r"exists and was not made by this step: no ro-crate-metadata\.json"):
        packed(results, root)


def test_what_is_missing_is_named(tmp_path: Path, results: Path, root: Path) -> None:
    write_json(results / "data/fetched/eval/a.jsonl.json", {"url": "https://host.org/a"})
    with pytest.raises(PaperError, match="a receipt without 'path'"):
        packed(results, root)
    with pytest.raises(PaperError, match="no tables or figures"):
        crate.run_times(tmp_path / "nothing")


def test_it_is_valid(results: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The validator wants versions of other libraries than the workflow has: it gets an environment of its own.
    home = tmp_path_factory.mktemp("validator")
    venv.create(home, with_pip=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    pip = [str(home / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "roc-validator==0.13.0", "rocrate==0.16.0"], check=True, env=clean, capture_output=True)
    command = [str(home / "bin/python"), str(root / "tests/packaging/validate_crate.py"), str(packed(results, root))]
    done = subprocess.run(command, check=True, env=clean, capture_output=True, text=True)
    issues = [line for line in done.stdout.splitlines() if "is not available" not in line]  # there is no internet
    assert not [line for line in issues if line.startswith("REQUIRED")], done.stdout
    # Who ran it, and where the workflow is published, nobody but the user knows.
    assert len(issues) <= 5, done.stdout
