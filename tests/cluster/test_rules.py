"""`snakemake preflight` and `snakemake costs`, as a user types them; and where the table of costs comes in the DAG."""

from __future__ import annotations

from pathlib import Path

from workflow.conftest import Run, job_counts, planned, snakemake

__all__ = ["snakemake"]  # a fixture
DEMO = ("--configfile", "config/demo.yaml")


def test_preflight_looks_into_every_image_and_again_each_time(snakemake: Run, tmp_path: Path) -> None:
    results = f"results={tmp_path}/results"
    data = f"data={{root: {tmp_path}/data}}"
    # A judge without its key: something is red, and the page is whole all the same.
    command = ("preflight", *DEMO, "--config", results, data, "prism={select: {judges: [gpt-ours]}}")
    done = snakemake(*command, "--cores", "2")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    page = (tmp_path / "results/preflight/preflight.html").read_text()
    for line in ("OPENAI_API_KEY is not set", "gloo on CPUs", "room for the data", "layout of prism-v2"):
        assert line in said and line in page, line
    for environment in ("train environment", "eval environment", "paper environment"):
        assert environment in page
    assert "has not reported" not in page
    again = snakemake("-n", *command)
    made = planned(again.stdout)
    assert made.keys() == {"preflight_login", "preflight_node"}
    assert {Path(path).stem for path in made["preflight_node"]} == {"train", "eval", "paper"}


def test_a_job_that_fails_costs_its_own_lines_alone(snakemake: Run, tmp_path: Path) -> None:
    # What bash reads before each command: the job that would write paper.json ends badly.
    broken = tmp_path / "broken.sh"
    broken.write_text('python() { [[ "$*" != *paper.json* ]] && command python "$@"; }\n')
    config = (f"results={tmp_path}/results", f"data={{root: {tmp_path}/data}}", "train={select: {models: []}}")
    done = snakemake("preflight", *DEMO, "--config", *config, "--cores", "2", env={"BASH_ENV": str(broken)})
    assert done.returncode != 0
    assert "RED   paper environment  job: its job has not reported" in done.stdout
    page = (tmp_path / "results/preflight/preflight.html").read_text()
    assert "its job has not reported" in page
    assert "eval environment" in page and "lmms-eval" in page


def test_what_an_earlier_preflight_found_stands_in_for_no_job(snakemake: Run, tmp_path: Path) -> None:
    """The step on the login node goes first, and takes the facts and the page of before away."""
    folder = tmp_path / "results/preflight"
    config = (f"results={tmp_path}/results", f"data={{root: {tmp_path}/data}}", "train={select: {models: []}}")
    folder.mkdir(parents=True)
    for name in ("paper.json", "eval.json", "preflight.html"):
        (folder / name).write_text("{}")
    done = snakemake("preflight_login", *DEMO, "--config", *config, "--cores", "1")
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "login.json"]
    # No job looks around before that.
    done = snakemake("-n", f"{folder}/paper.json", *DEMO, "--config", *config)
    assert "preflight_login" in planned(done.stdout)


def test_costs_are_printed_each_time_they_are_asked_for(snakemake: Run, tmp_path: Path) -> None:
    command = ("costs", "--cores", "1", "--config", f"results={tmp_path}/results", "costs={gpu_hour: 2.5}")
    for _ in range(2):
        done = snakemake(*command)
        assert done.returncode == 0, done.stderr
        assert "llava-v1.5-7b, finetune" in done.stdout
        assert "$2.5 for an hour of a GPU" in done.stdout
    folder = tmp_path / "results" / "costs"
    assert {file.name for file in folder.iterdir()} == {"planned.csv", "planned.md"}


def test_what_the_run_has_cost_is_counted_behind_everything_else(snakemake: Run) -> None:
    fresh = ("--config", "results=/nonexistent/results")
    done = snakemake("-n", *DEMO, *fresh)
    counts = job_counts(done.stdout + done.stderr)
    assert {"paper_costs", "paper_costs_table"} <= counts.keys()
    done = snakemake("-n", "/nonexistent/results/costs/costs.csv", *DEMO, *fresh)
    behind = job_counts(done.stdout + done.stderr)
    left_out = {"paper_costs_table", "demo_check", "share_browse", "all", "total"}
    assert {name: behind.get(name) for name in counts if name not in left_out} == {
        name: count for name, count in counts.items() if name not in left_out
    }
