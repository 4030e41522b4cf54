"""Serve a mirror folder over HTTP as the real hosts serve it: ranges, entity tags, and the hub's own headers.

``python -m safe_llava.demo.server --root results/demo/upstream --port 8000``

The folder is laid out as ``<host>/<path of the URL>``. A subclass can make the server misbehave
(`UpstreamServer.respond`), which is how the data stage is tried against everything a network does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from safe_llava.core import cli
from safe_llava.core.errors import DataError

log = logging.getLogger(__name__)

SENT_BYTES = 1 << 16
HUB_HOST = "huggingface.co"
HUB_FILE = re.compile(r"^(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")
HUB_API = re.compile(r"^api/(?P<kind>models|datasets)/(?P<repo>.+)/(?P<view>revision|tree)/(?P<revision>[^/]+)$")
RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class ServedFault:
    """How one request is to go wrong.

    Args:
        status: answer with this status and no file (403, 404, 429, 500, 503, …).
        headers: further headers, such as ``Retry-After``.
        truncate_after: close the connection after this many bytes of the body.
        no_ranges: ignore ``Range`` and send the whole file with status 200.
        claimed_length: send this as Content-Length whatever is sent.
        redirect_to: answer 302 with this location; the request's own path makes a loop.
        body: send these bytes in place of the file, as HTML (a quota page).
        delay_s: wait so many seconds before answering.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    truncate_after: int | None = None
    no_ranges: bool = False
    claimed_length: int | None = None
    redirect_to: str | None = None
    body: bytes | None = None
    delay_s: float = 0.0


@dataclass(frozen=True)
class ServedFile:
    """A file to send and the headers that only the hub gives."""

    path: Path
    headers: dict[str, str]


class UpstreamServer:
    """A server for one mirror folder, running while its context is open.

    Attributes:
        bytes_sent: bytes of body sent, by path.
        requests: requests answered, by method and path.
    """

    def __init__(self, root: Path | str, port: int = 0) -> None:
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder", "make it with python -m safe_llava.demo.upstream")
        self.bytes_sent: Counter[str] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._tags: dict[tuple[Path, int, int], str] = {}
        handler = type("Handler", (_Handler,), {"upstream": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address under which ``<host>/<path>`` is served."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def address(self) -> str:
        """The same address, by the name that the demo uses."""
        return self.url

    def respond(self, path: str) -> ServedFault | None:
        """Say how the next request for ``path`` goes wrong; override it. None: it goes right."""
        return None

    def count(self, method: str, path: str) -> None:
        """Count a request."""
        with self._lock:
            self.requests[method, path] += 1

    def count_bytes(self, path: str, amount: int) -> None:
        """Count bytes of body sent."""
        with self._lock:
            self.bytes_sent[path] += amount

    def entity_tag(self, path: Path) -> str:
        """Return a file's entity tag: its sha256, as the hub gives for large files."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._tags:
            self._tags[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._tags[key]

    def find(self, path: str) -> ServedFile | None:
        """Return the file behind a path below the root, or None. The hub's commit stands for ``main`` too."""
        headers: dict[str, str] = {}
        relative = PurePosixPath(path.lstrip("/"))
        if ".." in relative.parts:
            return None
        if relative.parts[:1] == (HUB_HOST,):
            relative, headers = self._hub(relative)
        target = self.root / relative
        return ServedFile(target, headers) if target.is_file() else None

    def _hub(self, relative: PurePosixPath) -> tuple[PurePosixPath, dict[str, str]]:
        inner = str(relative.relative_to(HUB_HOST))
        if match := HUB_API.match(inner):
            commit = self._commit(match["kind"], match["repo"])
            if commit is not None and match["revision"] == commit:
                inner = f"api/{match['kind']}/{match['repo']}/{match['view']}/main"
            return PurePosixPath(HUB_HOST, inner), {}
        if match := HUB_FILE.match(inner):
            kind, repo = "models", match["repo"]
            if repo.startswith("datasets/"):
                kind, repo = "datasets", repo.removeprefix("datasets/")
            commit = self._commit(kind, repo)
            if commit is not None and match["revision"] == commit:
                inner = f"{match['repo']}/resolve/main/{match['file']}"
            return PurePosixPath(HUB_HOST, inner), {"X-Repo-Commit": commit} if commit else {}
        return relative, {}

    def _commit(self, kind: str, repo: str) -> str | None:
        listing = self.root / HUB_HOST / "api" / kind / repo / "revision" / "main"
        return str(json.loads(listing.read_text())["sha"]) if listing.is_file() else None

    def serve_forever(self) -> None:
        """Serve in this thread until interrupted."""
        self._server.serve_forever()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for one `UpstreamServer`."""

    protocol_version = "HTTP/1.1"
    upstream: UpstreamServer

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def do_GET(self) -> None:
        """Send a file or a part of it."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send a file's headers."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.upstream.count(self.command, path)
        fault = self.upstream.respond(path) or ServedFault()
        if fault.delay_s:
            time.sleep(fault.delay_s)
        if fault.redirect_to is not None:
            self._plain(302, b"", {"Location": fault.redirect_to, **fault.headers}, with_body)
        elif fault.status is not None:
            self._plain(fault.status, f"status {fault.status}\n".encode(), fault.headers, with_body)
        elif fault.body is not None:
            self._plain(200, fault.body, {"Content-Type": "text/html", **fault.headers}, with_body)
        elif (found := self.upstream.find(path)) is None:
            self._plain(404, b"no such file\n", {}, with_body)
        else:
            self._file(path, found, fault, with_body)

    def _plain(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _span(self, size: int, tag: str, fault: ServedFault) -> tuple[int, int] | None:
        """Return the first and the last byte that are asked for, or None for the whole file."""
        match = RANGE.match(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if fault.no_ranges or match is None or (condition is not None and condition.strip('"') != tag):
            return None
        return int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)

    def _file(self, path: str, found: ServedFile, fault: ServedFault, with_body: bool) -> None:
        size, tag = found.path.stat().st_size, self.upstream.entity_tag(found.path)
        span = self._span(size, tag, fault)
        if span is not None and span[0] > span[1]:
            self._plain(416, b"", {"Content-Range": f"bytes */{size}"}, with_body)
            return
        start, stop = (0, size) if span is None else (span[0], span[1] + 1)
        self.send_response(200 if span is None else 206)
        for name, value in {**found.headers, **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", f'"{tag}"')
        if not fault.no_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if span is not None:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        length = stop - start if fault.claimed_length is None else fault.claimed_length
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if with_body:
            self._body(path, found.path, start, stop, fault)

    def _body(self, path: str, file: Path, start: int, stop: int, fault: ServedFault) -> None:
        if fault.truncate_after is not None:
            stop = min(stop, start + fault.truncate_after)
        if fault.truncate_after is not None or fault.claimed_length is not None:
            self.close_connection = True  # the client must see an end that comes too early
        with file.open("rb") as stream:
            stream.seek(start)
            while start < stop and (chunk := stream.read(min(SENT_BYTES, stop - start))):
                # Counted before sending: a client that has every byte may look at the count at once.
                self.upstream.count_bytes(path, len(chunk))
                try:
                    self.wfile.write(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                    return
                start += len(chunk)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Serve a mirror folder until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.demo.server", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder laid out as <host>/<path of the URL>")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    arguments = parser.parse_args(argv)
    server = UpstreamServer(arguments.root, arguments.port)
    log.info("serving %s at %s", server.root, server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        log.info("stopped")
    return None


if __name__ == "__main__":
    cli.run(main)
