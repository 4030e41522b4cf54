"""The login node's lines, and the page that everything is gathered on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import configured
from safe_llava.cluster import login, preflight
from safe_llava.cluster.checks.findings import CheckResult, as_page, as_text, summary_line
from safe_llava.cluster.checks.node import Expected
from safe_llava.cluster.estimates.measured import Measured
from safe_llava.cluster.login import (
    JobPlan,
    RuleResources,
    Share,
    check_data_room,
    check_images,
    check_judge_keys,
    check_layouts,
    check_partitions,
    check_training_room,
    with_estimate,
)
from safe_llava.config.schema import Config
from safe_llava.data.download.room import Room
from safe_llava.data.planning.volume import PlanLine

SECRET = "sk-not-to-be-said"


def noted(folder: Path, **changes: Any) -> str:
    """An image of five bytes, and what its note says."""
    image = folder / "train-cuda-0123456789ab.sif"
    image.write_bytes(b"image")
    note = {"sha256": "ab" * 32, "bytes": 5, "labels": {"safe-llava.tag": "0123456789ab"}} | changes
    Path(f"{image}.json").write_text(json.dumps(note))
    return str(image)


def test_an_image_that_is_there_tells_its_tag_and_digest(tmp_path: Path) -> None:
    (found,) = check_images({"train": noted(tmp_path)})
    assert found.state == "ok"
    assert "tag 0123456789ab" in found.said and "ab" * 32 in found.said


@pytest.mark.parametrize(("changes", "said"), [({"bytes": 6}, "5 bytes, and 6"), ({"labels": {}}, "0123456789ab")])
def test_an_image_that_is_not_what_its_note_says_is_red(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    image = noted(tmp_path, **changes)
    (found,) = check_images({"train": image})
    assert (found.state, found.remedy) == ("red", f"rm {image}*; snakemake images")
    assert said in found.said


def test_an_image_that_is_away_is_red_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (found,) = check_images({"train": str(tmp_path / "train.sif")})
    assert (found.state, found.remedy) == ("red", "snakemake images")
    (found,) = check_images({"train": str(tmp_path / "train.sif")}, "docker://docker.io/library/python@unknown")
    assert found.remedy.startswith("python -m safe_llava.containers.build pin") and "snakemake images" in found.remedy


def test_an_image_whose_labels_cannot_be_read_is_red(tmp_path: Path) -> None:
    image = tmp_path / "train.sif"
    image.touch()
    (tmp_path / "train.sif.json").write_text("half of a no")
    (found,) = check_images({"train": str(image)})
    assert found.state == "red"
    assert "cannot be read" in found.said


def line(to_write: int | None) -> PlanLine:
    return PlanLine("coco", "images", "unknown", to_write, 1, to_write, to_write, 100, "100 files")


@pytest.mark.parametrize(
    ("lines", "room", "state"),
    [
        ([line(5_000)], Room(10_000, 1_000, "file system"), "ok"),
        ([line(5_000), line(None)], Room(10_000, 1_000, "file system"), "open"),
        ([line(50_000), line(None)], Room(10_000, 1_000, "file system"), "red"),
        ([line(5_000)], Room(10_000, 10, "quota"), "red"),
    ],
)
def test_data_that_does_not_fit_by_bytes_or_inodes_is_red(
    paper: Config, lines: list[PlanLine], room: Room, state: str
) -> None:
    found = check_data_room(paper.data, lines, room)
    assert found.state == state
    assert bool(found.remedy) == (state != "ok")
    ignored = check_data_room(paper.data.model_copy(update={"ignore_space": True}), lines, room)
    assert ignored.state == ("open" if state == "red" else state)


def test_checkpoints_count_beside_the_data_on_one_disk() -> None:
    def share(gigabytes: float) -> Share:
        return Share("models and their checkpoints", gigabytes, Path("results"), "`results`")

    room = Room(300 * 10**9, None, "file system")
    assert check_training_room(share(250.0), 0, room, 0).state == "ok"
    assert check_training_room(share(250.0), 0, room, 60 * 10**9).state == "red"
    assert check_training_room(share(400.0), 0, room, 0).state == "red"
    dark = check_training_room(share(250.0), 1, room, 0)
    assert (dark.state, "1 more models are of unknown size" in dark.said, bool(dark.remedy)) == ("open", True, True)


DISKS = """
results: {folder}/results
data: {{root: {folder}/results/data}}
train: {{select: {{models: [llava-v1.5-7b]}}, checkpoint_root: {checkpoints}}}
"""


def training_lines(
    folder: Path, checkpoints: str, free: dict[str, int], measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> dict[str, CheckResult]:
    """The lines of training's room, with so many gigabytes free below `results` and `scratch`, which are two disks."""

    def disk(path: Path) -> str:
        return "scratch" if path.is_relative_to(folder / "scratch") else "results"

    monkeypatch.setattr(login, "_device", disk)
    monkeypatch.setattr(login, "room", lambda path: Room(free[disk(path)] * 10**9, None, "file system"))
    monkeypatch.setattr(login, "lines_of", lambda *_: [line(0)])
    config = configured(DISKS.format(folder=folder, checkpoints=checkpoints), folder)
    _, *found = login.check_room(config, measured)
    return {one.what: one for one in found}


def test_checkpoints_on_a_disk_of_their_own_need_room_there(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 7B stays with 14 GB; while it is finetuned, each checkpoint takes 81 GB."""

    def lines(checkpoints: str, **free: int) -> dict[str, CheckResult]:
        return training_lines(tmp_path, checkpoints, free, measured, monkeypatch)

    (one,) = lines("checkpoints", results=50, scratch=1000).values()
    assert (one.state, "train.checkpoint_root" in one.remedy) == ("red", True)
    # What that remedy says helps.
    elsewhere = f"{tmp_path}/scratch/checkpoints"
    moved = lines(elsewhere, results=50, scratch=1000)
    assert {one.state for one in moved.values()} == {"ok"}
    full = lines(elsewhere, results=1000, scratch=50)
    assert (full["room for models"].state, full["room for checkpoints"].state) == ("ok", "red")
    assert elsewhere in full["room for checkpoints"].said


def test_layouts_that_were_checked_and_that_will_be(tmp_path: Path) -> None:
    done = tmp_path / "prism-v2.json"
    done.write_text("{}")
    ready, later = check_layouts({"prism-v2": str(done), "prism-v1": str(tmp_path / "prism-v1.json")})
    assert (ready.state, later.state) == ("ok", "open")
    assert "prism-v1.json" in later.remedy


def test_keys_are_named_and_never_said(paper: Config) -> None:
    judges = ["gpt-benchmarks", "gemini", "local"]
    found = list(check_judge_keys(paper, judges, {"OPENAI_API_KEY": SECRET}))
    assert [one.state for one in found] == ["ok", "red", "ok"]
    assert "export GEMINI_API_KEY=…; or select judges that need none" in found[1].remedy
    assert SECRET not in as_text(found) + as_page(found, "today")


def test_a_job_is_estimated_on_the_gpus_that_it_has(paper: Config, measured: Measured) -> None:
    train = with_estimate(
        RuleResources(rule="train_finetune", model="llava-v1.5-7b", gpus=8, runtime=720), paper, measured
    )
    assert train.hours == pytest.approx(665_298 / 16.805 / 3600 / 8)
    assert train.resumes
    answers = with_estimate(RuleResources(rule="prism_answers", model="LLaVA", gpus=1), paper, measured)
    assert answers.hours == pytest.approx((133.25 + 171.9) / 3600)
    assert not answers.resumes
    longest = with_estimate(RuleResources(rule="benchmarks_run", model="LLaVA", gpus=1), paper, measured)
    assert longest.hours == pytest.approx(18.7 / 60, abs=0.01)
    assert with_estimate(RuleResources(rule="prism_answers", model="Gemma"), paper, measured).hours is None


def plan(**changes: Any) -> JobPlan:
    jobs = {"paper": Expected(image=None, gpus=0, log="paper.log")}
    return JobPlan(**{"slurm": False, "jobs": jobs, "asks": [], "keys": [], "layouts": {}} | changes)


def test_without_slurm_nothing_limits_and_with_it_sinfo_is_asked(
    paper: Config, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here,) = check_partitions(plan(), paper, measured)
    assert here.state == "ok"
    monkeypatch.setattr(login.partitions, "ask_sinfo", lambda: "gpu*|01:00:00|64|512000|gpu:8|up|idle\n")
    asks = [RuleResources(rule="train_pretrain", model="llava-v1.5-7b", partition="gpu", gpus=8, runtime=720)]
    (line,) = check_partitions(plan(slurm=True, asks=asks), paper, measured)
    assert (line.state, "train_pretrain:runtime=60" in line.remedy) == ("red", True)
    asks = [
        RuleResources(rule="prism_answers", model=name, gpus=1, runtime=30) for name in ("Gemma", "LLaVA", "Qwen25")
    ]
    asks += [RuleResources(rule="prism_answers", model="InternVLC3", gpus=2, runtime=30)]
    longest, other = check_partitions(plan(slurm=True, asks=asks), paper, measured)
    assert (longest.what, other.what) == ("prism_answers of 3 models", "prism_answers InternVLC3")
    assert "estimated 5 minutes" in longest.said


def test_the_page_escapes_and_holds_every_line_with_its_remedy() -> None:
    found = [
        CheckResult("login node", "room <b>", "ok", "enough & more"),
        CheckResult("train image", "GPUs", "red", "none", "put one in\nor take another node"),
    ]
    page, text = as_page(found, "today"), as_text(found)
    assert "room &lt;b&gt;" in page and "enough &amp; more" in page and "put one in" in page
    assert "RED   train image  GPUs: none\n" in text
    assert "or take another node" in text
    assert summary_line(found) == "Not everything is there: 1 ok, 0 open, 1 RED."
    assert summary_line(found[:1]).startswith("Nothing stands in the way")


SMALL = """
results: {folder}/results
data: {{root: {folder}/data}}
train: {{select: {{models: []}}}}
"""


def run(folder: Path, facts: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both steps, as the workflow calls them; nothing but the paper image's job looks around."""
    config = configured(SMALL.format(folder=folder), folder)
    (folder / "config.json").write_text(config.model_dump_json(exclude_defaults=True))
    (folder / "plan.json").write_text(plan().model_dump_json())
    step = ["--config", str(folder / "config.json")]
    monkeypatch.setattr(login, "lines_of", lambda *_: [line(5)])
    login.main([*step, "--plan", str(folder / "plan.json"), "--out", str(folder / "login.json")])
    if facts is not None:
        (folder / "paper.json").write_text(json.dumps(facts))
    given = ["--facts", f"paper={folder / 'paper.json'}", "--page", str(folder / "page.html")]
    return preflight.main([*step, "--login", str(folder / "login.json"), *given])


def test_all_green_ends_well_and_red_does_not_with_the_page_whole(
    facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "OPENAI_API_KEY", SECRET)
    here = {**facts, "packages": {"matplotlib": "3", "pydantic": "2"}, "all_reduce": None, "gpus": None}
    assert run(tmp_path, here, monkeypatch) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Nothing stands in the way" in page and "node7" in page and "has not reported" not in page
    assert run(tmp_path, {**here, "packages": {}}, monkeypatch) == 1
    page = (tmp_path / "page.html").read_text()
    assert "not installed: matplotlib, pydantic" in page and "room for the data" in page
    said = capsys.readouterr().out
    assert "RED   paper environment  packages" in said
    assert SECRET not in page + said


def test_a_job_that_never_reported_leaves_a_whole_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, None, monkeypatch) == 1
    assert "its job has not reported" in (tmp_path / "page.html").read_text()
