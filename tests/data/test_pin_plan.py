"""The lock file, and the plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.conftest import PAYLOAD, FaultyServer, Upstream
from safe_llava.config.data import DataSet, Pin, ResolvedFile, ResolvedSet, ResolvedSnapshot, pin_key, resolve_set
from safe_llava.core.errors import DataError
from safe_llava.data import pin
from safe_llava.data.download import remote
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.remote import Seen
from safe_llava.data.download.repository import SNAPSHOT_SUFFIX as SNAPSHOT_SUFFIX
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror
from safe_llava.data.pin import Lock
from safe_llava.data.planning import volume as plan
from safe_llava.demo.server import ServedFault
from safe_llava.demo.upstream import snapshot_files

ONE, TWO = Pin(size=1, sha256="1" * 64), Pin(size=2, sha256="2" * 64)


def run(root: Path, lock: Path, *more: str) -> dict[str, Any]:
    pin.main(["--root", str(root), "--lock", str(lock), *more])
    tree: dict[str, Any] = yaml.safe_load(lock.read_text())
    return tree["data"]["pins"]


def test_a_fetched_file_is_pinned_and_the_pin_verifies_it(upstream: Upstream, tmp_path: Path) -> None:
    root, lock = tmp_path / "data", tmp_path / "lock.yaml"
    row = upstream.row()
    receipt = fetch_file(row, root / row.path, [], RetryPolicy())
    pins = run(root, lock)
    assert pins == {pin_key(row.url): {"size": len(PAYLOAD), "sha256": receipt.sha256}}
    first = lock.read_bytes()
    run(root, lock)
    assert lock.read_bytes() == first
    assert str(tmp_path) not in first.decode()


def test_a_pin_changes_only_where_it_was_asked_for(upstream: Upstream, tmp_path: Path) -> None:
    root, lock = tmp_path / "data", tmp_path / "lock.yaml"
    row = upstream.row()
    lock.write_text(pin.lock_text(Lock({pin_key(row.url): ONE, "data.example/kept": TWO})))
    receipt = fetch_file(row, root / row.path, [], RetryPolicy())
    with pytest.raises(DataError, match=f"pinned as sha256 {'1' * 64}") as caught:
        run(root, lock)
    assert "--update demo" in caught.value.remedy
    with pytest.raises(DataError, match="--update other: no file of this set"):
        run(root, lock, "--update", "other")
    pins = run(root, lock, "--update", "demo")
    assert pins[pin_key(row.url)]["sha256"] == receipt.sha256
    assert pins["data.example/kept"] == TWO.model_dump(exclude_defaults=True)


def test_receipts_are_not_looked_for_among_unpacked_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images.unpacked.json").write_text('{"identity": {"sha256": "a"}, "files": 1}')
    (tmp_path / "images" / "x.receipt.json").write_text("not ours")
    assert pin.collect(tmp_path) == Seen()
    (tmp_path / "x.receipt.json").write_text("not ours")
    with pytest.raises(DataError, match=r"x\.receipt\.json: not a receipt"):
        pin.collect(tmp_path)


def test_weights_that_did_not_come_whole_are_not_pinned(tmp_path: Path) -> None:
    """As a mirror or an older version left them: a git-lfs pointer, and a file that was cut."""
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    note = {"set": "mine", "url": "https://hub.example/mine/", "commit": "1" * 40}
    for content, fault in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of git-lfs"),
        (b"\xff\0\0\0\0\0\0\0{", "cut off"),
        (b"\x09\0\0\0\0\0\0\0not json!", "header does not read"),
    ]:
        file.write_bytes(content)
        files = {file.name: {"size": len(content), "sha256": sha256(content).hexdigest()}}
        (tmp_path / f"model{SNAPSHOT_SUFFIX}").write_text(json.dumps({**note, "files": files}))
        with pytest.raises(DataError, match=fault) as caught:
            pin.collect(tmp_path)
        assert str(file) in caught.value.message
        assert "fetch the repository again" in caught.value.remedy


def test_an_empty_lock_reads_back(tmp_path: Path) -> None:
    lock = tmp_path / "lock.yaml"
    lock.write_text(pin.lock_text(Lock()))
    assert pin.read_lock(lock) == Lock()
    full = Lock({"a.example/x": ONE}, {"datasets/org/name": "c" * 40})
    lock.write_text(pin.lock_text(full))
    assert pin.read_lock(lock) == full
    lock.write_text("data: {pins: {a: {size: many}}}")
    with pytest.raises(DataError, match="not a lock file"):
        pin.read_lock(lock)


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (None, "unknown")])
def test_sizes_are_decimal(size: int | None, text: str) -> None:
    assert plan.decimal_size(size) == text


# ------------------------------------------------- what servers say beforehand

HUB = "https://huggingface.co"
LARGE, SMALL = b"large" * 100, b"{}"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultyServer]:
    """A mirror with one repository of the hub, and one file that is not of the hub."""
    files = snapshot_files("org/name", "dataset", {"images.zip": LARGE, "data/x.json": SMALL})
    for url, content in [*files, ("other.example/y.zip", b"y" * 77)]:
        path = tmp_path / "served" / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tree = tmp_path / "served/huggingface.co/api/datasets/org/name/tree/main"
    rows = json.loads(tree.read_text())
    for row in rows:
        if row["path"] == "images.zip":
            row["lfs"] = {"oid": sha256(LARGE).hexdigest(), "size": len(LARGE), "pointerSize": 100}
    tree.write_text(json.dumps(rows))
    with FaultyServer(tmp_path / "served") as server:
        yield server


def rows() -> list[ResolvedSet]:
    urls = {"a": f"{HUB}/datasets/org/name/resolve/main/images.zip", "b": "http://other.example/y.zip"}
    sets = [
        ResolvedSet(set=name, title="", kind="images", licence="", files=[ResolvedFile(set=name, path=name, url=url)])
        for name, url in urls.items()
    ]
    repository = ResolvedSnapshot(set="c", repo="org/name", repo_type="dataset", revision="main", path="c")
    return [*sets, ResolvedSet(set="c", title="", kind="benchmark", licence="", snapshot=repository)]


def test_servers_are_asked_and_nothing_is_fetched(hub: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    seen = remote.ask(rows(), [Mirror(hub.url)], RetryPolicy(retries=0), origin=False)
    commit = seen.revisions["datasets/org/name"][1]
    assert len(commit) == 40
    for revision in ("main", commit):
        key = f"huggingface.co/datasets/org/name/resolve/{revision}"
        assert seen.pins[f"{key}/images.zip"][1] == Pin(size=len(LARGE), sha256=sha256(LARGE).hexdigest())
        assert seen.pins[f"{key}/data/x.json"] == ("c", Pin(size=len(SMALL), sha256="unknown"))
    assert seen.pins["other.example/y.zip"] == ("b", Pin(size=77, sha256="unknown"))
    assert not any(hub.bytes_sent[path] for path in hub.bytes_sent if "/api/" not in path)


def test_a_server_that_says_nothing_leaves_it_unknown(hub: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.always = ServedFault(status=404)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    seen = remote.ask(rows(), [Mirror(hub.url)], RetryPolicy(retries=0), origin=False)
    assert (seen.pins, seen.revisions) == ({}, {})
    assert [fault.split(":")[0] for fault in pin.lock_differences(Lock(), seen)] == ["a", "b", "c"], (
        "no check passes so"
    )


def test_a_size_is_completed_by_a_checksum_and_never_lost() -> None:
    seen = Seen({"k": ("demo", Pin(size=1, sha256="unknown"))})
    assert pin.merge_pins(Lock({"k": ONE}), seen).pins == {"k": ONE}
    assert pin.merge_pins(Lock({"k": seen.pins["k"][1]}), Seen({"k": ("demo", ONE)})).pins == {"k": ONE}
    with pytest.raises(DataError, match="find out why"):
        pin.merge_pins(Lock({"k": TWO}), seen)


def test_a_commit_that_is_pinned_stays_until_it_is_asked_for() -> None:
    seen = Seen({"k": ("demo", ONE)}, {"datasets/org/name": ("demo", "b" * 40)})
    old = Lock({}, {"datasets/org/name": "a" * 40})
    assert pin.merge_pins(old, seen).revisions == old.revisions
    assert pin.merge_pins(old, seen, ["demo"]).revisions == {"datasets/org/name": "b" * 40}


def test_a_pinned_commit_is_what_is_asked_for() -> None:
    row = DataSet.model_validate(
        {
            "title": "",
            "kind": "images",
            "files": [{"path": "x.zip", "url": HUB + "/datasets/org/name/resolve/{revision}/x.zip"}],
        }
    )
    revisions = {"datasets/org/name": "c" * 40}
    assert resolve_set("x", row, {}, revisions).files[0].url == f"{HUB}/datasets/org/name/resolve/{'c' * 40}/x.zip"
    repository = {"repo": "org/name", "repo_type": "dataset", "path": "x"}
    row = DataSet.model_validate({"title": "", "kind": "benchmark", "snapshot": repository})
    resolved = resolve_set("x", row, {}, revisions).snapshot
    assert resolved is not None and resolved.revision == "c" * 40


def test_what_is_not_as_pinned_is_named_and_nothing_written(upstream: Upstream, tmp_path: Path) -> None:
    root, lock = tmp_path / "data", tmp_path / "lock.yaml"
    row = upstream.row()
    fetch_file(row, root / row.path, [], RetryPolicy())
    flags = ["--root", str(root), "--lock", str(lock), "--check"]
    with pytest.raises(DataError, match="not pinned"):
        pin.main(flags)
    assert not lock.exists()
    pin.main(flags[:-1])
    pin.main(flags)
    lock.write_text(pin.lock_text(Lock({pin_key(row.url): TWO})))
    with pytest.raises(DataError, match=f"pinned as {'2' * 64}"):
        pin.main(flags)


def test_the_count_of_an_archive_is_pinned_with_it(tmp_path: Path) -> None:
    (tmp_path / "x.unpacked.json").write_text(json.dumps({"identity": {"sha256": "1" * 64}, "files": 7}))
    receipt = {"set": "demo", "path": "x.zip", "url": "http://a.example/x.zip", "source": "", "checked": []}
    receipt |= {"size": 1, "sha256": "1" * 64, "fetched": ""}
    (tmp_path / "x.zip.receipt.json").write_text(json.dumps(receipt))
    (pinned,) = [one for _, one in pin.collect(tmp_path).pins.values()]
    assert pinned == Pin(size=1, sha256="1" * 64, files=7)
