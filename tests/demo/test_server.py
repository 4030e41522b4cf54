"""The local server: ranges, the hub's client, and faults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from safe_llava.core.errors import DataError
from safe_llava.demo.server import ServedFault, UpstreamServer
from safe_llava.demo.upstream import snapshot_files

CONTENT = bytes(range(256)) * 40


class Faulty(UpstreamServer):
    """A server whose next answers go wrong."""

    fault: ServedFault | None = None

    def respond(self, path: str) -> ServedFault | None:
        """Return the fault that was set."""
        return self.fault


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Faulty]:
    """A server with one plain file and one hub repository of each kind."""
    files = {"host.example/sets/a file.bin": CONTENT}
    for kind in ("model", "dataset"):
        files |= dict(snapshot_files("org/name", kind, {"config.json": b"{}", "data/part.bin": CONTENT}))
    for url, content in files.items():
        path = tmp_path / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with Faulty(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Faulty) -> Iterator[httpx2.Client]:
    """A client without proxies."""
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=10) as client:
        yield client


URL = "/host.example/sets/a%20file.bin"


def test_whole_file_and_head(client: httpx2.Client) -> None:
    whole, head = client.get(URL), client.head(URL)
    assert whole.status_code == 200 and whole.content == CONTENT
    assert head.content == b"" and head.headers["Content-Length"] == str(len(CONTENT))
    assert head.headers["ETag"].strip('"') == hashlib.sha256(CONTENT).hexdigest()
    assert head.headers["Accept-Ranges"] == "bytes"


def test_range_gives_the_rest_and_is_counted(client: httpx2.Client, server: Faulty) -> None:
    part = client.get(URL, headers={"Range": "bytes=100-"})
    assert part.status_code == 206 and part.content == CONTENT[100:]
    assert part.headers["Content-Range"] == f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert server.bytes_sent["/host.example/sets/a file.bin"] == len(CONTENT) - 100
    assert client.get(URL, headers={"Range": "bytes=5-9"}).content == CONTENT[5:10]
    assert client.get(URL, headers={"Range": f"bytes={len(CONTENT)}-"}).status_code == 416


def test_range_of_another_version_gives_the_whole(client: httpx2.Client) -> None:
    stale = client.get(URL, headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert stale.status_code == 200 and stale.content == CONTENT
    tag = client.head(URL).headers["ETag"]
    assert client.get(URL, headers={"Range": "bytes=100-", "If-Range": tag}).status_code == 206


@pytest.mark.parametrize("path", ["/host.example/none", "/host.example/sets", "/../../etc/passwd", "/%2e%2e/secret"])
def test_nothing_else_is_served(client: httpx2.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        UpstreamServer(tmp_path / "none")


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_status_fault(client: httpx2.Client, server: Faulty, status: int) -> None:
    server.fault = ServedFault(status=status, headers={"Retry-After": "3"})
    answer = client.get(URL)
    assert answer.status_code == status and answer.headers["Retry-After"] == "3"


def test_cut_body(client: httpx2.Client, server: Faulty) -> None:
    server.fault = ServedFault(truncate_after=1000)
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(URL)
    assert server.bytes_sent["/host.example/sets/a file.bin"] == 1000


def test_no_ranges(client: httpx2.Client, server: Faulty) -> None:
    server.fault = ServedFault(no_ranges=True)
    answer = client.get(URL, headers={"Range": "bytes=100-"})
    assert answer.status_code == 200 and answer.content == CONTENT and "Accept-Ranges" not in answer.headers


def test_lying_length(client: httpx2.Client, server: Faulty) -> None:
    server.fault = ServedFault(claimed_length=len(CONTENT) + 1)
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(URL)


def test_redirect_loop(client: httpx2.Client, server: Faulty) -> None:
    server.fault = ServedFault(redirect_to=URL)
    with pytest.raises(httpx2.TooManyRedirects):
        client.get(URL, follow_redirects=True)


def test_page_in_place_of_a_file(client: httpx2.Client, server: Faulty) -> None:
    server.fault = ServedFault(body=b"<html>quota exceeded</html>")
    answer = client.get(URL)
    assert answer.headers["Content-Type"] == "text/html" and b"quota" in answer.content


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_hub_client_fetches_a_snapshot(
    server: Faulty, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.snapshot_download(
        "org/name",
        repo_type=kind,
        revision="main",
        endpoint=f"{server.url}/huggingface.co",
        local_dir=tmp_path / "local",
        cache_dir=tmp_path / "cache",
        token=False,
    )
    assert (tmp_path / "local/data/part.bin").read_bytes() == CONTENT
    assert (tmp_path / "local/config.json").read_bytes() == b"{}"
