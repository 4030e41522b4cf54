"""Fetching one file: from whom, what goes wrong, and what is left behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.conftest import PAYLOAD, Pauses, Upstream
from safe_llava.config.data import ResolvedFile, ResolvedSnapshot
from safe_llava.core.errors import DataError
from safe_llava.data import fetch as fetch_step
from safe_llava.data.download import files as step
from safe_llava.data.download import receipts, retries, room, sources, transfer
from safe_llava.data.download.repository import fetch_repository
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.demo.server import ServedFault

SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
QUICK = RetryPolicy(connect_timeout_s=2.0, read_timeout_s=5.0, retries=2)
CUT = 100_000


def fetch(row: ResolvedFile, tmp_path: Path, mirrors: list[Mirror] | None = None) -> receipts.Receipt:
    return step.fetch_file(row, tmp_path / "data" / row.path, mirrors or [], QUICK)


def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set" / "file.bin"


def part(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set" / "file.bin.part"


def leftovers(tmp_path: Path) -> set[str]:
    """Names beside the target that are neither it, nor its receipt, nor a lock."""
    mine = {"file.bin", "file.bin.receipt.json", ".file.bin.lock"}
    return {path.name for path in target(tmp_path).parent.iterdir()} - mine


def test_a_file_arrives_with_its_receipt(upstream: Upstream, tmp_path: Path) -> None:
    receipt = fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert (receipt.size, receipt.sha256, receipt.checked) == (len(PAYLOAD), SHA256, [])
    assert receipts.read(receipts.receipt_path(target(tmp_path))) == receipt
    assert leftovers(tmp_path) == set()


def test_what_is_here_is_not_asked_for_again(upstream: Upstream, tmp_path: Path) -> None:
    first = fetch(upstream.row(), tmp_path)
    assert fetch(upstream.row(sha256=SHA256), tmp_path) == first
    assert upstream.requests == 1


@pytest.mark.parametrize("damage", ["cut", "no receipt", "another pin"])
def test_a_file_is_not_trusted_because_it_exists(upstream: Upstream, tmp_path: Path, damage: str) -> None:
    fetch(upstream.row(), tmp_path)
    row = upstream.row()
    if damage == "cut":
        target(tmp_path).write_bytes(PAYLOAD[:-1])
    elif damage == "no receipt":
        receipts.receipt_path(target(tmp_path)).unlink()
        target(tmp_path).write_bytes(b"x" * len(PAYLOAD))
    else:
        row = upstream.row(sha256="0" * 64)
    if damage == "another pin":
        with pytest.raises(DataError, match=r"sha256 expected 0{64}, got"):
            fetch(row, tmp_path)
    else:
        fetch(row, tmp_path)
        assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.requests == 2


def test_a_pin_proves_a_file_without_a_receipt(upstream: Upstream, tmp_path: Path) -> None:
    target(tmp_path).parent.mkdir(parents=True)
    target(tmp_path).write_bytes(PAYLOAD)
    assert fetch(upstream.row(sha256=SHA256), tmp_path).source == "already there"
    assert upstream.requests == 0


def test_a_broken_line_is_gone_on_with(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [ServedFault(truncate_after=CUT)]
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.requests == 2
    assert upstream.bytes_sent == len(PAYLOAD), "only the missing bytes were fetched"


def test_progress_renews_the_retry_policy(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.always = ServedFault(truncate_after=len(PAYLOAD) // 8)
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.requests == 8 > QUICK.retries + 1


def test_another_run_goes_on_where_the_first_gave_up(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [ServedFault(truncate_after=CUT), *[ServedFault(status=503)] * 3]
    with pytest.raises(DataError, match="HTTP 503"):
        fetch(upstream.row(), tmp_path)
    assert part(tmp_path).stat().st_size == CUT
    assert not target(tmp_path).exists()
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.bytes_sent == len(PAYLOAD)


def test_a_changed_file_is_begun_anew(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [ServedFault(truncate_after=CUT), *[ServedFault(status=503)] * 3]
    with pytest.raises(DataError):
        fetch(upstream.row(), tmp_path)
    changed = PAYLOAD[::-1]
    (upstream.server.root / upstream.path.lstrip("/")).write_bytes(changed)
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == changed


def test_a_server_without_ranges_is_asked_from_the_start(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.faults = [ServedFault(truncate_after=CUT), ServedFault(no_ranges=True)]
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.bytes_sent == CUT + len(PAYLOAD)


@pytest.mark.parametrize(
    ("status", "requests", "remedy"),
    [(404, 1, "`url` or `revision`"), (403, 1, "wants credentials"), (500, 3, "later"), (429, 3, "later")],
)
def test_a_refusal_is_named_with_its_remedy(
    upstream: Upstream, tmp_path: Path, pauses: Pauses, status: int, requests: int, remedy: str
) -> None:
    upstream.server.always = ServedFault(status=status)
    with pytest.raises(DataError) as caught:
        fetch(upstream.row(), tmp_path)
    assert f"HTTP {status}" in caught.value.message
    assert "set/file.bin (set demo)" in caught.value.message
    assert upstream.server.url in caught.value.message
    assert remedy in caught.value.remedy
    assert "SAFE_LLAVA_MIRRORS" in caught.value.remedy
    assert upstream.requests == requests
    assert not target(tmp_path).exists()


@pytest.mark.parametrize("value", ["27", "date"])
def test_the_wait_is_the_one_that_was_asked_for(upstream: Upstream, tmp_path: Path, pauses: Pauses, value: str) -> None:
    header = formatdate(time.time() + 27.9, usegmt=True) if value == "date" else value
    upstream.server.faults = [ServedFault(status=429, headers={"Retry-After": header})]
    fetch(upstream.row(), tmp_path)
    assert len(pauses.seconds) == 1
    assert 15 < pauses.seconds[0] <= 28


def test_pauses_grow_and_end(pauses: Pauses) -> None:
    def failing(retry_after: float) -> None:
        raise SourceError("no", again=True, retry_after=retry_after)

    for policy, asked in ((RetryPolicy(retries=7, longest_wait_s=20.0), 0.0), (RetryPolicy(retries=1), 1e9)):
        with pytest.raises(SourceError):
            retries.retried(partial(failing, asked), policy, "it")
    assert [int(wait) for wait in pauses.seconds[:3]] == [1, 2, 4]
    assert pauses.seconds[-2:] == [20.0, 600.0]


def test_a_wrong_checksum_names_both(upstream: Upstream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"sha256 expected {'1' * 64}, got {SHA256}") as caught:
        fetch(upstream.row(sha256="1" * 64), tmp_path)
    assert "take its pin out of `data.pins`" in caught.value.remedy
    assert not target(tmp_path).exists()
    assert leftovers(tmp_path) == set(), "wrong bytes are not resumed"


def test_a_published_md5_is_checked(upstream: Upstream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="md5 expected"):
        fetch(upstream.row(md5="1" * 32), tmp_path)
    good = hashlib.md5(PAYLOAD, usedforsecurity=False).hexdigest()
    assert fetch(upstream.row(md5=good), tmp_path).checked == ["md5"]


def test_a_wrong_size_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bytes where the pin says 5"):
        fetch(upstream.row(size=5), tmp_path)


def test_a_length_that_is_a_lie_never_gives_a_file(upstream: Upstream, tmp_path: Path, pauses: Pauses) -> None:
    upstream.server.always = ServedFault(claimed_length=len(PAYLOAD) + 10, no_ranges=True)
    with pytest.raises(DataError, match="524,288 of 524,298 bytes"):
        fetch(upstream.row(), tmp_path)
    assert not target(tmp_path).exists()


def test_a_page_instead_of_the_file(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(body=b"<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(DataError, match="an HTML page instead of the file"):
        fetch(upstream.row(), tmp_path)
    assert not target(tmp_path).exists()


def test_a_page_that_says_it_is_a_file(upstream: Upstream, tmp_path: Path) -> None:
    file = upstream.server.root / upstream.path.lstrip("/")
    file.write_bytes(b"\n<html>Sign in</html>")
    with pytest.raises(DataError, match="an HTML page instead of the file"):
        fetch(upstream.row(), tmp_path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match="a pointer of git-lfs instead of the file"):
        fetch(upstream.row(), tmp_path)
    file.write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a zip archive"):
        step.fetch_file(upstream.row(path="set/file.zip"), tmp_path / "file.zip", [], QUICK)


def test_a_body_compressed_unasked_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(DataError, match="compresses the file"):
        fetch(upstream.row(), tmp_path)


def test_redirects_in_a_circle(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(redirect_to=upstream.path)
    with pytest.raises(DataError, match="redirects in a circle"):
        fetch(upstream.row(), tmp_path)


def test_nobody_there_is_given_up_early(tmp_path: Path, pauses: Pauses) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin"
    with pytest.raises(DataError, match=r"no connection to 127\.0\.0\.1"):
        fetch(ResolvedFile(set="demo", path="set/file.bin", url=url), tmp_path)
    assert len(pauses.seconds) == 1


def test_a_full_disk_keeps_what_came(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream, self.left = stream, 1

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, data: bytes) -> int:
            if self.left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= 1
            return int(self.stream.write(data[:1000]))

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = real(self, mode, *args, **kwargs)
        return Full(stream) if self.suffix == ".part" and mode in ("ab", "wb") else stream

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(DataError, match="No space left on device") as caught:
        fetch(upstream.row(), tmp_path)
    assert "data.root" in caught.value.remedy
    assert not target(tmp_path).exists()
    assert part(tmp_path).read_bytes() == PAYLOAD[:1000]
    monkeypatch.setattr(Path, "open", real)
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD


def test_room_is_asked_for_beforehand(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = room.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataError, match="524,288 bytes are needed and 10 are free"):
        fetch(upstream.row(), tmp_path)


# ------------------------------------------------------------------ mirrors


def mirror_folder(tmp_path: Path, url: str, content: bytes) -> Mirror:
    root = tmp_path / "mirror"
    place = Mirror(str(root)).locate(url)
    assert isinstance(place, Path)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    return Mirror(str(root))


def test_a_mirror_is_asked_before_the_origin(upstream: Upstream, tmp_path: Path) -> None:
    mirror = mirror_folder(tmp_path, upstream.row().url, PAYLOAD)
    receipt = fetch(upstream.row(), tmp_path, [mirror])
    assert receipt.source.startswith(mirror.root)
    assert receipt.url == upstream.row().url
    assert upstream.requests == 0


def test_a_mirror_with_other_bytes_is_passed_over(upstream: Upstream, tmp_path: Path) -> None:
    mirror = mirror_folder(tmp_path, upstream.row().url, b"stale")
    assert fetch(upstream.row(sha256=SHA256), tmp_path, [mirror]).source == upstream.row().url
    assert target(tmp_path).read_bytes() == PAYLOAD


def test_a_mirror_without_the_file_is_passed_over(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fetch(upstream.row(), tmp_path, [Mirror(str(tmp_path / "empty"))])
    assert upstream.requests == 1


def test_an_address_serves_as_a_mirror(upstream: Upstream, tmp_path: Path) -> None:
    row = ResolvedFile(set="demo", path="set/file.bin", url="https://data.example/set/file.bin")
    assert fetch(row, tmp_path, [Mirror(upstream.server.url)]).source == upstream.server.url + upstream.path


def test_a_row_may_name_copies(upstream: Upstream, tmp_path: Path) -> None:
    copy = upstream.row().url
    row = upstream.row(url=upstream.server.url + "/elsewhere/file.bin", mirrors=[copy])
    assert fetch(row, tmp_path).source == copy


def test_every_source_is_named_in_order(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    upstream.server.always = ServedFault(status=404)
    with pytest.raises(DataError) as caught:
        fetch(upstream.row(), tmp_path, [Mirror(str(tmp_path / "empty"))])
    first, second = caught.value.message.splitlines()[1:]
    assert first.endswith("not in the mirror")
    assert second.endswith("HTTP 404 Not Found")


def test_where_only_mirrors_may_be_asked_the_origin_is_not(upstream: Upstream, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    row = upstream.row()
    with pytest.raises(DataError, match="not in the mirror") as caught:
        step.fetch_file(row, tmp_path / "data" / row.path, [Mirror(str(empty))], QUICK, origin=False)
    assert row.url not in caught.value.message
    assert not target(tmp_path).exists()


def test_mirrors_of_flags_come_before_those_of_the_environment(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    variable = {"SAFE_LLAVA_MIRRORS": f"{tmp_path}/b, http://mirror.example:80/x {tmp_path}/c,{tmp_path}/a"}
    found = [mirror.root for mirror in sources.mirrors([f"{tmp_path}/a"], variable)]
    assert found == [f"{tmp_path}/a", f"{tmp_path}/b", "http://mirror.example:80/x", f"{tmp_path}/c"]


def test_a_mirror_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: SAFE_LLAVA_MIRRORS names this folder") as caught:
        sources.mirrors([], {"SAFE_LLAVA_MIRRORS": str(tmp_path / "nowhere")})
    assert "mount it" in caught.value.remedy


def test_a_mirror_is_not_left_through_the_address(tmp_path: Path) -> None:
    with pytest.raises(sources.SourceError, match=r"has `\.\.`"):
        Mirror(str(tmp_path)).locate("https://data.example/%2e%2e/%2e%2e/etc/passwd")


def test_passwords_of_addresses_are_not_shown() -> None:
    assert sources.shown("https://me:secret@mirror.example/x") == "https://mirror.example/x"


# ------------------------------------------------------- processes and the command


def command(row: Path, tmp_path: Path, *more: str) -> list[str]:
    flags = ["--row", str(row), "--root", str(tmp_path / "data"), "--out", str(target(tmp_path)), *more]
    return [sys.executable, "-m", "safe_llava.data.fetch", *flags]


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root / "scripts")}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_while_fetching_then_run_again(
    upstream: Upstream, tmp_path: Path, write_row: Callable[[ResolvedFile], Path], environment: dict[str, str]
) -> None:
    # Cut, then a server that does not answer: the process hangs with a part of the file.
    upstream.server.faults = [ServedFault(truncate_after=CUT), ServedFault(delay_s=20.0)]
    row = write_row(upstream.row())
    process = subprocess.Popen(command(row, tmp_path), env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: upstream.requests == 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not target(tmp_path).exists()
    assert part(tmp_path).stat().st_size == CUT
    assert fetch_step.main(command(row, tmp_path)[3:]) is None
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.bytes_sent <= len(PAYLOAD) + len(PAYLOAD) - CUT


def test_killed_between_receipt_and_rename(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def killed(self: Path, other: Path) -> Path:
        if self.suffix == ".part" and self.name.startswith("file.bin"):
            raise KeyboardInterrupt
        return real(self, other)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(upstream.row(), tmp_path)
    monkeypatch.setattr(Path, "replace", real)
    fetch(upstream.row(), tmp_path)
    assert target(tmp_path).read_bytes() == PAYLOAD
    assert upstream.bytes_sent == len(PAYLOAD), "the whole part file was taken, not fetched again"


def test_two_runs_at_once_fetch_once(upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.always = ServedFault(delay_s=0.2)
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(upstream.row(), tmp_path).sha256)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [SHA256, SHA256]
    assert upstream.requests == 1


def test_the_command_writes_a_stable_copy_of_the_receipt(
    upstream: Upstream, tmp_path: Path, write_row: Callable[[ResolvedFile], Path]
) -> None:
    row, copy = write_row(upstream.row()), tmp_path / "fetched.json"
    arguments = [*command(row, tmp_path)[3:], "--receipt", str(copy)]
    fetch_step.main(arguments)
    first = copy.read_bytes()
    copy.unlink()
    target(tmp_path).unlink()
    fetch_step.main([*arguments, "--mirror", upstream.server.url])
    assert copy.read_bytes() == first
    assert json.loads(first)["sha256"] == SHA256


def test_the_command_refuses_another_target(
    upstream: Upstream, tmp_path: Path, write_row: Callable[[ResolvedFile], Path]
) -> None:
    row = write_row(upstream.row())
    with pytest.raises(DataError, match="is not"):
        fetch_step.main(["--row", str(row), "--root", str(tmp_path), "--out", str(tmp_path / "other")])


def test_a_row_of_another_form_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text('{"path": "../x"}')
    with pytest.raises(DataError, match=r"row\.json"):
        fetch_step.main(["--row", str(tmp_path / "row.json"), "--root", str(tmp_path), "--out", str(tmp_path / "x")])


def test_what_is_there_is_used_where_nothing_can_be_written(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = fetch(upstream.row(), tmp_path)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    assert fetch(upstream.row(), tmp_path) == receipt
    monkeypatch.setattr(receipts, "write_json", read_only)
    receipts.receipt_path(target(tmp_path)).unlink()
    assert fetch(upstream.row(sha256=SHA256), tmp_path).sha256 == SHA256, "its pin proves it"
    monkeypatch.setattr(transfer, "write_json", read_only)
    target(tmp_path).unlink()
    with pytest.raises(DataError, match=r"file\.bin.*cannot be written: Read-only file system"):
        fetch(upstream.row(), tmp_path)


def test_the_environment_fills_in_for_flags(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    place = Mirror(str(mirror)).locate("https://far.example/set/file.bin")
    assert isinstance(place, Path)
    place.parent.mkdir(parents=True)
    place.write_bytes(PAYLOAD)
    (tmp_path / "row.json").write_text(upstream.row(url="https://far.example/set/file.bin").model_dump_json())
    flags = ["--row", str(tmp_path / "row.json"), "--root", str(tmp_path), "--out", str(tmp_path / "set/file.bin")]
    monkeypatch.setenv("SAFE_LLAVA_DOWNLOAD", json.dumps({"mirrors": [str(mirror)], "mirrors_only": True}))
    fetch_step.main(flags)
    assert (tmp_path / "set/file.bin").read_bytes() == PAYLOAD
    (tmp_path / "set/file.bin").unlink()
    copies = {"set/file.bin": [upstream.server.url + upstream.path]}
    monkeypatch.setenv("SAFE_LLAVA_DOWNLOAD", json.dumps({"file_mirrors": copies}))
    fetch_step.main(flags)
    assert upstream.requests == 1
    monkeypatch.setenv("SAFE_LLAVA_DOWNLOAD", '{"retries": "many"}')
    with pytest.raises(DataError, match="SAFE_LLAVA_DOWNLOAD: retries"):
        fetch_step.main(flags)


def test_the_endpoint_stands_for_the_hub(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"{upstream.server.url}/data.example")
    fetch(upstream.row(url="https://huggingface.co/set/file.bin"), tmp_path)
    assert upstream.requests == 1


@pytest.mark.parametrize(
    ("token", "status", "remedy"),
    [("", 401, "set HF_TOKEN"), ("hf_old", 401, "expired or was revoked"), ("hf_new", 403, "has no access")],
)
def test_no_token_an_old_one_and_one_without_access_are_told_apart(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, status: int, remedy: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"{upstream.server.url}/data.example")
    monkeypatch.setattr("safe_llava.data.download.web.get_token", lambda: token)
    upstream.server.always = ServedFault(status=status)
    with pytest.raises(DataError) as caught:
        fetch(upstream.row(url="https://huggingface.co/set/file.bin"), tmp_path)
    assert (remedy in caught.value.remedy and token not in str(caught.value).replace("HF_TOKEN", "")) or not token


@pytest.mark.parametrize("fault", [ServedFault(status=403), ServedFault(status=503), None])
def test_a_mirrors_password_is_shown_nowhere(
    upstream: Upstream, tmp_path: Path, pauses: Pauses, caplog: pytest.LogCaptureFixture, fault: ServedFault | None
) -> None:
    caplog.set_level("DEBUG")
    upstream.server.always = fault
    port = upstream.server.url.rsplit(":", 1)[1] if fault else "9"
    mirror = Mirror(f"http://me:pass-word@127.0.0.1:{port}")
    repository = ResolvedSnapshot(set="demo", repo="demo/x", repo_type="model", revision="main", path="hub")
    with pytest.raises(DataError) as one:
        step.fetch_file(upstream.row(), tmp_path / "x", [mirror], QUICK, origin=False)
    with pytest.raises(DataError) as other:
        fetch_repository(repository, tmp_path / "hub", [mirror], QUICK, origin=False)
    said = f"{one.value}{other.value}" + "".join(
        record.getMessage() for record in caplog.records if record.name.startswith("safe_llava")
    )
    assert "127.0.0.1" in said and "pass-word" not in said
