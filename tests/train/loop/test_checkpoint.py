"""Checkpoints are whole, verified, few, and of this run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from safe_llava.core.errors import TrainError
from safe_llava.train.loop.checkpoint import MANIFEST, CheckpointFolder, differences
from safe_llava.train.loop.deepspeed import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
PRINT = {"stage": "finetune", "config": {"seed": 7}, "world_size": 1}

pytestmark = pytest.mark.usefixtures("one_process")


def folder_of(path: Path, fingerprint: dict[str, Any] | None = None, keep: int = 2) -> CheckpointFolder:
    return CheckpointFolder(path, fingerprint or PRINT, ALONE, keep)


def share(value: float) -> dict[str, Any]:
    return {"optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.full((4,), value)}}, "lr": 0.5}}


def saved(path: Path, *steps: int) -> None:
    folder = folder_of(path)
    for step in steps:
        folder.save(step, share(step), {"would_mismatch": step})
    folder.release()


def test_the_newest_comes_back(tmp_path: Path) -> None:
    saved(tmp_path, 2, 10)
    step, state, facts = folder_of(tmp_path).load() or (0, {}, {})
    assert (step, facts) == (10, {"would_mismatch": 10})
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], torch.full((4,), 10.0))


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "new").load() is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 2, 10, 200)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000010", "step-00000200"]


@pytest.mark.parametrize("fault", ["cut", "changed", "no share", "no manifest", "half a manifest", "not a mapping"])
def test_a_broken_one_is_passed_over(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2, 10)
    newest = tmp_path / "step-00000010"
    file, manifest = newest / "rank-00000.pt", newest / MANIFEST
    data = bytearray(file.read_bytes())
    if fault == "cut":
        file.write_bytes(data[:-10])
    elif fault == "changed":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif fault == "no share":
        file.unlink()
    elif fault == "no manifest":
        manifest.unlink()
    elif fault == "half a manifest":
        manifest.write_text(manifest.read_text()[:40])
    else:
        manifest.write_text("[]")
    step, _, _ = folder_of(tmp_path).load() or (0, {}, {})
    assert step == 2
    assert "step-00000010 is broken" in caplog.text


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / ".step-00000004").mkdir()
    (tmp_path / ".step-00000004" / "rank-00000.pt").write_bytes(b"half")
    step, _, _ = folder_of(tmp_path).load() or (0, {}, {})
    assert step == 2
    assert not (tmp_path / ".step-00000004").exists()


def test_another_run_is_refused_and_told_what_differs(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    with pytest.raises(TrainError) as caught:
        folder_of(tmp_path, {**PRINT, "config": {"seed": 8}, "world_size": 2}).load()
    assert "config.seed: 7, now 8" in caught.value.message
    assert "world_size: 1, now 2" in caught.value.message
    assert str(tmp_path) in caught.value.remedy
    assert "start it with 1 processes as before" in caught.value.remedy


def test_two_runs_cannot_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_llava.train.loop.checkpoint.LOCK_SECONDS", 0.05)
    first = folder_of(tmp_path)
    with pytest.raises(TrainError, match="another process trains here"):
        folder_of(tmp_path)
    first.release()
    folder_of(tmp_path).release()


def test_a_share_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    saved(tmp_path, 2)
    file = tmp_path / "step-00000002" / "rank-00000.pt"
    torch.save({"optimizer": Evil()}, file)
    manifest = json.loads((file.parent / MANIFEST).read_text())
    from safe_llava.core.files import file_digest

    manifest["files"][file.name] = file_digest(file)
    (file.parent / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="Weights only load failed"):
        folder_of(tmp_path).load()
    assert not (tmp_path / "ran").exists()


def test_removing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    saved(tmp_path / "run", 2)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    folder = folder_of(tmp_path / "run")
    folder.remove()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_differences_name_nested_keys() -> None:
    found = differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}})
    assert found == ["a.c: 2, now 4", "d: 3, now absent"]
