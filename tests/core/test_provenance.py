"""A record says what a result was made from, and nothing that may be secret."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from pathlib import Path

import pytest

from safe_llava.core import provenance
from safe_llava.core.provenance import code_commit, package_versions, record

SECRET = "sk-not-for-anybody-0123456789"


def test_a_record_names_inputs_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    found = record({"row": tmp_path / "a.json", "model": tmp_path}, seed=42)
    assert found["inputs"]["row"] == {"path": str(tmp_path / "a.json"), "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert found["inputs"]["model"]["sha256"] == "folder"
    assert found["seed"] == 42
    assert found["python"] == platform.python_version()
    assert json.loads(json.dumps(found)) == found


def test_no_environment_and_no_command_line_in_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    monkeypatch.setattr(sys, "argv", ["step", "--key", f"{SECRET}-argv"])
    (tmp_path / "a.json").write_text(SECRET, encoding="utf-8")
    text = json.dumps(record({"row": tmp_path / "a.json"}, seed=1))
    assert SECRET not in text
    assert "--key" not in text
    assert os.environ["PATH"] not in text


def test_where_there_is_no_git_the_environment_names_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_LLAVA_COMMIT", "a" * 40)
    assert record()["commit"] == "a" * 40


def test_the_commit_is_unknown_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFE_LLAVA_COMMIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit() == "unknown"
    monkeypatch.undo()
    monkeypatch.delenv("SAFE_LLAVA_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert code_commit() == "unknown"


def test_packages_that_are_not_there_are_left_out() -> None:
    assert set(package_versions(["pydantic", "no-such-package-at-all"])) == {"pydantic"}
