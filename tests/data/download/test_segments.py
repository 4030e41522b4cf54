"""One large file over several connections: only what is missing is fetched, whatever happened before."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.conftest import PAYLOAD, FaultyServer, Pauses, Upstream
from safe_llava.config.data import ResolvedFile
from safe_llava.core.errors import DataError
from safe_llava.data import fetch as fetch_step
from safe_llava.data.download import files as step
from safe_llava.data.download import segments
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.demo.server import ServedFault

SEGMENT = 50_000
FOUR = RetryPolicy(connect_timeout_s=2.0, read_timeout_s=5.0, retries=2, backoff_s=0.01, connections=4)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", SEGMENT)


def fetch(row: ResolvedFile, tmp_path: Path, policy: RetryPolicy = FOUR) -> Path:
    target = tmp_path / "data" / row.path
    step.fetch_file(row, target, [], policy)
    return target


def here(part: Path) -> int:
    """Bytes that need not be fetched again."""
    return (part.stat().st_size if part.exists() else 0) + segments.ahead_bytes(part)


def part_of(tmp_path: Path) -> Path:
    return tmp_path / "data/set/file.bin.part"


def test_every_byte_is_fetched_once(upstream: Upstream, tmp_path: Path) -> None:
    target = fetch(upstream.row(), tmp_path)
    assert target.read_bytes() == PAYLOAD
    assert upstream.bytes_sent == len(PAYLOAD)
    assert upstream.requests == -(-len(PAYLOAD) // SEGMENT)
    assert {path.name for path in target.parent.iterdir()} == {"file.bin", "file.bin.receipt.json", ".file.bin.lock"}


def test_a_small_file_takes_one_request(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", len(PAYLOAD))
    assert fetch(upstream.row(), tmp_path).read_bytes() == PAYLOAD
    assert upstream.requests == 1


def test_an_empty_file_arrives(upstream: Upstream, tmp_path: Path) -> None:
    (upstream.server.root / upstream.path.lstrip("/")).write_bytes(b"")
    assert fetch(upstream.row(), tmp_path).read_bytes() == b""


def test_a_server_without_ranges_gives_it_over_one(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(no_ranges=True)
    assert fetch(upstream.row(), tmp_path).read_bytes() == PAYLOAD
    assert (upstream.requests, upstream.bytes_sent) == (1, len(PAYLOAD))


def test_broken_lines_are_gone_on_with_each_by_itself(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [ServedFault(truncate_after=20_000)] * 6
    assert fetch(upstream.row(), tmp_path).read_bytes() == PAYLOAD
    assert upstream.bytes_sent == len(PAYLOAD)


def test_what_one_connection_left_several_go_on_with(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [ServedFault(truncate_after=123_456), *[ServedFault(status=503)] * 3]
    with pytest.raises(DataError, match="HTTP 503"):
        fetch(upstream.row(), tmp_path, RetryPolicy(retries=2))
    assert here(part_of(tmp_path)) == 123_456
    assert fetch(upstream.row(), tmp_path).read_bytes() == PAYLOAD
    assert upstream.bytes_sent == len(PAYLOAD)


def test_what_several_left_one_connection_ends(
    upstream: Upstream, tmp_path: Path, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A chunk fails for good while the ones behind it come: they stay ahead.
    asked: list[str] = []

    def respond(path: str) -> ServedFault | None:
        asked.append(path)
        return ServedFault(status=404) if len(asked) == 4 else None

    with monkeypatch.context() as patched:
        patched.setattr(upstream.server, "respond", respond)
        with pytest.raises(DataError, match="HTTP 404"):
            fetch(upstream.row(), tmp_path)
    prefix = part_of(tmp_path).stat().st_size
    assert SEGMENT <= prefix < len(PAYLOAD)
    assert fetch(upstream.row(), tmp_path, RetryPolicy()).read_bytes() == PAYLOAD
    assert not segments.ahead_folder(part_of(tmp_path)).exists()


def test_a_file_that_changes_meanwhile_is_begun_anew(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [None, *[ServedFault(status=503)] * 40]
    with pytest.raises(DataError, match="HTTP 503"):
        fetch(upstream.row(), tmp_path)
    upstream.server.faults = []
    (upstream.server.root / upstream.path.lstrip("/")).write_bytes(PAYLOAD[::-1])
    assert fetch(upstream.row(), tmp_path).read_bytes() == PAYLOAD[::-1]


def test_chunks_of_another_length_are_not_mixed_in(
    upstream: Upstream, tmp_path: Path, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def respond(path: str) -> ServedFault | None:
        asked.append(path)
        return ServedFault(status=404) if len(asked) == 6 else None

    monkeypatch.setattr(upstream.server, "respond", respond)
    with pytest.raises(DataError, match="HTTP 404"):
        fetch(upstream.row(), tmp_path)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 33_333)
    assert fetch(upstream.row(), tmp_path).read_bytes() == PAYLOAD


def test_a_wrong_checksum_leaves_nothing_to_go_on_with(upstream: Upstream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sha256 expected"):
        fetch(upstream.row(sha256="1" * 64), tmp_path)
    assert {path.name for path in part_of(tmp_path).parent.iterdir()} == {".file.bin.lock"}


@pytest.mark.parametrize(
    ("prefix", "ahead", "joined", "left"),
    [
        (0, {"0-4": b"0123", "4-8": b"45"}, b"0123", {"4-8"}),
        (0, {"4-8": b"4567"}, b"", {"4-8"}),
        (2, {"0-4": b"0123", "4-8": b"4567"}, b"01234567", set()),
        (4, {"0-4": b"0123", "8-9": b"8"}, b"0123", {"8-9"}),
        (5, {"4-8": b"4567", "8-9": b"8"}, b"012345678", set()),
    ],
)
def test_what_follows_is_joined(
    tmp_path: Path, prefix: int, ahead: dict[str, bytes], joined: bytes, left: set[str]
) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"012345678"[:prefix])
    segments.ahead_folder(part).mkdir()
    for name, content in ahead.items():
        (segments.ahead_folder(part) / name).write_bytes(content)
    assert segments._join(part, 9) == len(joined)
    assert part.read_bytes() == joined
    assert {path.name for path in segments.ahead_folder(part).iterdir()} == left


def here_now(part: Path) -> int:
    """The same of a file that another process is at."""
    try:
        return here(part)
    except FileNotFoundError:  # a chunk was joined meanwhile
        return 0


RUN = """
import sys
from safe_llava.data import fetch
from safe_llava.data.download import segments
segments.SEGMENT_BYTES = 1 << 18
fetch.main(sys.argv[1:])
"""


@pytest.mark.parametrize("connections", [1, 3])
def test_killed_at_any_moment_only_the_missing_bytes_are_fetched(
    tmp_path: Path, root: Path, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 18)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    payload = dice.randbytes(24_000_000)  # more than four turns can fetch, even where the test is kept waiting
    path = "/data.example/set/file.bin"
    served = tmp_path / "served" / path.lstrip("/")
    served.parent.mkdir(parents=True)
    served.write_bytes(payload)
    target = tmp_path / "data/set/file.bin"
    part = target.with_name("file.bin.part")
    flags = ["--root", str(tmp_path / "data"), "--out", str(target), "--row", str(tmp_path / "row.json")]
    flags += [f"--connections={connections}"]
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    with FaultyServer(tmp_path / "served") as server:
        (tmp_path / "row.json").write_text(
            ResolvedFile(set="demo", path="set/file.bin", url=server.url + path).model_dump_json()
        )
        for _ in range(4):
            before = here(part)
            enough = before + dice.choice([0, dice.randrange(1, 1_200_000)])
            command = [sys.executable, "-c", RUN, *flags, "--bandwidth-mb-s=4"]
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            while enough > before and here_now(part) < enough and process.poll() is None:
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.4))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not target.exists()
            assert before <= here(part) <= len(payload)
            assert part.read_bytes() == payload[: part.stat().st_size] if part.exists() else True
        server.at_rest()
        have, sent = here(part), server.bytes_sent[path]
        fetch_step.main(flags)
        assert target.read_bytes() == payload
        assert server.bytes_sent[path] - sent == len(payload) - have
