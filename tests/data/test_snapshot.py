"""Repositories of the hub: from a folder, from an address, and never half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.conftest import FaultyServer
from data.storing import weights_of
from safe_llava.config.data import Pin, ResolvedSnapshot
from safe_llava.core.errors import DataError
from safe_llava.data import pin
from safe_llava.data.download import repository as step
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror
from safe_llava.demo.server import ServedFault
from safe_llava.demo.upstream import git_blob_id

FILES = {
    "config.json": b"{}",
    "model.safetensors": weights_of(5000),
    "sub/extra.txt": b"extra",
    "pytorch_model.bin": b"no",
}
ALLOW = ["*.json", "*.safetensors", "*.txt"]
WANTED = {"config.json", "model.safetensors", "sub/extra.txt"}
QUICK = RetryPolicy(connect_timeout_s=2.0, retries=0, backoff_s=0.01)


def row(**fields: Any) -> ResolvedSnapshot:
    base = {"set": "tiny", "repo": "demo/tiny", "repo_type": "model", "revision": "main", "path": "hub/tiny"}
    return ResolvedSnapshot.model_validate({**base, "allow": ALLOW, **fields})


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror folder with one model repository and the hub's listings of it."""
    hub = tmp_path / "mirror/huggingface.co"
    listing = {"id": "demo/tiny", "sha": "c0ffee" * 6 + "c0ff", "siblings": [{"rfilename": name} for name in FILES]}
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": git_blob_id(content)}
        for name, content in FILES.items()
    ]
    api = "api/models/demo/tiny"
    served = {f"demo/tiny/resolve/main/{name}": content for name, content in FILES.items()}
    served |= {f"{api}/revision/main": json.dumps(listing).encode(), f"{api}/tree/main": json.dumps(tree).encode()}
    for name, content in served.items():
        (hub / name).parent.mkdir(parents=True, exist_ok=True)
        (hub / name).write_bytes(content)
    return tmp_path / "mirror"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the origin fail at once: nothing here may reach the real hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def commit(mirror: Path) -> str:
    listing = json.loads((mirror / "huggingface.co/api/models/demo/tiny/revision/main").read_text())
    return str(listing["sha"])


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(tmp_path: Path, *mirrors: Path, **fields: Any) -> dict[str, Any]:
    return step.fetch_repository(
        row(**fields), tmp_path / "data/hub/tiny", [Mirror(str(root)) for root in mirrors], QUICK
    )


def test_a_folder_is_copied_with_a_receipt(mirror: Path, tmp_path: Path) -> None:
    receipt = fetch(tmp_path, mirror)
    assert held(tmp_path / "data/hub/tiny") == {name: FILES[name] for name in WANTED}
    assert receipt["commit"] == commit(mirror)
    assert set(receipt["files"]) == WANTED
    sha256 = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert receipt["files"]["model.safetensors"] == {"size": 5000, "sha256": sha256, "pinned": False}
    names = {path.name for path in (tmp_path / "data/hub").iterdir()}
    assert names == {"tiny", "tiny.snapshot.json", ".tiny.lock"}


def test_what_is_here_is_not_copied_again(mirror: Path, tmp_path: Path) -> None:
    first = fetch(tmp_path, mirror)
    assert fetch(tmp_path) == first


def test_a_damaged_folder_is_fetched_again(mirror: Path, tmp_path: Path) -> None:
    fetch(tmp_path, mirror)
    (tmp_path / "data/hub/tiny/model.safetensors").write_bytes(b"half")
    fetch(tmp_path, mirror)
    assert held(tmp_path / "data/hub/tiny")["model.safetensors"] == FILES["model.safetensors"]


def test_a_folder_of_the_users_is_left_alone(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "data/hub/tiny").mkdir(parents=True)
    (tmp_path / "data/hub/tiny/mine.txt").write_text("mine")
    with pytest.raises(DataError, match="was not fetched by this workflow"):
        fetch(tmp_path, mirror)
    assert held(tmp_path / "data/hub/tiny") == {"mine.txt": b"mine"}


def test_a_mirror_that_lacks_a_file_is_not_taken_for_whole(mirror: Path, tmp_path: Path) -> None:
    (mirror / "huggingface.co/demo/tiny/resolve/main/model.safetensors").unlink()
    with pytest.raises(DataError, match=r"1 files are missing in the mirror \(model\.safetensors\)") as caught:
        fetch(tmp_path, mirror)
    assert "HF_HUB_OFFLINE" in caught.value.message
    assert not (tmp_path / "data/hub/tiny").exists()


def test_pins_hold_a_repository_to_what_it_was(mirror: Path, tmp_path: Path) -> None:
    good = Pin(size=2, sha256=hashlib.sha256(b"{}").hexdigest())
    assert fetch(tmp_path, mirror, pins={"config.json": good})["files"]["config.json"]["pinned"]
    bad = good.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataError, match=r"config\.json: expected 2 bytes, sha256 0{64}"):
        fetch(tmp_path, mirror, pins={"config.json": bad})
    with pytest.raises(DataError, match=r"lacks pinned files \(gone\.json\)"):
        fetch(tmp_path, mirror, pins={"gone.json": good}, allow=["*.json"])


def test_patterns_that_fit_nothing_are_an_error(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file that the row allows"):
        fetch(tmp_path, mirror, allow=["*.gguf"])


def test_receipts_of_repositories_become_pins(mirror: Path, tmp_path: Path) -> None:
    fetch(tmp_path, mirror)
    found = pin.collect(tmp_path / "data")
    revisions = ("main", commit(mirror))
    assert set(found.pins) == {f"huggingface.co/demo/tiny/resolve/{one}/{name}" for one in revisions for name in WANTED}
    assert found.pins["huggingface.co/demo/tiny/resolve/main/config.json"][0] == "tiny"
    assert found.revisions == {"demo/tiny": ("tiny", commit(mirror))}


def online(root: Path, tmp_path: Path, *mirrors: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, where the hub's client is not offline."""
    (tmp_path / "row.json").write_text(row().model_dump_json())
    flags = ["--row", str(tmp_path / "row.json"), "--root", str(tmp_path / "data"), "--out", str(tmp_path / "r.json")]
    flags += [f"--mirror={one}" for one in mirrors] + ["--retries", "0", "--connect-timeout", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "safe_llava.data.snapshot", *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_address_is_asked_as_the_hub_is(mirror: Path, tmp_path: Path, root: Path) -> None:
    with FaultyServer(mirror) as server:
        done = online(root, tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    assert held(tmp_path / "data/hub/tiny") == {name: FILES[name] for name in WANTED}
    receipt = json.loads((tmp_path / "r.json").read_text())
    assert receipt["commit"] == commit(mirror)
    assert "fetched" not in receipt and "source" not in receipt


def test_a_folder_half_gathered_is_not_taken_for_whole(mirror: Path, tmp_path: Path, root: Path) -> None:
    staging = tmp_path / "data/hub/.tiny.part"
    staging.mkdir(parents=True)
    (staging / "config.json").write_bytes(b"{}")
    with FaultyServer(mirror) as server:
        server.always = ServedFault(status=403)
        done = online(root, tmp_path, server.url)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "demo/tiny (set tiny) could not be fetched" in done.stderr
    assert "403" in done.stderr and "HF_TOKEN" in done.stderr
    assert "ConnectError" in done.stderr, "the origin was asked as well"
    assert not (tmp_path / "data/hub/tiny").exists()
    assert not (tmp_path / "r.json").exists()


def test_a_repository_with_pickles_alone_does_not_count_as_fetched(mirror: Path, tmp_path: Path) -> None:
    (mirror / "huggingface.co/demo/tiny/resolve/main/model.safetensors").unlink()
    for listing in (mirror / "huggingface.co/api").rglob("main"):
        whole = json.loads(listing.read_text())
        rows = whole["siblings"] if isinstance(whole, dict) else whole
        rows[:] = [one for one in rows if "model.safetensors" not in one.values()]
        listing.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"its weights are pickles \(pytorch_model\.bin\)"):
        fetch(tmp_path, mirror)
    assert not (tmp_path / "data/hub/tiny").exists()


def test_a_pointer_of_git_lfs_in_a_mirror_is_refused(mirror: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5000\n"
    shutil.rmtree(mirror / "huggingface.co/api")
    (mirror / "huggingface.co/demo/tiny/resolve/main/model.safetensors").write_bytes(pointer)
    with pytest.raises(DataError, match=r"model\.safetensors: a pointer of git-lfs"):
        fetch(tmp_path, mirror)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"config.json": b"{"}, r"config\.json: not the configuration of a model"),
        ({"pytorch_model.bin": b"PK\x03\x04cut"}, r"pytorch_model\.bin: cut off"),
        ({"model.safetensors": None, "adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "a LoRA adapter alone"),
        ({"model.safetensors": None, "mm_projector.bin": b"x"}, "a projector alone"),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}',
            },
            r"model-1\.safetensors: no such file, and model\.safetensors\.index\.json names it",
        ),
    ],
)
def test_a_repository_that_is_no_whole_checkpoint_is_refused(
    change: dict[str, bytes | None], fault: str, mirror: Path, tmp_path: Path
) -> None:
    shutil.rmtree(mirror / "huggingface.co/api")
    folder = mirror / "huggingface.co/demo/tiny/resolve/main"
    for name, content in {"pytorch_model.bin": None, **change}.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=fault):
        fetch(tmp_path, mirror, allow=[*ALLOW, "*.bin"])
    assert not (tmp_path / "data/hub/tiny").exists()


def test_what_an_older_version_took_for_whole_is_not_pinned(mirror: Path, tmp_path: Path) -> None:
    fetch(tmp_path, mirror)
    folder = tmp_path / "data/hub/tiny"
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    with pytest.raises(DataError, match=r"model-2\.safetensors: no such file") as caught:
        pin.collect(tmp_path / "data")
    assert "fetch the repository again" in caught.value.remedy
