"""Checkpoints are whole, verified, few, and of this run."""

from __future__ import annotations

import errno
import fcntl
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from safe_llava.cluster.estimates.footprint import last_write_seconds
from safe_llava.core.errors import TrainError
from safe_llava.train.loop.checkpoint import LOCK, MANIFEST, CheckpointFolder, differences
from safe_llava.train.loop.deepspeed import Processes
from safe_llava.train.loop.state import Piece

ALONE = Processes(0, 1, torch.device("cpu"))
IDENTITY = {"stage": "finetune", "config": {"seed": 7}}
COMPUTED = {"world_size": 1, "micro_batch": 4}
# Another run, as long as its standard input is open.
HOLD = """
import sys
from pathlib import Path
from safe_llava.core.errors import TrainError
from safe_llava.core.locks import only_one
with only_one(Path(sys.argv[1]), TrainError):
    print("held", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.usefixtures("one_process")


def folder_of(path: Path, identity: dict[str, Any] | None = None, keep: int = 2) -> CheckpointFolder:
    folder = CheckpointFolder(path, identity or IDENTITY, ALONE, keep)
    folder.computed = COMPUTED
    return folder


def state(value: float, elements: int = 4) -> list[Piece]:
    return [
        Piece(f"projector/{name}", 0, elements, torch.full((elements,), float(value))) for name in ("weight", "exp_avg")
    ]


def saved(path: Path, *steps: int) -> None:
    folder = folder_of(path)
    for step in steps:
        folder.save(step, state(step), {"would_mismatch": step})
    folder.settle()
    folder.release()


def found_step(path: Path) -> int | None:
    saved = folder_of(path).find()
    return saved.step if saved else None


@pytest.mark.parametrize("staged", [False, True])
def test_the_newest_comes_back(tmp_path: Path, staged: bool) -> None:
    folder = folder_of(tmp_path)
    if staged:
        folder.reserve(state(0))
    for step in (2, 10):
        pieces = state(step)
        folder.save(step, pieces, {"would_mismatch": step})
        if staged:
            pieces[0].values.fill_(0)  # the next step, while the checkpoint is being written
    folder.settle()
    folder.release()
    again, pieces = folder_of(tmp_path), state(0)
    found = again.find()
    assert found is not None and again.load(pieces) is found
    assert (found.step, found.facts) == (10, {"would_mismatch": 10})
    assert [piece.values.tolist() for piece in pieces] == [[10.0] * 4] * 2


def test_it_says_how_long_it_took_to_write(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    assert last_write_seconds(tmp_path / "none") is None
    seconds = last_write_seconds(tmp_path)
    assert seconds is not None and 0 <= seconds < 60


def test_it_is_read_in_other_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_llava.train.loop.state.LARGEST", 7)
    values, folder = torch.arange(30.0), folder_of(tmp_path)
    folder.save(2, [Piece("a", 0, 30, values[:13]), Piece("a", 13, 30, values[13:])], {})
    assert (tmp_path / "step-00000002" / "rank-00000.bin").stat().st_size == 4 * 30
    again = folder_of_released(folder, tmp_path)
    read = torch.zeros(30)
    again.load([Piece("a", 5, 30, read[5:18]), Piece("a", 18, 30, read[18:])])
    assert torch.equal(read[5:], values[5:])
    assert not read[:5].any()


def test_each_thread_writes_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system lets one thread at a time write to a file."""
    monkeypatch.setattr("safe_llava.train.loop.storage.threads", lambda: 3)
    monkeypatch.setattr("safe_llava.train.loop.storage.SMALLEST_FILE", 100)
    monkeypatch.setattr("safe_llava.train.loop.storage.HASH_AT_ONCE", 48)
    values, folder = torch.arange(120.0), folder_of(tmp_path)
    folder.save(2, [Piece(f"a{at}", 0, 20, values[at : at + 20]) for at in range(0, 120, 20)], {})
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "step-00000002").glob("*.bin")}
    assert sizes == dict.fromkeys(("rank-00000.bin", "rank-00000-1.bin", "rank-00000-2.bin"), 4 * 40)
    again, read = folder_of_released(folder, tmp_path), torch.zeros(120)
    again.load([Piece(f"a{at}", 0, 20, read[at : at + 20]) for at in range(0, 120, 20)])
    assert torch.equal(read, values)
    again.release()
    last = tmp_path / "step-00000002" / "rank-00000-2.bin"
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    assert found_step(tmp_path) is None


def folder_of_released(folder: CheckpointFolder, path: Path) -> CheckpointFolder:
    folder.release()
    again = folder_of(path)
    assert again.find() is not None
    return again


def test_another_model_is_not_filled_from_it(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    folder = folder_of(tmp_path)
    folder.find()
    with pytest.raises(TrainError, match="cannot be read: process 0: the checkpoint has no projector/exp_avg of 5"):
        folder.load(state(0, elements=5))


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "new").find() is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 2, 10, 200)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000010", "step-00000200"]


FAULTS = ("cut", "changed", "no share", "no manifest", "half a manifest", "not a mapping", "a piece less")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_one_is_passed_over(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2, 10)
    newest = tmp_path / "step-00000010"
    file, manifest = newest / "rank-00000.bin", newest / MANIFEST
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
    elif fault == "a piece less":
        values = json.loads(manifest.read_text())
        values["state"]["projector/weight"]["pieces"].pop()
        manifest.write_text(json.dumps(values))
    else:
        manifest.write_text("[]")
    assert found_step(tmp_path) == 2
    assert "step-00000010 is broken" in caplog.text


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / ".step-00000004").mkdir()
    (tmp_path / ".step-00000004" / "rank-00000.bin").write_bytes(b"half")
    assert found_step(tmp_path) == 2
    assert not (tmp_path / ".step-00000004").exists()


def test_another_run_is_refused_and_told_what_differs(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    with pytest.raises(TrainError) as caught:
        folder_of(tmp_path, {**IDENTITY, "config": {"seed": 8}}).find()
    assert "config.seed: 7, now 8" in caught.value.message
    assert str(tmp_path) in caught.value.remedy


def test_with_as_many_processes_it_is_computed_as_before(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    folder = folder_of(tmp_path)
    folder.find()
    with pytest.raises(TrainError, match="micro_batch: 4, now 8"):
        folder.agree({**COMPUTED, "micro_batch": 8})
    folder.agree({"world_size": 2, "micro_batch": 8})


def test_a_checkpoint_of_an_earlier_version_is_not_passed_over(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / "step-00000002" / MANIFEST).write_text(json.dumps({"step": 2, "fingerprint": {}, "files": {}}))
    with pytest.raises(TrainError, match="written by an earlier version"):
        folder_of(tmp_path).find()


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    saved(tmp_path, 2)
    assert "no lock here" in caplog.text
    assert found_step(tmp_path) == 2


def test_a_copy_beside_them_is_neither_read_nor_counted_nor_deleted(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    for name in ("step-00000060.bak", ".step-00000060.bak"):
        (tmp_path / name).mkdir()
    saved(tmp_path, 4, 6)
    assert {path.name for path in tmp_path.glob("*step-*")} == {
        "step-00000004", "step-00000006", "step-00000060.bak", ".step-00000060.bak"
    }  # fmt: skip
    folder = folder_of(tmp_path)
    folder.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000060.bak", ".step-00000060.bak"}


def test_two_runs_cannot_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_llava.train.loop.checkpoint.LOCK_SECONDS", 0.05)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with pytest.raises(TrainError, match=rf"\.lock: process {other.pid} on .* holds this lock"):
            folder_of(tmp_path)
        assert other.communicate()[0] == b"" and other.returncode == 0
    folder_of(tmp_path).release()


def test_it_holds_plain_values_and_no_pickle(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    files = {path.name: path for path in (tmp_path / "step-00000002").iterdir()}
    assert files.keys() == {"rank-00000.bin", MANIFEST}
    assert files["rank-00000.bin"].read_bytes() == struct.pack("<8f", *[2.0] * 8)


def test_removing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    saved(tmp_path / "run", 2)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    folder = folder_of(tmp_path / "run")
    folder.remove()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_differences_name_nested_keys() -> None:
    found = differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}})
    assert found == ["a.c: 2, now 4", "d: 3, now absent"]
