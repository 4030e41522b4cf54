"""The covers of OCR-VQA: each from its own address, many at once, resumed, and always a JPEG."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.conftest import FaultyServer, Pauses
from safe_llava.core.errors import DataError
from safe_llava.data import ocr_vqa
from safe_llava.demo.server import ServedFault

HOST = "covers.example"


def image(kind: str, size: tuple[int, int] = (9, 12)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(stream, format=kind)
    return stream.getvalue()


COVERS = {
    "0001": ("a.jpg", image("JPEG")),
    "0002": ("b.gif", image("GIF")),
    "0003": ("c.jpg", image("PNG")),  # a PNG under a JPEG's name
    "0004": ("d.jpg", None),  # not on the server
    "0005": ("e.gif", image("GIF", (1, 1))),  # what shops send for what they no longer have
    "0006": ("f.jpg", b"no image at all"),
}
GONE = {"0004": "HTTP 404 Not Found", "0005": "a single pixel in place of the cover", "0006": "not an image"}


class Server(FaultyServer):
    """Goes wrong for the paths that it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.wrong: dict[str, ServedFault] = {}

    def respond(self, path: str) -> ServedFault | None:
        """Return the fault of a path."""
        return self.wrong.get(path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served" / HOST
    folder.mkdir(parents=True)
    for name, content in COVERS.values():
        if content is not None:
            (folder / name).write_bytes(content)
    with Server(tmp_path / "served") as server:
        yield server


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "dataset.json"
    rows = {n: {"imageURL": f"http://{HOST}/{name}", "split": 1} for n, (name, _) in COVERS.items()}
    path.write_text(json.dumps(rows))
    return path


def run(server: Server, dataset: Path, *more: str) -> dict[str, Any]:
    root = dataset.parent / "data"
    flags = ["--dataset", str(dataset), "--root", str(root), "--to", "ocr/images", "--out", str(root / "receipt.json")]
    flags += [f"--mirror={server.url}", "--mirrors-only", "--retries=1", "--connections=3", "--connect-timeout=2"]
    ocr_vqa.main([*flags, *more])
    return dict(json.loads((root / "receipt.json").read_text()))


def folder(dataset: Path) -> Path:
    return dataset.parent / "data/ocr/images"


def test_every_cover_becomes_a_jpeg_of_its_number(server: Server, dataset: Path) -> None:
    receipt = run(server, dataset)
    assert sorted(path.name for path in folder(dataset).iterdir()) == ["0001.jpg", "0002.jpg", "0003.jpg"]
    for path in folder(dataset).iterdir():
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (9, 12))
    assert (folder(dataset) / "0001.jpg").read_bytes() == COVERS["0001"][1], "a JPEG stays as it is"
    assert (receipt["covers"], receipt["files"], receipt["gone"]) == (6, 3, 3)


def test_what_is_gone_is_listed_and_not_asked_for_again(server: Server, dataset: Path) -> None:
    first = run(server, dataset)
    gone = ocr_vqa.read_gone(folder(dataset))
    assert gone.keys() == GONE.keys()
    assert all(reason in gone[number].reason for number, reason in GONE.items())
    requests = sum(server.requests.values())
    assert run(server, dataset) == first
    assert sum(server.requests.values()) == requests
    run(server, dataset, "--ask-again")
    assert sum(server.requests.values()) == requests + len(GONE)


def test_another_run_asks_only_for_what_is_missing(server: Server, dataset: Path, pauses: Pauses) -> None:
    server.wrong = {f"/{HOST}/b.gif": ServedFault(status=503)}
    with pytest.raises(DataError, match=r"1 covers could not be fetched now \(0002: HTTP 503") as caught:
        run(server, dataset)
    assert "asks only for those" in caught.value.remedy
    assert not (folder(dataset) / "0002.jpg").exists()
    server.wrong, before = {}, server.requests.copy()
    assert run(server, dataset)["files"] == 3
    assert server.requests - before == {("GET", f"/{HOST}/b.gif"): 1}


def test_a_cover_cut_short_is_not_taken(server: Server, dataset: Path, pauses: Pauses) -> None:
    server.wrong = {f"/{HOST}/a.jpg": ServedFault(truncate_after=50)}
    with pytest.raises(DataError, match="0001: the connection broke"):
        run(server, dataset)
    assert not (folder(dataset) / "0001.jpg").exists()


def test_what_a_kill_left_is_swept_away(server: Server, dataset: Path) -> None:
    folder(dataset).mkdir(parents=True)
    (folder(dataset) / ".0001.jpg.x.part").write_bytes(b"half")
    run(server, dataset)
    assert sorted(path.name for path in folder(dataset).iterdir()) == ["0001.jpg", "0002.jpg", "0003.jpg"]


def test_a_network_that_lets_nothing_through_is_not_written_down_as_gone(server: Server, dataset: Path) -> None:
    rows = {f"{n:04}": {"imageURL": f"http://{HOST}/none{n}.jpg"} for n in range(300)}
    dataset.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"100 of 100 covers could not be had.*404") as caught:
        run(server, dataset)
    assert "another network" in caught.value.remedy
    assert ocr_vqa.read_gone(folder(dataset)) == {}
    assert sum(server.requests.values()) < 150, "the rest was not asked for"


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ([], "not an object of covers"),
        ({"../x": {"imageURL": "http://a/b"}}, "not a number that can name a file"),
        ({"1": {"title": "x"}}, "row 1: no web address"),
        ({"1": {"imageURL": "file:///etc/passwd"}}, "row 1: no web address"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path: Path, tree: object, fault: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=fault):
        ocr_vqa.read_list(tmp_path / "dataset.json")
