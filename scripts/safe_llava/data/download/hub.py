"""What the Hugging Face hub says of a file when it is asked for: its own checksum, and the commit."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from safe_llava.core.files import CHUNK_BYTES

HUB_HOST = "huggingface.co"


@dataclass(frozen=True)
class Promise:
    """What the bytes of a file must turn out to be; empty where the hub does not say.

    Args:
        sha256: checksum, given of large files.
        git_id: name of the blob in git, given of small ones.
        commit: the revision that was served.
    """

    sha256: str = ""
    git_id: str = ""
    commit: str = ""


def promise(response: httpx.Response) -> Promise:
    """Read the hub's headers off an answer and the redirects that led to it; of any other host they say nothing."""
    for one in (*response.history, response):
        commit = one.headers.get("x-repo-commit", "")
        # A mirror has the hub's name in its path.
        if not commit or HUB_HOST not in (urlsplit(str(one.url)).hostname, *one.url.path.split("/")):
            continue
        tag = one.headers.get("x-linked-etag") or one.headers.get("etag", "")
        tag = tag.removeprefix("W/").strip('"')
        return Promise(
            sha256=tag if re.fullmatch(r"[0-9a-f]{64}", tag) else "",
            git_id=tag if re.fullmatch(r"[0-9a-f]{40}", tag) else "",
            commit=commit,
        )
    return Promise()


def git_id(path: Path) -> str:
    """Return the name that git gives a file's content: how the hub names what it does not keep as a large file."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
