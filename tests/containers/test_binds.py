"""What images are shown of the machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from safe_llava.containers.binds import outside, show


def test_only_what_lies_outside_of_the_working_directory_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, data = tmp_path / "clone", tmp_path / "data"
    here.mkdir()
    data.mkdir()
    monkeypatch.chdir(here)
    assert list(outside(["results", here / "data", data])) == [str(data)]


def test_of_a_folder_that_is_not_made_yet_the_one_above_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "clone"
    here.mkdir()
    monkeypatch.chdir(here)
    assert list(outside([tmp_path / "scratch/run/results"])) == [str(tmp_path)]
    assert list(outside(["/nowhere/at/all"])) == []


def test_a_folder_behind_a_link_is_shown_under_both_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, disk, scratch = tmp_path / "clone", tmp_path / "lustre/u", tmp_path / "scratch"
    for folder in (here, disk):
        folder.mkdir(parents=True)
    scratch.symlink_to(tmp_path / "lustre")
    (here / "data").symlink_to(disk)
    monkeypatch.chdir(here)
    monkeypatch.setenv("SAFE_LLAVA_BIND", "")
    monkeypatch.setenv("APPTAINER_BIND", "")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    show([scratch / "u/data/later", disk])
    assert os.environ["APPTAINER_BIND"] == f"{disk},{scratch}/u"
    # A link in the working directory is there with it.
    show(["data"])
    assert os.environ["APPTAINER_BIND"] == str(disk)


def test_what_the_user_shows_already_stays_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, data = tmp_path / "clone", tmp_path / "data"
    here.mkdir()
    data.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("SAFE_LLAVA_BIND", "")
    monkeypatch.setenv("APPTAINER_BIND", f"/site:/site,{here}")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    show([data, "results"])
    assert os.environ["APPTAINER_BIND"] == f"/site:/site,{here},{data}"


def test_what_only_the_login_node_has_is_not_shown_in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job inherits the login node's environment, and apptainer refuses a bind whose source is not there."""
    here, login, node = tmp_path / "clone", tmp_path / "login/scratch", tmp_path / "node"
    for folder in (here, login, node):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("SAFE_LLAVA_BIND", "")
    monkeypatch.setenv("APPTAINER_BIND", "/site:/site")
    monkeypatch.setenv("TMPDIR", str(login))
    monkeypatch.setattr(tempfile, "tempdir", None)
    show([node / "results"])
    assert os.environ["APPTAINER_BIND"] == f"/site:/site,{node},{login}"
    login.rmdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    show([node / "results"])
    assert os.environ["APPTAINER_BIND"] == f"/site:/site,{node}"
