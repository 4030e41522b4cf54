"""The Hugging Face hub: where it is, what it says of a file (its own checksum, the commit), and why it refuses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import huggingface_hub
from huggingface_hub import constants

from safe_llava.config.data import HUB
from safe_llava.core.errors import DataError
from safe_llava.core.files import CHUNK_BYTES
from safe_llava.core.http import check_proxies, proxy_for

HUB_HOST = str(urlsplit(HUB).hostname)


def endpoint() -> str:
    """Return where the hub is asked: HF_ENDPOINT, or the hub itself."""
    return str(constants.ENDPOINT).rstrip("/")


def at_endpoint(url: str) -> str:
    """Return the address that is asked for an address of the hub; others stay as they are."""
    return endpoint() + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url


def is_hub(url: str) -> bool:
    """Tell whether an address is one of the hub or of the endpoint that stands for it."""
    parts, hub = urlsplit(url), urlsplit(endpoint())
    return (parts.scheme, parts.netloc) in {("https", HUB_HOST), (hub.scheme, hub.netloc)}


def refusal_remedy(status: int, with_token: bool) -> str:
    """Return what to do where the hub refuses: no token, a token that is no more, terms not accepted, no such file."""
    if status in (401, 403) and not with_token:
        return "accept the terms on the page of the repository and set HF_TOKEN"
    if status == 401:
        return "the hub does not know the token that was sent: it expired or was revoked; make a new one, set HF_TOKEN"
    if status == 403:
        return "the account of HF_TOKEN has no access: accept the terms on the page of the repository with it"
    if status in (404, 410):
        return "correct the row's `url`, `repo` or `revision`"
    return ""


@dataclass(frozen=True)
class Stated:
    """What the hub states of a file: the expected checksum of its bytes; empty where it does not say.

    Args:
        sha256: checksum, given of large files.
        git_id: name of the blob in git, given of small ones.
        commit: the revision that was served.
    """

    sha256: str = ""
    git_id: str = ""
    commit: str = ""


def stated(response: httpx2.Response) -> Stated:
    """Read the hub's headers off an answer and the redirects that led to it; of any other host they say nothing."""
    for one in (*response.history, response):
        commit = one.headers.get("x-repo-commit", "")
        # A mirror has the hub's name in its path.
        if not commit or not (is_hub(str(one.url)) or HUB_HOST in one.url.path.split("/")):
            continue
        tag = str(one.headers.get("x-linked-etag") or one.headers.get("etag", ""))
        tag = tag.removeprefix("W/").strip('"')
        return Stated(
            sha256=tag if re.fullmatch(r"[0-9a-f]{64}", tag) else "",
            git_id=tag if re.fullmatch(r"[0-9a-f]{40}", tag) else "",
            commit=commit,
        )
    return Stated()


def git_id(path: Path) -> str:
    """Return the name that git gives a file's content: how the hub names what it does not keep as a large file."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _ByHost(httpx2.BaseTransport):
    """Chooses the proxy host by host: httpx2 itself fails on whatever NO_PROXY holds besides names, such as `[::1]`."""

    def __init__(self) -> None:
        self._made: dict[str | None, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request on its way."""
        proxy = proxy_for(str(request.url))
        if proxy not in self._made:
            self._made[proxy] = httpx2.HTTPTransport(proxy=proxy)
        return self._made[proxy].handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in self._made.values():
            transport.close()


def prepare_client() -> None:
    """Let the hub's client choose proxies as this project does; call it before the hub is asked.

    Raises:
        DataError: the environment names a proxy that cannot be used.
    """
    check_proxies(DataError)
    huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=_ByHost(), follow_redirects=True))
