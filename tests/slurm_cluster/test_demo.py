"""The demo, from a fresh copy of the clone, through SLURM and in images: every job without a network."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from safe_llava.demo.run import snakemake
from slurm_cluster.conftest import ROOT, Built, Cluster, accounted
from workflow.conftest import demo_dag, job_counts
from workflow.dag import Dag

__all__ = ["demo_dag"]

pytestmark = pytest.mark.cluster
LOCAL = ROOT / "results/demo"
RESULTS = "results/demo"
ELSEWHERE = ROOT / "build/results-of-the-cluster"
LONGEST = 3600
SITE = {"account": "lab", "partition": "cpu", "gpu-partition": "gpu"}
SECRETS = {"OPENAI_API_KEY": "sk-hush-hush-hush", "HF_TOKEN": "hf_hush-hush-hush"}
# One of the two models is trained by one process on each of two nodes, where `make demo` has two on one.
SPREAD = {"train": {"models": {"demo-safe": {"nodes": 2}}}}
NOT_COPIED = (".venv", ".git", ".snakemake", "results", "build", "__pycache__", ".*_cache")
# On a compute node a step sees no network; steps of several nodes have to see each other.
WITHOUT_NETWORK = """#!/bin/sh
if [ -n "$SLURM_JOB_ID" ] && [ "$SLURM_NNODES" != 2 ] && [ "$1" = exec ]; then
    shift
    set -- exec --net --network none "$@"
fi
exec {apptainer} "$@"
"""


@dataclass
class Demo:
    """A finished demo and what it left."""

    clone: Path
    environment: dict[str, str]
    log: str
    planned: dict[str, int]

    def again(self, *arguments: str) -> str:
        """What Snakemake would do now."""
        command = snakemake(RESULTS, "2", "-n", *arguments, files=["site.yaml"])
        done = subprocess.run(command, cwd=self.clone, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    @property
    def ended(self) -> list[dict[str, str]]:
        """The submissions that ended."""
        return [
            json.loads(line) for line in (self.clone / ".snakemake/slurm-steady/jobs.jsonl").read_text().splitlines()
        ]


def fill_in_the_site(profile: Path) -> None:
    text = profile.read_text()
    for name, value in SITE.items():
        text, found = re.subn(rf'^slurm-steady-{name}: "unknown"$', f"slurm-steady-{name}: {value}", text, flags=re.M)
        assert found == 1, name
    profile.write_text(text)


def not_copied(folder: str, names: list[str]) -> set[str]:
    """Return what of a folder a clone would not have; the built container images are large."""
    built = {"images"} if Path(folder) == ROOT / "containers" else set()
    return shutil.ignore_patterns(*NOT_COPIED)(folder, names) | built


@pytest.fixture(scope="module")
def demo(cluster: Cluster, images: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Run it as a user does, after nothing but the site's three entries."""
    folder = tmp_path_factory.mktemp("demo")
    clone = folder / "clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=not_copied)
    # Results are often elsewhere: images have to be shown where.
    shutil.rmtree(ELSEWHERE, ignore_errors=True)
    ELSEWHERE.mkdir(parents=True)
    (clone / "results").symlink_to(ELSEWHERE)
    fill_in_the_site(clone / "workflow/profiles/slurm/config.yaml")
    (clone / "site.yaml").write_text(yaml.safe_dump({**yaml.safe_load(images.settings.read_text()), **SPREAD}))
    wrapper = folder / "bin/apptainer"
    wrapper.parent.mkdir()
    wrapper.write_text(WITHOUT_NETWORK.replace("{apptainer}", str(shutil.which("apptainer"))))
    wrapper.chmod(0o755)
    environment = {**cluster.environment, **SECRETS, "PYTHONPATH": str(clone / "scripts")}
    environment["PATH"] = f"{wrapper.parent}:{environment['PATH']}"
    del environment["APPTAINER_BIND"]
    made = Demo(clone, environment, "", {})
    command = [sys.executable, "-m", "safe_llava.demo.run", "--results", RESULTS, "--configfile", "site.yaml"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--", "--profile", "slurm"], cwd=clone, env=environment, stdout=log, stderr=log, text=True
        )
        try:
            code = process.wait(timeout=LONGEST)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
    made.log = (folder / "log").read_text()
    assert code == 0, made.log[-8000:]
    made.planned = job_counts(made.log)
    yield made
    shutil.rmtree(ELSEWHERE)


def test_every_rule_but_the_local_ones_went_through_slurm(demo: Demo, cluster: Cluster, demo_dag: Dag) -> None:
    """From the accounting: as many jobs of each rule as were planned, each well ended and named in its comment."""
    accounted(cluster, [one["job"] for one in demo.ended], "State")
    fields = "WorkDir,State,Comment"
    rows = cluster.ask("sacct", "-X", "-n", "-P", "-S", "now-3hours", "-o", fields).splitlines()
    mine = [row.split("|") for row in rows if row.split("|")[0] == str(demo.clone)]
    done = [comment for _, state, comment in mine if state == "COMPLETED"]
    rules = Counter(re.sub(r"_wildcards_.*", "", comment.removeprefix("rule_")) for comment in done)
    expected = {name: count for name, count in demo.planned.items() if name not in {"total", *demo_dag.local_rules}}
    assert rules == expected
    assert {"train_pretrain_spread", "train_finetune_spread", "train_finetune", "prism_answers"} <= set(expected)


def test_every_job_ran_in_its_image(demo: Demo, images: Built) -> None:
    """As the jobs' own shells said; on two nodes a shell starts the image, and its record says so."""
    expected = {"train": "train", "prism_answers": "eval", "benchmarks_run": "eval"}
    for one in demo.ended:
        rule = one["name"].split(".")[0]
        if rule.endswith("_spread"):
            continue
        name = expected.get(rule, expected.get(rule.split("_")[0], "paper"))
        assert one["image"] == images.path(name), one
    for file in demo.clone.glob(f"{RESULTS}/train/*/*/summary.json"):
        assert json.loads(file.read_text())["provenance"]["image"]["path"] == images.path("train"), file


def test_local_rules_ran_in_their_images_too(demo: Demo, images: Built) -> None:
    records = [*demo.clone.glob(f"{RESULTS}/prism/**/*.record.json")]
    assert records
    for file in records:
        assert json.loads(file.read_text())["image"]["path"] == images.path("paper"), file


def test_its_tables_are_those_of_the_demo_without_cluster_and_images(demo: Demo) -> None:
    tables = sorted((LOCAL / "tables").iterdir())
    assert len(tables) > 5, "run `make demo` first"
    made = demo.clone / RESULTS / "tables"
    assert sorted(file.name for file in made.iterdir()) == [file.name for file in tables]
    for table in tables:
        assert (made / table.name).read_bytes() == table.read_bytes(), table.name


def test_nothing_is_made_again_with_or_without_cluster_and_images(demo: Demo) -> None:
    for arguments in (["--profile", "slurm"], []):
        assert "Nothing to be done" in demo.again(*arguments)


def test_a_rule_again_asks_for_what_follows_from_it_and_nothing_before(demo: Demo) -> None:
    counts = job_counts(demo.again("--profile", "slurm", "-R", "prism_judge", "--", "prism"))
    assert counts.keys() == {"prism_judge", "prism_score", "prism_table", "prism", "total"}
    for rule in ("prism_judge", "prism_score", "prism_table"):
        assert counts[rule] == demo.planned[rule]


def test_no_secret_in_accounting_scripts_logs_or_results(demo: Demo, cluster: Cluster) -> None:
    kept = demo.log
    for one in demo.ended:
        for part in ("--env-vars", "--batch-script"):
            kept += cluster.ask("sacct", "-j", one["job"], part)
    assert "OMP_NUM_THREADS" in kept and "snakemake" in kept, "the accounting keeps environments and scripts"
    assert "hush" not in kept
    for file in [*(demo.clone / "results").rglob("*"), *(demo.clone / ".snakemake").rglob("*")]:
        if file.is_file():
            assert b"hush-hush" not in file.read_bytes(), file
