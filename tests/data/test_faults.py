"""What networks, disks and other people's processes do to a download; nothing half-written is taken for whole."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.conftest import PAYLOAD, FaultyServer, Pauses, Upstream
from data.storing import weights_of
from safe_llava.config.data import ResolvedFile, ResolvedSnapshot
from safe_llava.core.errors import DataError
from safe_llava.data import fetch as fetch_step
from safe_llava.data import snapshot as snapshot_step
from safe_llava.data.download import files as step
from safe_llava.data.download import receipts, segments, transfer
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror
from safe_llava.demo.server import ServedFault
from safe_llava.demo.upstream import git_blob_id, snapshot_files, zip_bytes

QUICK = RetryPolicy(connect_timeout_s=2.0, read_timeout_s=5.0, retries=1, backoff_s=0.01)
ARCHIVE = zip_bytes([(f"x/{n}.jpg", bytes([n]) * 2000) for n in range(20)])


def put(server: FaultyServer, url: str, content: bytes) -> str:
    """Serve a file and return its address."""
    path = server.root / url
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"{server.url}/{url}"


# ------------------------------------------------------ a length that is a lie


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(
    ("path", "content", "cut"),
    [
        ("x.zip", ARCHIVE, 10),
        ("x.json", json.dumps([{"id": n} for n in range(900)]).encode(), 3),
        ("x.jsonl", b'{"id": 1}\n' * 900, 5),
    ],
)
def test_a_length_that_is_too_short_never_gives_a_file(
    upstream: Upstream, tmp_path: Path, path: str, content: bytes, cut: int, connections: int
) -> None:
    url = put(upstream.server, f"data.example/{path}", content)
    upstream.server.always = ServedFault(claimed_length=len(content) - cut, no_ranges=True)
    row = ResolvedFile(set="demo", path=path, url=url)
    policy = RetryPolicy(retries=0, connections=connections)
    with pytest.raises(DataError, match="cut off"):
        step.fetch_file(row, tmp_path / path, [], policy)
    assert not (tmp_path / path).exists()
    upstream.server.always = None
    step.fetch_file(row, tmp_path / path, [], policy)
    assert (tmp_path / path).read_bytes() == content


def test_a_pin_finds_a_file_that_is_too_short(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(claimed_length=len(PAYLOAD) - 1, no_ranges=True)
    with pytest.raises(DataError, match="524,287 bytes where the pin says 524,288"):
        step.fetch_file(upstream.row(size=len(PAYLOAD)), tmp_path / "x.bin", [], QUICK)


def test_a_truncated_archive_on_the_server_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    url = put(upstream.server, "data.example/x.zip", ARCHIVE[: len(ARCHIVE) // 2])
    with pytest.raises(DataError, match=r"cut off: its end is not that of a \.zip file"):
        step.fetch_file(ResolvedFile(set="demo", path="x.zip", url=url), tmp_path / "x.zip", [], QUICK)
    assert not (tmp_path / "x.zip").exists()


def test_a_redirect_circle_over_several_connections(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(redirect_to=upstream.path)
    with pytest.raises(DataError, match="redirects in a circle"):
        step.fetch_file(upstream.row(), tmp_path / "x.bin", [], RetryPolicy(connections=3))


# -------------------------------------------------------- the hub's own word


def hub_row(server: FaultyServer, content: bytes) -> ResolvedFile:
    for url, one in snapshot_files("org/name", "dataset", {"x.bin": content}):
        put(server, url, one)
    url = "https://huggingface.co/datasets/org/name/resolve/main/x.bin"
    return ResolvedFile(set="demo", path="x.bin", url=url)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("tag", ["X-Linked-Etag", "ETag"])
def test_the_hubs_checksum_is_held_against_the_bytes(
    upstream: Upstream, tmp_path: Path, tag: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100_000)
    row = hub_row(upstream.server, PAYLOAD)
    headers = {"X-Repo-Commit": "c" * 40}
    if tag == "ETag":  # of a small file, which git names
        monkeypatch.setattr(upstream.server, "entity_tag", lambda path: "a" * 40)
    else:
        headers[tag] = '"' + "a" * 64 + '"'
    monkeypatch.setattr(upstream.server, "find", lying(upstream.server, headers))
    policy, mirrors = RetryPolicy(retries=0, connections=connections), [Mirror(upstream.server.url)]
    with pytest.raises(DataError, match=r"the hub's (sha256|git id) is a+, not that of what came"):
        step.fetch_file(row, tmp_path / "x.bin", mirrors, policy, origin=False)
    assert not (tmp_path / "x.bin").exists()


def lying(server: FaultyServer, headers: dict[str, str]) -> object:
    real = server.find

    def find(path: str) -> object:
        found = real(path)
        return type(found)(found.path, headers) if found else None

    return find


@pytest.mark.parametrize("tag", ["sha256", "git"])
def test_a_checksum_of_the_hub_that_agrees_is_noted(
    upstream: Upstream, tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = hub_row(upstream.server, PAYLOAD)
    good = {"sha256": hashlib.sha256(PAYLOAD).hexdigest(), "git": git_blob_id(PAYLOAD)}[tag]
    headers = {"X-Linked-Etag": f'"{good}"', "X-Repo-Commit": "c" * 40}
    monkeypatch.setattr(upstream.server, "find", lying(upstream.server, headers))
    receipt = step.fetch_file(row, tmp_path / "x.bin", [Mirror(upstream.server.url)], QUICK, origin=False)
    assert (receipt.hub, receipt.commit, receipt.checked) == (True, "c" * 40, [])


def test_another_hosts_headers_state_nothing(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"X-Linked-Etag": '"' + "a" * 64 + '"', "X-Repo-Commit": "c" * 40}
    monkeypatch.setattr(upstream.server, "find", lying(upstream.server, headers))
    receipt = step.fetch_file(upstream.row(), tmp_path / "x.bin", [], QUICK)
    assert (receipt.hub, receipt.commit) == (False, "unknown")


# ------------------------------------------------------------------ full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a disk of its own")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("connections", [1, 3])
def test_a_disk_that_fills_up_keeps_what_came(
    upstream: Upstream, small_disk: Path, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 50_000)
    policy = RetryPolicy(retries=1, connections=connections)
    target = small_disk / "set/file.bin"
    with pytest.raises(DataError, match=r"bytes are needed and .* are free"):
        step.fetch_file(upstream.row(), target, [], policy)
    # Somebody else's files took the room that was there when it was asked for.
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "require_space", lambda path, wanted: None)
        with pytest.raises(DataError, match="No space left on device") as caught:
            step.fetch_file(upstream.row(), target, [], policy)
    assert "data.root" in caught.value.remedy
    assert not target.exists()
    part = target.with_name("file.bin.part")
    have, sent = transfer.size_of(part) + segments.ahead_bytes(part), upstream.bytes_sent
    assert have > 100_000
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    step.fetch_file(upstream.row(), target, [], policy)
    assert target.read_bytes() == PAYLOAD
    time.sleep(0.1)
    assert upstream.bytes_sent - sent <= len(PAYLOAD) - have + 300_000, "what had come was not fetched again"


@pytest.mark.parametrize("inodes", [2, 3, 4, 5])
def test_a_disk_without_inodes_says_so(upstream: Upstream, small_disk: Path, inodes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size=9m,nr_inodes={inodes}", str(small_disk)], check=True)
    target = small_disk / "set/file.bin"  # a folder, a lock, the part file, its state and the receipt
    with pytest.raises(DataError, match=r"bytes and \d+ inodes are free"):
        step.fetch_file(upstream.row(), target, [], QUICK)
    assert not target.exists()
    subprocess.run(["mount", "-o", "remount,nr_inodes=20", str(small_disk)], check=True)
    step.fetch_file(upstream.row(), target, [], QUICK)
    assert target.read_bytes() == PAYLOAD


@pytest.mark.parametrize("connections", [1, 3])
def test_compressed_bytes_are_refused_also_as_a_part(upstream: Upstream, tmp_path: Path, connections: int) -> None:
    upstream.server.always = ServedFault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(DataError, match="the server compresses the file"):
        step.fetch_file(upstream.row(), tmp_path / "x.bin", [], RetryPolicy(retries=0, connections=connections))
    assert not (tmp_path / "x.bin").exists()


# ------------------------------------------------------- kills, and two at once


def environment(root: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root / "scripts"), "HF_HUB_OFFLINE": "0", **more}


def test_two_processes_at_once_fetch_once_and_say_so(upstream: Upstream, tmp_path: Path, root: Path) -> None:
    go = threading.Event()

    def hold(path: str) -> None:
        assert go.wait(60)

    upstream.server.respond = hold  # type: ignore[method-assign]
    (tmp_path / "row.json").write_text(upstream.row().model_dump_json())
    target = tmp_path / "data/set/file.bin"
    flags = ["--row", str(tmp_path / "row.json"), "--root", str(tmp_path / "data"), "--out", str(target)]
    command = [sys.executable, "-m", "safe_llava.data.fetch", *flags]

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment(root), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    first = started()
    while upstream.requests == 0:
        time.sleep(0.01)
        assert first.poll() is None
    second = started()
    assert second.stderr
    assert any("holds this lock; waiting" in line for line in second.stderr)
    go.set()
    assert "already here" not in first.communicate(timeout=60)[1]
    assert "already here" in second.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert upstream.requests == 1
    assert target.read_bytes() == PAYLOAD


def test_a_lock_of_a_process_that_was_killed_binds_nobody(upstream: Upstream, tmp_path: Path, root: Path) -> None:
    upstream.server.faults = [ServedFault(delay_s=30.0)]
    (tmp_path / "row.json").write_text(upstream.row().model_dump_json())
    target = tmp_path / "data/set/file.bin"
    flags = ["--row", str(tmp_path / "row.json"), "--root", str(tmp_path / "data"), "--out", str(target)]
    process = subprocess.Popen([sys.executable, "-m", "safe_llava.data.fetch", *flags], env=environment(root))
    while upstream.requests == 0:
        time.sleep(0.01)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    fetch_step.main(flags)
    assert target.read_bytes() == PAYLOAD


def test_a_repository_killed_at_any_moment_is_gone_on_with(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    weights = weights_of(12_000_000, dice.randbytes(12_000_000))  # more than three turns can fetch
    files = {"config.json": b"{}", "model.safetensors": weights, "more/b.safetensors": weights_of(500_000, b"b")}
    row = ResolvedSnapshot(set="w", repo="o/n", repo_type="model", revision="main", path="hub/w")
    (tmp_path / "row.json").write_text(row.model_dump_json())
    (tmp_path / "served").mkdir()
    base, target = "/huggingface.co/o/n/resolve/", tmp_path / "data/hub/w"
    with FaultyServer(tmp_path / "served") as server:
        for url, content in snapshot_files("o/n", "model", files):
            put(server, url, content)
        flags = ["--row", str(tmp_path / "row.json"), "--root", str(tmp_path / "data"), "--mirrors-only"]
        flags += ["--out", str(tmp_path / "r.json"), f"--mirror={server.url}"]
        command = [sys.executable, "-m", "safe_llava.data.snapshot", *flags, "--bandwidth-mb-s=3"]
        staging = target.with_name(".w.part")
        for _ in range(3):
            enough = held(staging) + dice.randrange(1, 900_000)
            process = subprocess.Popen(command, env=environment(root, HF_HOME=str(tmp_path)), stderr=subprocess.DEVNULL)
            while held(staging) < enough and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not target.exists() and not (tmp_path / "r.json").exists()
        server.at_rest()
        have, sent = held(staging), sum(n for path, n in server.bytes_sent.items() if path.startswith(base))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        snapshot_step.main(flags)
        now = sum(n for path, n in server.bytes_sent.items() if path.startswith(base))
    assert now - sent == sum(map(len, files.values())) - have
    assert {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()} == files


def held(staging: Path) -> int:
    """Bytes of files, whole or in part, in a folder that a process is filling."""
    total = 0
    for path in [*staging.rglob("*")] if staging.exists() else []:
        if path.suffix not in (".json", ".commit") or path.name == "config.json":
            total += transfer.size_of(path) if path.name != ".commit" and not path.is_dir() else 0
    return total


def test_a_receipt_without_its_file_is_no_file(upstream: Upstream, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    step.fetch_file(upstream.row(), target, [], QUICK)
    target.unlink()
    assert receipts.stands(target, upstream.row()) is None
    step.fetch_file(upstream.row(), target, [], QUICK)
    assert target.read_bytes() == PAYLOAD


def test_a_limit_that_is_asked_for_is_waited_out_on_every_connection(
    upstream: Upstream, tmp_path: Path, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100_000)
    upstream.server.faults = [None, ServedFault(status=429, headers={"Retry-After": "7"})]
    step.fetch_file(upstream.row(), tmp_path / "x.bin", [], RetryPolicy(connections=3))
    assert [int(one) for one in pauses.seconds if one >= 7] == [7]
    assert (tmp_path / "x.bin").read_bytes() == PAYLOAD
