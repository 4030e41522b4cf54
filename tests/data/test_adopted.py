"""Images that lie there unpacked without their archive: taken over where they are all there, left alone where not."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safe_llava.config.data import ResolvedFile, ResolvedSet, Unpack
from safe_llava.core.errors import DataError
from safe_llava.data import fetch, index, pin, unpack
from safe_llava.data.archives.unpacking import unpack_archive
from safe_llava.data.planning.volume import plan_set

COUNT = 5


def row(**fields: Any) -> ResolvedFile:
    wanted = Unpack(**{"to": "coco/train", "strip": "train", "creates": "coco/train", "files": COUNT, **fields})
    return ResolvedFile(set="coco", path="zips/train.zip", url="http://127.0.0.1:9/train.zip", unpack=wanted)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a cluster's images and no archive."""
    folder = tmp_path / "data/coco/train"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"{number}.jpg")
    return tmp_path / "data"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Fetch and place as the workflow does, and return both receipts."""

    def steps(asked: ResolvedFile, place: Callable[[list[str]], object] = unpack.main) -> dict[str, Any]:
        (tmp_path / "row.json").write_text(asked.model_dump_json())
        flags = ["--row", str(tmp_path / "row.json"), "--root", str(root)]
        archive, out = str(root / asked.path), tmp_path / "out.json"
        fetch.main([*flags, "--out", archive, "--receipt", str(tmp_path / "fetched.json"), "--retries", "0"])
        place([*flags, "--archive", archive, "--out", str(out)])
        return {**json.loads((tmp_path / "fetched.json").read_text()), "placed": json.loads(out.read_text())}

    return steps


@pytest.mark.parametrize("place", [unpack.main, index.main])
def test_all_of_them_are_taken_over_and_nothing_is_fetched(
    root: Path, run: Callable[..., dict[str, Any]], place: Callable[[list[str]], object]
) -> None:
    before = {path: path.read_bytes() for path in (root / "coco/train").iterdir()}
    for _ in range(2):
        got = run(row(), place)
        assert (got["adopted"], got["files"]) == ("coco/train", COUNT)
        assert (got["placed"]["to"], got["placed"]["files"]) == ("coco/train", COUNT)
        assert got["placed"]["identity"]["sha256"].startswith("none")
    assert {path: path.read_bytes() for path in (root / "coco/train").iterdir()} == before
    assert pin.collect(root).pins == {}, "an archive that was never seen has no pin"


def test_the_plan_fetches_nothing(root: Path) -> None:
    line = plan_set(ResolvedSet(set="coco", title="", kind="images", licence="", files=[row()]), root)
    assert (line.missing, line.to_fetch, line.to_write) == (0, 0, 0)


@pytest.mark.parametrize("fields", [{"files": COUNT + 1}, {"files": "unknown"}, {"creates": "coco/train/more"}])
def test_fewer_or_nobody_knows_how_many_are_fetched(run: Callable[..., dict[str, Any]], fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="could not be fetched"):
        run(row(**fields))


def test_images_that_do_not_decode_are_named(root: Path, run: Callable[..., dict[str, Any]]) -> None:
    (root / "coco/train/3.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"1 of 5 images that were looked at do not decode; .*3\.jpg"):
        run(row())


def test_a_file_that_went_away_is_missed(root: Path, run: Callable[..., dict[str, Any]]) -> None:
    run(row())
    (root / "coco/train/3.jpg").unlink()
    with pytest.raises(DataError, match="could not be fetched"):
        run(row())


def test_an_archive_that_comes_later_never_replaces_the_users_files(
    root: Path, run: Callable[..., dict[str, Any]]
) -> None:
    run(row())
    (root / "zips").mkdir()
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "JPEG")
    with zipfile.ZipFile(root / "zips/train.zip", "w") as archive:
        for number in range(COUNT):
            archive.writestr(f"train/other{number}.jpg", stream.getvalue())
    with pytest.raises(DataError, match="was not unpacked by this workflow, and lacks"):
        unpack_archive(root / "zips/train.zip", row(), root)
    assert (root / "coco/train/0.jpg").is_file()
