"""A bundle for a cluster without internet: filled from a server, checked, and enough for the data stage."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from data.conftest import FaultyServer, Pauses
from data.storing import weights_of
from safe_llava.config.data import ResolvedFile, ResolvedSet, ResolvedSnapshot
from safe_llava.core.errors import DataError
from safe_llava.data import bundle
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.repository import fetch_repository
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror
from safe_llava.demo.server import ServedFault
from safe_llava.demo.upstream import snapshot_files, zip_bytes

ARCHIVE = zip_bytes([("x/1.jpg", b"1"), ("x/2.jpg", b"2")])
FILES = {"data.example/a/x.zip": ARCHIVE, "hub.example/ann.json": b'[{"id": 1}]'}
WEIGHTS = {"config.json": b"{}", "model.safetensors": weights_of(5000), "tokenizer.json": b'{"a": 1}', "x.bin": b"no"}
QUICK = RetryPolicy(connect_timeout_s=2.0, retries=1, backoff_s=0.01)


def sets() -> list[ResolvedSet]:
    rows = [
        ResolvedFile(set="images", path="downloads/x.zip", url="http://data.example/a/x.zip"),
        ResolvedFile(set="ann", path="ann.json", url="https://hub.example/ann.json"),
    ]
    found = [ResolvedSet(set=row.set, title="", kind="images", licence="", files=[row]) for row in rows]
    row = ResolvedSnapshot(
        set="w", repo="o/n", repo_type="model", revision="main", path="hub/w", allow=["*.json", "*.safetensors"]
    )
    return [*found, ResolvedSet(set="w", title="", kind="weights", licence="", snapshot=row)]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    for url, content in [*FILES.items(), *snapshot_files("o/n", "model", WEIGHTS)]:
        path = tmp_path / "served" / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "served"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def fill(served: Path, tmp_path: Path, server: FaultyServer) -> dict[str, Any]:
    mirrors = [Mirror(server.url)]
    return bundle.fill_bundle(sets(), tmp_path / "bundle", tmp_path / "data", mirrors, QUICK, origin=False)


def arrive(folder: Path, root: Path) -> None:
    """What the rules do with a mirror folder and `mirrors_only`."""
    for one in sets():
        for row in one.files:
            fetch_file(row, root / row.path, [Mirror(str(folder))], QUICK, origin=False)
        if one.snapshot:
            fetch_repository(one.snapshot, root / one.snapshot.path, [Mirror(str(folder))], QUICK, origin=False)


def test_a_bundle_is_all_that_is_needed_without_a_network(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer(served) as server:
        manifest = fill(served, tmp_path, server)
    assert sorted(manifest["files"]) == [
        "data.example/a/x.zip",
        "hub.example/ann.json",
        "huggingface.co/o/n/resolve/main/config.json",
        "huggingface.co/o/n/resolve/main/model.safetensors",
        "huggingface.co/o/n/resolve/main/tokenizer.json",
    ]
    copied = tmp_path / "elsewhere"
    (tmp_path / "bundle").rename(copied)

    def no_network(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert bundle.check_bundle(copied, 2) == 5
    arrive(copied, tmp_path / "cluster")
    assert (tmp_path / "cluster/downloads/x.zip").read_bytes() == ARCHIVE
    assert (tmp_path / "cluster/ann.json").read_bytes() == FILES["hub.example/ann.json"]
    weights = {path.name: path.read_bytes() for path in (tmp_path / "cluster/hub/w").iterdir()}
    assert weights == {name: content for name, content in WEIGHTS.items() if name != "x.bin"}


def test_a_bundle_that_was_interrupted_is_gone_on_with(served: Path, tmp_path: Path, pauses: Pauses) -> None:
    with FaultyServer(served) as server:
        server.faults = [None, *[ServedFault(status=503)] * 9]
        with pytest.raises(DataError, match="HTTP 503"):
            fill(served, tmp_path, server)
        assert not (tmp_path / "bundle" / bundle.MANIFEST).exists()
        server.faults = []
        fill(served, tmp_path, server)
        assert server.bytes_sent["/data.example/a/x.zip"] == len(ARCHIVE), "what had come was not fetched again"
        requests = sum(server.requests.values())
        fill(served, tmp_path, server)
        assert sum(server.requests.values()) == requests
    assert bundle.check_bundle(tmp_path / "bundle", 1) == 5


def test_what_stands_on_this_machine_is_not_fetched_again(served: Path, tmp_path: Path) -> None:
    with FaultyServer(served) as server:
        for one in sets():
            for row in one.files:
                fetch_file(row, tmp_path / "data" / row.path, [Mirror(server.url)], QUICK, origin=False)
            if one.snapshot:
                target = tmp_path / "data" / one.snapshot.path
                fetch_repository(one.snapshot, target, [Mirror(server.url)], QUICK, origin=False)
        requests = sum(server.requests.values())
        fill(served, tmp_path, server)
        assert sum(server.requests.values()) == requests
    assert bundle.check_bundle(tmp_path / "bundle", 1) == 5


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("cut", "x.zip: .* bytes instead of"),
        ("other", "its sha256 is another"),
        ("gone", "x.zip: missing"),
        ("manifest", "not a bundle's manifest"),
        ("none", "no such file"),
        ("outside", "outside the bundle"),
    ],
)
def test_a_copy_that_is_not_whole_is_found_out(served: Path, tmp_path: Path, damage: str, fault: str) -> None:
    with FaultyServer(served) as server:
        fill(served, tmp_path, server)
    file, manifest = tmp_path / "bundle/data.example/a/x.zip", tmp_path / "bundle" / bundle.MANIFEST
    if damage == "cut":
        file.write_bytes(ARCHIVE[:-1])
    elif damage == "other":
        file.write_bytes(ARCHIVE[::-1])
    elif damage == "gone":
        file.unlink()
    elif damage == "none":
        manifest.unlink()
    elif damage == "outside":
        manifest.write_text(json.dumps({"files": {"../x": {"size": 1, "sha256": "a"}}}))
    else:
        manifest.write_text('{"files": {"x": {}}}')
    with pytest.raises(DataError, match=fault):
        bundle.check_bundle(tmp_path / "bundle", 1)


def test_a_mirror_whose_files_are_not_those_that_it_lists_is_refused(served: Path, tmp_path: Path) -> None:
    with FaultyServer(served) as server:
        fill(served, tmp_path, server)
    (tmp_path / "bundle/huggingface.co/o/n/resolve/main/model.safetensors").write_bytes(weights_of(5000, b"v"))
    with pytest.raises(DataError, match=r"model\.safetensors: expected 5000 bytes, sha256"):
        arrive(tmp_path / "bundle", tmp_path / "cluster")
    assert not (tmp_path / "cluster/hub/w").exists()


def test_covers_make_no_bundle(tmp_path: Path) -> None:
    row = ResolvedFile(set="ocr-vqa", path="d.json", url="https://x.example/d.json", covers="ocr/images")
    with pytest.raises(DataError, match="come one by one"):
        bundle.refuse_covers([ResolvedSet(set="ocr-vqa", title="", kind="images", licence="", files=[row])])


def test_the_command_checks(served: Path, tmp_path: Path) -> None:
    with FaultyServer(served) as server:
        fill(served, tmp_path, server)
    assert bundle.main(["--check", str(tmp_path / "bundle")]) is None
    with pytest.raises(SystemExit):
        bundle.main([])


def test_the_configuration_says_how_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RetryPolicy] = []
    monkeypatch.setattr(bundle, "fill_bundle", lambda *args: seen.append(args[4]) or {"files": {}})
    more = tmp_path / "more.yaml"
    more.write_text("data: {connections: 7, retries: 9, connect_timeout_s: 3, bandwidth_mb_s: 50, ignore_space: true}")
    flags = ["--out", str(tmp_path / "bundle"), "--configfile", str(more)]
    bundle.main(flags)
    bundle.main([*flags, "--connections", "2"])
    assert [(one.connections, one.retries, one.connect_timeout_s) for one in seen] == [(7, 9, 3.0), (2, 9, 3.0)]
    assert seen[0].limiter is not None and seen[0].limiter.bytes_per_second == 50_000_000
