"""A server that misbehaves, and rows to fetch from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.data import ResolvedFile
from safe_llava.demo.server import ServedFault, UpstreamServer

HOST = "data.example"
# Longer than what client and server move at once, so that a cut leaves something behind.
PAYLOAD = bytes(range(256)) * 2048


class FaultyServer(UpstreamServer):
    """Goes wrong as it is told: one fault a request, then as it should."""

    faults: list[ServedFault | None]
    always: ServedFault | None = None

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.faults = []
        # Clients that are killed leave broken connections, which is what is wanted.
        self._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        self._at_work: set[tuple[object, object]] = set()
        self._begin, self._serve = self._server.process_request, self._server.process_request_thread
        self._server.process_request = self._counted  # type: ignore[method-assign]
        self._server.process_request_thread = self._served  # type: ignore[method-assign]

    def _counted(self, *connection: Any) -> None:
        self._at_work.add(connection)
        self._begin(*connection)

    def _served(self, *connection: Any) -> None:
        try:
            self._serve(*connection)
        finally:
            self._at_work.discard(connection)

    def at_rest(self) -> None:
        """Wait until the threads that served clients that are gone have noticed."""
        sent = -1
        while sent != self.bytes_sent.total() or self._at_work:
            sent = self.bytes_sent.total()
            time.sleep(0.1)

    def respond(self, path: str) -> ServedFault | None:
        """Return the next fault."""
        return self.faults.pop(0) if self.faults else self.always


@dataclass
class Upstream:
    """A served folder with one file in it."""

    server: FaultyServer
    path: str = f"/{HOST}/set/file.bin"
    content: bytes = PAYLOAD

    @property
    def requests(self) -> int:
        """How often the file was asked for."""
        return self.server.requests["GET", self.path]

    @property
    def bytes_sent(self) -> int:
        """How many bytes of it were sent."""
        return self.server.bytes_sent[self.path]

    def row(self, **fields: object) -> ResolvedFile:
        """Return a row whose origin is this server."""
        return ResolvedFile(**{"set": "demo", "path": "set/file.bin", "url": self.server.url + self.path, **fields})


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    """A running server."""
    file = tmp_path / "served" / HOST / "set" / "file.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(PAYLOAD)
    with FaultyServer(tmp_path / "served") as server:
        yield Upstream(server)


@dataclass
class Pauses:
    """The waits that were asked for, none of them waited."""

    seconds: list[float] = field(default_factory=list)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Record pauses between tries instead of waiting."""
    seen = Pauses()
    monkeypatch.setattr("tenacity.nap.time.sleep", seen.seconds.append)
    return seen


@pytest.fixture(autouse=True)
def no_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's mirrors and tokens out of the tests."""
    monkeypatch.delenv("SAFE_LLAVA_MIRRORS", raising=False)
    monkeypatch.setenv("HF_TOKEN", "")


@pytest.fixture
def write_row(tmp_path: Path) -> Callable[[ResolvedFile], Path]:
    """Write a row as the workflow does and return its path."""

    def write(row: ResolvedFile) -> Path:
        path = tmp_path / "row.json"
        path.write_text(row.model_dump_json(), encoding="utf-8")
        return path

    return write
