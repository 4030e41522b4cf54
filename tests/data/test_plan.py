"""What is said before anything is fetched: sizes, files, room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.conftest import Upstream
from safe_llava.config.data import Pin, ResolvedFile, ResolvedSet, ResolvedSnapshot, Unpack
from safe_llava.config.load import load
from safe_llava.config.selection import config_files, needed, needed_sets
from safe_llava.core.errors import DataError
from safe_llava.data import plan as step
from safe_llava.data.download import room as rooms
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.room import Room
from safe_llava.data.planning import volume as plan

GB = 1_000_000_000


def row(name: str, **fields: object) -> ResolvedFile:
    return ResolvedFile(**{"set": name, "path": f"{name}.zip", "url": f"https://data.example/{name}.zip", **fields})


def dataset(*files: ResolvedFile) -> ResolvedSet:
    return ResolvedSet(set=files[0].set, title="A set", kind="images", licence="unknown", files=list(files))


def archive(name: str, files: int | str = 100) -> ResolvedFile:
    return row(name, reported_bytes=2 * GB, unpack=Unpack(to=name, creates=name, files=files))


def test_the_plan_says_what_is_missing(upstream: Upstream, tmp_path: Path) -> None:
    here = upstream.row()
    fetch_file(here, tmp_path / here.path, [], RetryPolicy())
    sets = [dataset(here), dataset(row("large", reported_bytes=27_400_000_000)), dataset(row("unknown-size"))]
    text = plan.plan_table([plan.plan_set(one, tmp_path) for one in sets]).splitlines()
    lines = [line.split() for line in text]
    assert lines[1] == ["demo", "images", "524.3", "kB", "nothing", "1", "file", "unknown"]
    assert lines[2] == ["large", "images", "27.4", "GB", "27.4", "GB", "1", "file", "unknown"]
    assert lines[3] == ["unknown-size", "images", "unknown", "unknown", "1", "file", "unknown"]
    assert text[4] == "to fetch: 27.4 GB, and 1 sets of unknown size"


def test_what_came_of_a_file_is_not_to_be_fetched(tmp_path: Path) -> None:
    (tmp_path / "large.zip.part").write_bytes(b"x" * 1000)
    line = plan.plan_set(dataset(row("large", size=5000)), tmp_path)
    assert (line.size, line.to_fetch) == (5000, 4000)


def test_unpacking_doubles_what_is_written_and_an_index_does_not(tmp_path: Path) -> None:
    unpacked = plan.plan_set(dataset(archive("a")), tmp_path, "extracted")
    assert (unpacked.to_fetch, unpacked.to_write, unpacked.files) == (2 * GB, 4 * GB, 100 + plan.BESIDE)
    assert unpacked.becomes == "100 files, unpacked"
    kept = plan.plan_set(dataset(archive("a")), tmp_path, "archive")
    assert (kept.to_fetch, kept.to_write, kept.files) == (2 * GB, 2 * GB, plan.BESIDE)
    assert kept.becomes == "2 files, read from the archive"
    (tmp_path / "a.unpacked.json").write_text("{}")
    done = plan.plan_set(dataset(archive("a")), tmp_path, "extracted")
    assert (done.to_write, done.files) == (2 * GB, plan.BESIDE)


def test_a_count_that_nobody_knows_is_said_to_be_unknown(tmp_path: Path) -> None:
    line = plan.plan_set(dataset(archive("a", "unknown")), tmp_path, "extracted")
    assert line.files is None
    assert line.becomes == "unknown files, unpacked"


def test_a_pinned_repository_has_a_size(tmp_path: Path) -> None:
    pins = {name: Pin(size=10, sha256="unknown") for name in ("a", "b")}
    repository = ResolvedSnapshot(set="w", repo="o/n", repo_type="model", revision="main", path="w", pins=pins)
    one = ResolvedSet(set="w", title="", kind="weights", licence="x", snapshot=repository)
    line = plan.plan_set(one, tmp_path)
    assert (line.size, line.to_fetch, line.becomes) == (20, 20, "2 files")


def test_room_that_does_not_suffice_is_an_error_with_remedies(tmp_path: Path) -> None:
    lines = [plan.plan_set(dataset(archive("a")), tmp_path, "extracted")]
    plan.require_room(lines, Room(4 * GB, 200, "file system"), tmp_path)
    plan.require_room(lines, Room(None, None, "file system"), tmp_path)
    with pytest.raises(DataError, match=r"4\.0 GB are to be written and 3\.0 GB are free") as caught:
        plan.require_room(lines, Room(3 * GB, None, "file system"), tmp_path)
    assert "data.storage: archive" in caught.value.remedy and "data.ignore_space" in caught.value.remedy
    with pytest.raises(DataError, match="103 files are to be written and 50 inodes are free"):
        plan.require_room(lines, Room(5 * GB, 50, "lfs quota"), tmp_path)
    assert "NOT ENOUGH" in plan.room_verdict(lines, Room(3 * GB, None, "file system"), tmp_path)


# --------------------------------------------------------------------- room


def test_room_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    there = rooms.room(tmp_path / "not" / "yet")
    facts = os.statvfs(tmp_path)
    assert there.free_bytes is not None and 0 < there.free_bytes <= facts.f_blocks * facts.f_frsize
    assert "file system" in there.said_by


def test_a_file_system_that_counts_no_inodes_bounds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    facts = os.statvfs_result([*real[:5], 0, 0, 0, *real[8:10]])
    monkeypatch.setattr(rooms.os, "statvfs", lambda _: facts)
    assert rooms.of_file_system(tmp_path).free_files is None


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("/lustre 1000 3000 4000 - 50 100 120 -\n", (2000 * 1024, 50)),
        ("/lustre 5000* 3000 4000 6d 150* 100 120 6d\n", (0, 0)),
        ("/lustre 1000 0 0 - 50 0 0 -\n", (None, None)),
        ("/lustre 1000 0 4000 - 50 0 0 -\n", (3000 * 1024, None)),
        ("Disk quotas for user x (uid 1): none\n", None),
        ("", None),
    ],
)
def test_quota_columns_are_read(text: str, quota: tuple[int, int | None] | None) -> None:
    assert rooms.parse_quota(text) == quota


def test_a_quota_command_is_asked_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "bin" / "lfs"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho '/lustre 1 3 0 - 5 7 0 -'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    there = rooms.room(tmp_path)
    assert (there.free_bytes, there.free_files) == (2048, 2)
    assert "lfs quota" in there.said_by


# ---------------------------------------------------------------- selection


def test_the_paper_needs_what_its_milestone_fetches(root: Path) -> None:
    config = load(config_files(root=root))
    names = needed_sets(config)
    assert {"coco", "ocr-vqa", "safe-finetune", "prism-v1", "prism-v2", "prism-released", "vicuna-7b-v1.5"} <= {*names}
    assert "qwen2-0.5b" not in names and "prism-judges" not in names
    assert len(names) == len(set(names))


def test_a_model_to_convert_needs_its_vision_tower(root: Path) -> None:
    config = load(config_files(root=root))
    name = next(name for name, row in config.models.items() if row.vision_tower)
    select = config.prism.select.model_copy(update={"models": [name]})
    prism = config.prism.model_copy(update={"select": select})
    assert config.models[name].vision_tower in needed_sets(config.model_copy(update={"prism": prism}))


def test_only_the_answers_of_the_named_models_are_needed(root: Path) -> None:
    config = load(config_files(root=root))
    prism = config.prism.model_copy(update={"released_models": ["LLaVA"]})
    (released,) = [one for one in needed(config.model_copy(update={"prism": prism})) if one.set == "prism-released"]
    assert {Path(file.path).parent.name for file in released.files} == {"LLaVA"}
    assert len(released.files) == 3


def test_a_dry_run_lists_each_set_once_with_its_size(root: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "data", "--nolock", "--config", "results=/nonexistent/results"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sets = needed(load(config_files(root=root)))
    listed = [
        line.split()[0] for line in done.stderr.splitlines() if line.split()[1:2] == [kinds(sets).get(first(line))]
    ]
    assert listed == [one.set for one in sets]
    rows = {first(line): line for line in done.stderr.splitlines() if first(line) in listed}
    assert "19.3 GB" in rows["coco"] and "unknown" in rows["visual-genome"]
    assert "room at data" in done.stderr
    counts = dict(re.findall(r"^(data_\w+) +(\d+)$", done.stdout, flags=re.MULTILINE))
    assert int(counts["data_fetch"]) == sum(len(one.files) for one in sets)
    assert int(counts["data_snapshot"]) == sum(one.snapshot is not None for one in sets)


def first(line: str) -> str:
    return (line.split() or [""])[0]


def kinds(sets: list[ResolvedSet]) -> dict[str, str]:
    return {one.set: one.kind for one in sets}


def test_the_command_prints_the_plan(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step.main(["--root", str(tmp_path), "--configfile", str(root / "config/ocr-vqa-covers.yaml")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ocr-vqa")]
    assert "1 file and the covers it names" in line


def test_the_page_names_every_set_with_its_size(root: Path) -> None:
    page = (root / "docs/data.md").read_text(encoding="utf-8")
    config = load(config_files(root=root))
    rows = {line for line in page.splitlines() if line.startswith("| `")}
    for name, one in config.data.sets.items():
        if one.kind in ("weights", "benchmark"):
            continue
        (line,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        for size in (file.reported_bytes for file in one.files if file.reported_bytes != "unknown"):
            assert plan.decimal_size(int(size)) in line
        for count in (file.unpack.files for file in one.files if file.unpack and file.unpack.files != "unknown"):
            assert f"{count:,}" in line
