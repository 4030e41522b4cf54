"""What holds of every rule: what changes a result is compared, and the files of rules may be read in any order."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.load import over_defaults
from workflow.dag import RESULTS, ROOT, Job, jobs

DEMO = ("config/demo.yaml",)
# Places: what lies there is among the inputs.
PLACES = {"annotations", "folder", "images", "language_model", "ledger", "original", "prompts", "python", "receipts"}
PLACES |= {"root", "safe", "source", "tensorboard", "to", "usage", "vision_tower"}
# Stamps and digests, which no other value equals; and `kind`, which has no word in common with `decode`.
OF_THEIR_OWN = {"retry", "rules", "version", "kind"}
FIRST, SECOND = "demo-safe", "demo-original"


@pytest.fixture(scope="module")
def paper_raw() -> dict[str, Any]:
    return over_defaults({})


def named(value: Any) -> bool:
    """Whether a value says what it stands for: a row as JSON, a step's arguments, or none of them."""
    if isinstance(value, list):
        return value == [] or str(value[0]).startswith("--")
    return isinstance(value, str) and value.startswith(('{"', "[{", "{}"))


def test_no_two_values_of_a_job_can_change_places(paper_jobs: dict[str, Job], demo_jobs: dict[str, Job]) -> None:
    """Snakemake compares the parameters of a job as a set of values, without their names and their number."""
    for job in (*paper_jobs.values(), *demo_jobs.values()):
        values = {name: ast.literal_eval(text) for name, text in job.compared.items()}
        bare = {name: value for name, value in values.items() if name not in PLACES | OF_THEIR_OWN and not named(value)}
        types = [type(value).__name__ for value in bare.values()]
        assert len(types) == len(set(types)), (job.rule, bare)


GOLDEN = ROOT / "tests/golden/kept_parameters.json"
EXPENSIVE = {
    "train/llava-v1.5-7b/pretrain/projector.safetensors",
    "train/llava-v1.5-7b/model",
    "prism/models/InternVLC2_5",
    "prism/answers/v1/LLaVA/record.json",
    "benchmarks/LLaVA/pope/results.json",
}


def test_what_a_finished_run_spent_gpus_on_is_not_made_again(paper_jobs: dict[str, Job]) -> None:
    """The parameters are those that the first release kept: another value trains, asks or converts again."""
    made = {path.removeprefix(f"{RESULTS}/"): job for job in paper_jobs.values() for path in job.output}
    kept = {path: sorted(set(made[path].compared.values())) for path in sorted(EXPENSIVE)}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
    assert kept == json.loads(GOLDEN.read_text()), "a finished run is run again by this: name it in CHANGELOG.md"


def settings(one: Any, other: Any, low: float, high: float) -> dict[str, Any]:
    """Values of one type beside each other, as they come."""
    return {
        "data": {"tolerance": {"missing": low, "undecodable": high}},
        "prism": {"allow_failed": {"answers": low / 100, "verdicts": high / 100}},
        "paper": {"examples": {"count": low, "seed": high}, "compare": [{"safe": one, "original": other}]},
        "demo": {"safe": one, "original": other},
    }


def test_values_that_change_places_make_again_whatever_reads_them() -> None:
    before, after = jobs(settings(FIRST, SECOND, 1, 2), DEMO), jobs(settings(SECOND, FIRST, 2, 1), DEMO)
    differing = {output for output, job in before.items() if job.command != after[output].command}
    rules = {before[output].rule for output in differing}
    assert {"data_layout", "prism_table", "prism_paired", "paper_figure", "paper_summary", "demo_check"} <= rules
    for output in differing:
        old, new = before[output], after[output]
        assert (set(old.compared.values()), old.input) != (set(new.compared.values()), new.input), old.rule


def test_a_mirror_stands_in_no_parameter_and_in_no_command(
    paper_jobs: dict[str, Job], paper_raw: dict[str, Any]
) -> None:
    """Nor does anything else of how bytes come: so no job has a reason to run again for it."""
    sets = {
        name: {"files": [{**file, "mirrors": ["https://me:secret@copies.example/"]} for file in row["files"]]}
        for name, row in paper_raw["data"]["sets"].items()
        if "files" in row
    }
    data = {"sets": sets, "connections": 7, "retries": 1, "connect_timeout_s": 2, "bandwidth_mb_s": 3}
    assert jobs({"mirrors": ["https://me:secret@mirror.example/"], "data": data}) == paper_jobs


def test_the_files_of_rules_may_be_read_in_any_order(demo_jobs: dict[str, Job], tmp_path: Path) -> None:
    for folder in ("config", "containers", "envs", "scripts"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    snakefile = tmp_path / "workflow/Snakefile"
    lines = snakefile.read_text().splitlines()
    places = [k for k, line in enumerate(lines) if line.startswith("include:") and "common.smk" not in line]
    shuffled = random.Random(1).sample(places, len(places))
    assert len(places) > 5
    assert shuffled != places
    order = dict(zip(places, shuffled, strict=True))
    snakefile.write_text("\n".join(lines[order.get(k, k)] for k in range(len(lines))) + "\n")
    here = str(tmp_path)
    found = jobs(files=DEMO, root=tmp_path)
    assert found.keys() == demo_jobs.keys()
    for output, job in found.items():
        assert job.command.replace(here, str(ROOT)) == demo_jobs[output].command
        assert job.compared == demo_jobs[output].compared
