"""Clients and the proxies of the environment: what works, and which variable an error names."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from safe_llava.core.errors import DataError
from safe_llava.core.http import open_http_client, proxy_for


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers 404 to everything."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize("hosts", ["[::1]", "fe80::/10", "localhost,[::1],10.0.0.0/8,.site", "*", ""])
@pytest.mark.parametrize("proxy", ["http://proxy.site:3128", "proxy.site:3128", "socks5://proxy.site:1080"])
def test_whatever_no_proxy_holds_there_is_a_client(monkeypatch: pytest.MonkeyPatch, hosts: str, proxy: str) -> None:
    monkeypatch.setenv("NO_PROXY", hosts)
    monkeypatch.setenv("ALL_PROXY", proxy)
    open_http_client(DataError).close()
    assert proxy_for("https://huggingface.co/x") in (None if hosts == "*" else proxy, f"http://{proxy}")
    assert proxy_for("http://[::1]:8/x") is None and proxy_for("http://127.0.0.1:8/x") is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "value",
    [
        *("socks4://p:1", "http://me:secret@p:x", "ftp://p:1"),
        *("http://", "http://me:secret@", " ", "http://[p:1", "http://p:99999", "http://p:0"),
    ],
)
def test_a_proxy_that_cannot_be_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=f"variable {name} names no proxy") as caught:
        open_http_client(DataError)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_certificates_that_are_none_are_named_by_their_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "site.pem"
    if content:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(DataError, match=r"variable SSL_CERT_FILE names .*site\.pem, no file of certificates"):
        open_http_client(DataError)


def test_this_machine_is_asked_without_proxy(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with open_http_client(DataError) as client:
        assert client.get(address).status_code == 501 or client.get(address).status_code == 404
