"""Files of Google Drive, against a server of ours that answers as Drive is described to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from data.conftest import PAYLOAD, Pauses
from safe_llava.config.data import ResolvedFile
from safe_llava.core.errors import DataError
from safe_llava.data.download.files import fetch_file
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.sources import Mirror

GDOWN_CHUNK_BYTES = 512 * 1024
CONTENT = PAYLOAD * 4
FOLDER, FILE, OTHER = "1_Folder-x", "1File_y" + 26 * "y", "1Other" + 27 * "z"
IN_FOLDER = f"https://drive.google.com/drive/folders/{FOLDER}/dataset.json"
BY_NUMBER = f"https://drive.google.com/file/d/{FILE}/view"
LISTING = f"""<!DOCTYPE html><html><head><title>OCR</title></head><body><div class="flip-entries">
<div class="flip-entry" id="entry-{OTHER}"><a href="https://drive.google.com/file/d/{OTHER}/view?usp=drive_web">
<div class="flip-entry-info"><div class="flip-entry-title">loadDataset.py</div></div></a></div>
<div class="flip-entry" id="entry-{FILE}"><a href="https://drive.google.com/file/d/{FILE}/view?usp=drive_web">
<div class="flip-entry-info"><div class="flip-entry-title">dataset.json</div></div></a></div></div></body></html>"""
SURE = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="search" action="/search"><input name="q" value="no"></form>
<form id="download-form" action="https://{host}/download" method="get">{more}</form></body></html>"""
HOST = "drive.usercontent.google.com"
HIDDEN = "".join(
    f'<input type="hidden" name="{name}" value="{value}">'
    for name, value in (("id", "{file}"), ("confirm", "t"), ("uuid", "u{turn}"))
)
QUOTA = "<html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry</body></html>"


@dataclass
class Drive:
    """What the stand-in is asked, and how it answers."""

    asks_first: bool = True
    page: str = ""
    cut: list[int] = field(default_factory=list)
    turns: int = 0
    sent: int = 0
    asked: list[str] = field(default_factory=list)


def handler(state: Drive) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            state.asked.append(f"{self.path} {self.headers.get('Range', '')}")
            if parts.path == "/embeddedfolderview":
                self.html(LISTING if query["id"] == FOLDER else "<html>Not found</html>")
            elif state.page:
                self.html(state.page)
            elif query.get("id") != FILE:
                self.html("<html>gone</html>", 404)
            elif state.asks_first and "confirm" not in query:
                state.turns += 1
                self.html(SURE.format(host=HOST, more=HIDDEN.format(file=FILE, turn=state.turns)))
            else:
                self.file()

        def html(self, text: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def file(self) -> None:
            begin = int(self.headers["Range"][6:].split("-")[0]) if "Range" in self.headers else 0
            body = CONTENT[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Disposition", 'attachment; filename="dataset.json"')
            self.send_header("Content-Length", str(len(body)))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.end_headers()
            if state.cut:
                body, self.close_connection = body[: state.cut.pop(0)], True
            state.sent += len(body)
            self.wfile.write(body)

    return Handler


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    state = Drive()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    send = requests.adapters.HTTPAdapter.send

    def to_the_stand_in(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        asked = urlsplit(str(request.url))
        assert asked.hostname in ("drive.google.com", "drive.usercontent.google.com"), "nothing else may be reached"
        request.url = asked._replace(scheme="http", netloc=f"127.0.0.1:{server.server_address[1]}").geturl()
        response = send(self, request, **{**options, "proxies": {}})
        response.url = asked.geturl()
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", to_the_stand_in)
    yield state
    server.shutdown()
    server.server_close()


def get(tmp_path: Path, url: str, path: str = "set/list.bin") -> bytes:
    fetch_file(ResolvedFile(set="demo", path=path, url=url), tmp_path / path, [], RetryPolicy(retries=1))
    return (tmp_path / path).read_bytes()


@pytest.mark.parametrize("asks_first", [True, False])
@pytest.mark.parametrize("url", [BY_NUMBER, IN_FOLDER])
def test_a_file_comes_whether_drive_asks_first_or_not(state: Drive, tmp_path: Path, url: str, asks_first: bool) -> None:
    state.asks_first = asks_first
    assert get(tmp_path, url) == CONTENT
    assert any("confirm=t" in path for path in state.asked) == asks_first


def test_a_run_that_broke_off_is_resumed(state: Drive, tmp_path: Path, pauses: Pauses) -> None:
    state.cut = [GDOWN_CHUNK_BYTES * 2 + 1000, *[0] * 20]
    with pytest.raises(DataError, match="the connection broke"):
        get(tmp_path, BY_NUMBER)
    state.cut = []
    assert get(tmp_path, BY_NUMBER) == CONTENT
    assert state.asked[-1].endswith(f"bytes={2 * GDOWN_CHUNK_BYTES}-")
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "list.bin",
        "list.bin.receipt.json",
        ".list.bin.lock",
    }


def test_a_quota_that_is_used_up_is_named(state: Drive, tmp_path: Path) -> None:
    state.page = QUOTA
    with pytest.raises(DataError, match="Drive does not give the file") as caught:
        get(tmp_path, BY_NUMBER)
    assert "wait a day" in caught.value.remedy and "mirror" in caught.value.remedy
    assert not (tmp_path / "set/list.bin").exists()


def test_a_page_to_sign_in_is_not_the_file(state: Drive, tmp_path: Path) -> None:
    state.page = "<html><body>Sign in</body></html>"
    with pytest.raises(DataError, match="Drive does not give the file"):
        get(tmp_path, BY_NUMBER)


def test_a_file_that_is_gone(state: Drive, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Drive does not give the file"):
        get(tmp_path, "https://drive.google.com/file/d/gone/view")


def test_a_name_that_the_folder_does_not_have(state: Drive, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'x.json' \(it has: dataset.json, loadDataset.py\)"):
        get(tmp_path, f"https://drive.google.com/drive/folders/{FOLDER}/x.json")


def test_an_address_that_names_no_file(state: Drive, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a file nor a folder and a name"):
        get(tmp_path, "https://drive.google.com/drive/my-drive")


def test_a_mirror_has_it_under_the_address(state: Drive, tmp_path: Path) -> None:
    place = Mirror(str(tmp_path / "mirror")).locate(IN_FOLDER)
    assert isinstance(place, Path)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    row = ResolvedFile(set="demo", path="list.bin", url=IN_FOLDER)
    fetch_file(row, tmp_path / "list.bin", [Mirror(str(tmp_path / "mirror"))], RetryPolicy(), origin=False)
    assert (tmp_path / "list.bin").read_bytes() == CONTENT
    assert state.asked == []
