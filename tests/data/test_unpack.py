"""Unpacking: what an archive may do, what becomes of wrong images, and kills in between."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import DataError
from safe_llava.data import unpack as unpack_step
from safe_llava.data.archives import unpacking as step
from safe_llava.data.archives.indexing import index_archive

MEMBERS = {"pics/a/1.jpg": b"one", "pics/a/2.jpg": b"two", "pics/b/3.png": b"three"}


def image(kind: str, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 200 if mode in ("L", "P") else None).save(stream, format=kind)
    return stream.getvalue()


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def row(**fields: object) -> ResolvedFile:
    unpack = Unpack(**{"to": "pics", "strip": "pics", "creates": "pics", **fields})
    return ResolvedFile(set="demo", path="downloads/x.zip", url="https://data.example/x.zip", unpack=unpack)


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def beside(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data").iterdir()}


def test_members_land_in_their_folder(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS | {"__MACOSX/pics/._1.jpg": b"", "pics/.DS_Store": b""})
    receipt = step.unpack_archive(archive, row(files=3), tmp_path / "data")
    assert held(tmp_path / "data" / "pics") == {"a/1.jpg": b"one", "a/2.jpg": b"two", "b/3.png": b"three"}
    assert (receipt["files"], receipt["left_out"], receipt["to"]) == (3, 0, "pics")
    assert beside(tmp_path) == {"pics", "pics.unpacked.json", ".pics.lock"}


def test_an_archive_without_the_top_folder_is_taken_whole(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a/1.jpg": b"one"})
    step.unpack_archive(archive, row(), tmp_path / "data")
    assert held(tmp_path / "data" / "pics") == {"a/1.jpg": b"one"}


def test_members_outside_the_folder_are_left_out_and_counted(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS | {"README.txt": b"hello"})
    assert step.unpack_archive(archive, row(), tmp_path / "data")["left_out"] == 1
    assert not (tmp_path / "data" / "README.txt").exists()


def test_two_archives_share_a_parent(tmp_path: Path) -> None:
    for name in ("VG_100K", "VG_100K_2"):
        archive = make_zip(tmp_path / f"{name}.zip", {f"{name}/1.jpg": name.encode()})
        wanted = row(to=f"vg/{name}", strip=name, creates=f"vg/{name}")
        step.unpack_archive(archive, wanted, tmp_path / "data")
    assert held(tmp_path / "data" / "vg" / "VG_100K") == {"1.jpg": b"VG_100K"}
    assert held(tmp_path / "data" / "vg" / "VG_100K_2") == {"1.jpg": b"VG_100K_2"}


def test_a_second_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS)
    first = step.unpack_archive(archive, row(), tmp_path / "data")
    monkeypatch.setattr(step, "_extract", lambda *_: pytest.fail("unpacked again"))
    assert step.unpack_archive(archive, row(), tmp_path / "data") == first


def test_a_lost_file_is_unpacked_again_and_an_added_one_stays(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS)
    step.unpack_archive(archive, row(), tmp_path / "data")
    folder = tmp_path / "data" / "pics"
    (folder / "mine.txt").write_bytes(b"mine")
    step.unpack_archive(archive, row(), tmp_path / "data")
    assert "mine.txt" in held(folder)
    (folder / "mine.txt").unlink()
    (folder / "a" / "1.jpg").unlink()
    step.unpack_archive(archive, row(), tmp_path / "data")
    assert held(folder)["a/1.jpg"] == b"one"


def test_another_archive_replaces_what_the_first_left(tmp_path: Path) -> None:
    step.unpack_archive(make_zip(tmp_path / "x.zip", MEMBERS), row(), tmp_path / "data")
    step.unpack_archive(make_zip(tmp_path / "x.zip", {"pics/new.jpg": b"new"}), row(), tmp_path / "data")
    assert held(tmp_path / "data" / "pics") == {"new.jpg": b"new"}
    assert beside(tmp_path) == {"pics", "pics.unpacked.json", ".pics.lock"}


def test_a_folder_of_the_users_is_adopted_if_whole_and_never_replaced(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS)
    folder = tmp_path / "data" / "pics"
    for name, content in MEMBERS.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "mine.txt").write_bytes(b"mine")
    (folder / "a" / "1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"lacks 1 of 3 files of the archive \(a/1\.jpg"):
        step.unpack_archive(archive, row(), tmp_path / "data")
    assert held(folder)["mine.txt"] == b"mine"
    (folder / "a" / "1.jpg").write_bytes(b"one")
    assert step.unpack_archive(archive, row(), tmp_path / "data")["files"] == 3
    assert held(folder)["mine.txt"] == b"mine"


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_archive_leaves_nothing(tmp_path: Path, keep: float) -> None:
    archive = make_zip(tmp_path / "x.zip", {f"pics/{n}.jpg": os.urandom(5000) for n in range(10)})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"x\.zip: cut off or damaged") as caught:
        step.unpack_archive(archive, row(), tmp_path / "data")
    assert "its receipt in results/data/fetched" in caught.value.remedy
    assert not (tmp_path / "data" / "pics").exists()


@pytest.mark.parametrize(("mode", "kind"), [("w", "a tar archive"), ("w:gz", "a gzip file"), ("w:xz", "an xz file")])
def test_another_kind_of_archive_is_named(tmp_path: Path, mode: str, kind: str) -> None:
    archive = tmp_path / "x.zip"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(__file__, "pics/a.jpg")
    for place in (step.unpack_archive, index_archive):
        with pytest.raises(DataError, match=rf"x\.zip: {kind}, not a zip archive") as caught:
            place(archive, row(), tmp_path / "data")
        assert "unpack this one yourself" in caught.value.remedy


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_leaves_nothing(tmp_path: Path, method: int) -> None:
    archive = make_zip(tmp_path / "x.zip", {f"pics/{n}.jpg": bytes(range(256)) * 20 for n in range(3)}, method)
    content = bytearray(archive.read_bytes())
    content[60:70] = b"damage/dam"
    archive.write_bytes(content)
    with pytest.raises(DataError, match="cut off or damaged"):
        step.unpack_archive(archive, row(), tmp_path / "data")
    assert not (tmp_path / "data" / "pics").exists()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../evil.txt", "outside its folder"),
        ("pics/../../evil.txt", "outside its folder"),
        ("/etc/evil.txt", "absolute path"),
        ("C:/evil.txt", "absolute path"),
        ("pics\\..\\evil.txt", "outside its folder"),
    ],
)
def test_a_member_that_leaves_its_folder_stops_everything(tmp_path: Path, name: str, fault: str) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS | {name: b"evil"})
    with pytest.raises(DataError, match=fault) as caught:
        step.unpack_archive(archive, row(), tmp_path / "data")
    assert repr(name) in caught.value.message
    assert not list(tmp_path.rglob("evil.txt"))
    assert not (tmp_path / "data" / "pics").exists()


def test_a_link_stops_everything(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS)
    with zipfile.ZipFile(archive, "a") as writer:
        info = zipfile.ZipInfo("pics/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        writer.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is not a plain file"):
        step.unpack_archive(archive, row(), tmp_path / "data")


def test_an_archive_that_lost_a_piece_before_its_directory_is_refused(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "x.zip", {f"a/{n}.jpg": os.urandom(5000) for n in range(9)}).read_bytes()
    (tmp_path / "x.zip").write_bytes(whole[:9000] + whole[30000:])
    with pytest.raises(DataError, match="cut off or damaged"):
        step.unpack_archive(tmp_path / "x.zip", row(), tmp_path / "data")
    assert not (tmp_path / "data/pics").exists()


def test_the_published_count_is_checked(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS)
    with pytest.raises(DataError, match="3 files where 4 are published"):
        step.unpack_archive(archive, row(files=4), tmp_path / "data")


def test_what_should_be_created_is_looked_for(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", MEMBERS)
    for _ in range(2):  # a second run must not take the first for a success
        with pytest.raises(DataError, match="pics/train is not there after unpacking"):
            step.unpack_archive(archive, row(creates="pics/train"), tmp_path / "data")


def test_covers_of_another_format_become_jpegs_of_the_same_name(tmp_path: Path) -> None:
    covers = {
        "pics/gif.jpg": image("GIF", "P"),
        "pics/alpha.jpg": image("PNG", "RGBA"),
        "pics/grey.jpg": image("PNG", "L"),
        "pics/true.jpg": image("JPEG"),
        "pics/broken.jpg": b"GIF89a, and then nothing",
        "pics/kept.png": image("PNG"),
    }
    archive = make_zip(tmp_path / "x.zip", covers)
    receipt = step.unpack_archive(archive, row(normalise_images=True), tmp_path / "data")
    assert receipt["converted"] == 3
    folder = tmp_path / "data" / "pics"
    for name in ("gif.jpg", "alpha.jpg", "grey.jpg", "true.jpg"):
        with Image.open(folder / name) as opened:
            assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (6, 5))
    with Image.open(folder / "alpha.jpg") as opened:
        assert min(opened.getpixel((0, 0))) > 250, "transparent parts lie on white"  # type: ignore[arg-type]
    for name in ("true.jpg", "broken.jpg", "kept.png"):
        assert (folder / name).read_bytes() == covers[f"pics/{name}"]


def test_other_sets_keep_their_bytes(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"pics/gif.jpg": image("GIF", "P")})
    step.unpack_archive(archive, row(), tmp_path / "data")
    assert (tmp_path / "data" / "pics" / "gif.jpg").read_bytes() == image("GIF", "P")


def test_killed_while_unpacking_then_run_again(
    tmp_path: Path, root: Path, write_row: Callable[[ResolvedFile], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"pics/{n:05}.jpg": n.to_bytes(4, "big") * 500 for n in range(6_000)}
    archive = make_zip(tmp_path / "x.zip", members)
    flags = ["--archive", str(archive), "--row", str(write_row(row())), "--root", str(tmp_path / "data")]
    flags += ["--out", str(tmp_path / "receipt.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "safe_llava.data.unpack", *flags],
        env={**os.environ, "PYTHONPATH": str(root / "scripts")},
        stderr=subprocess.DEVNULL,
    )
    staging, deadline = tmp_path / "data" / ".pics.part", time.monotonic() + 60
    while not (staging / "00100.jpg").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "data" / "pics").exists()
    assert not (tmp_path / "receipt.json").exists()
    written = []
    real = step._write_member

    def counted(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, normalise: bool) -> bool:
        written.append(info.filename)
        return real(archive, info, path, normalise)

    monkeypatch.setattr(step, "_write_member", counted)
    unpack_step.main(flags)
    assert held(tmp_path / "data" / "pics") == {name.removeprefix("pics/"): data for name, data in members.items()}
    assert 0 < len(written) <= len(members) - 100, "what was whole was not unpacked again"


def test_what_another_archive_left_half_done_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_put_in_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        step.unpack_archive(make_zip(tmp_path / "x.zip", MEMBERS), row(), tmp_path / "data")
    monkeypatch.undo()
    step.unpack_archive(make_zip(tmp_path / "x.zip", {"pics/a/1.jpg": b"eno"}), row(), tmp_path / "data")
    assert held(tmp_path / "data" / "pics") == {"a/1.jpg": b"eno"}


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.zip: no such file"):
        step.unpack_archive(tmp_path / "x.zip", row(), tmp_path / "data")
