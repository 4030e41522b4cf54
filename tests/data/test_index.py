"""Archives that are read without being unpacked: the index, and what is read through it."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import DataError
from safe_llava.data.archives import indexing as step
from safe_llava.data.archives import unpacking as unpack
from safe_llava.data.download import receipts
from safe_llava.data.download.receipts import Receipt
from safe_llava.images import store as imagefiles

Bytes = dict[str, bytes]
MEMBERS: Bytes = {
    "pics/a/1.jpg": b"one" * 50,
    "pics/a/b/2.jpg": b"two" * 500,
    "pics/ünï 雪.png": b"three",
    "pics/a0.jpg": b"between the folders by name",
    "pics/empty.jpg": b"",
}


def row(**fields: object) -> ResolvedFile:
    wanted = Unpack(**{"to": "set/pics", "strip": "pics", "creates": "set/pics", **fields})
    return ResolvedFile(set="demo", path="downloads/x.zip", url="https://data.example/x.zip", unpack=wanted)


def make_zip(root: Path, members: Bytes = MEMBERS, method: int = zipfile.ZIP_STORED) -> Path:
    path = root / "downloads" / "x.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(zipfile.ZipInfo("pics/"), b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def indexed(root: Path, members: Bytes = MEMBERS, method: int = zipfile.ZIP_STORED, **fields: object) -> Path:
    """Make and index an archive; return where its folder would be."""
    step.index_archive(make_zip(root, members, method), row(**fields), root)
    return root / "set" / "pics"


def held(folder: Path, members: Bytes = MEMBERS) -> Bytes:
    return {name: imagefiles.read_bytes(folder / name.removeprefix("pics/")) for name in members}


class OneWay(io.RawIOBase):
    """A stream that cannot go back: what is written to it has its sizes behind the bytes (data descriptors)."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._stream.write(data)

    def close(self) -> None:
        self._stream.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_is_read_by_name(tmp_path: Path, method: int) -> None:
    folder = indexed(tmp_path, method=method)
    assert held(folder) == MEMBERS
    assert not folder.exists()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["pics.index", "x.zip"]


def test_the_receipt_counts(tmp_path: Path) -> None:
    receipt = step.index_archive(make_zip(tmp_path, method=zipfile.ZIP_DEFLATED), row(files=5), tmp_path)
    assert (receipt["to"], receipt["files"], receipt["storage"]) == ("set/pics", 5, "archive")
    assert receipt["bytes"] == sum(map(len, MEMBERS.values()))
    assert receipt["methods"] == {"stored": 0, "deflated": 5}


def test_an_archive_of_sizes_behind_the_bytes(tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    stream = OneWay(path)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    stream.close()
    assert path.read_bytes()[6] & 8, "the archive is not what this test is about"
    step.index_archive(path, row(), tmp_path)
    assert held(tmp_path / "set" / "pics") == MEMBERS


def raw_zip(path: Path, members: Bytes, notes: int) -> Path:
    """Write an archive whose local headers have ``notes`` bytes of extra fields that its directory does not have."""
    body, directory = b"", b""
    for name, content in members.items():
        encoded, crc = name.encode(), zlib.crc32(content)
        common = struct.pack("<HHHHHIIIH", 20, 0x800, 0, 0, 33, crc, len(content), len(content), len(encoded))
        central = struct.pack("<HHHHII", 0, 0, 0, 0, 0, len(body))
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common + central + encoded
        extra = struct.pack("<HH", 0x9999, notes - 4) + b"n" * (notes - 4) if notes else b""
        body += b"PK\x03\x04" + common + struct.pack("<H", len(extra)) + encoded + extra + content
    count = len(members)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    return path


@pytest.mark.parametrize("notes", [0, 20, step.SPARE_HEAD, 5000])
def test_headers_longer_than_the_directory_says(tmp_path: Path, notes: int) -> None:
    step.index_archive(raw_zip(tmp_path / "downloads" / "x.zip", MEMBERS, notes), row(), tmp_path)
    assert held(tmp_path / "set" / "pics") == MEMBERS


def test_headers_of_the_large_kind(tmp_path: Path) -> None:
    path = make_zip(tmp_path, {})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in MEMBERS.items():
            with archive.open(name, "w", force_zip64=True) as writer:
                writer.write(content)
    step.index_archive(path, row(), tmp_path)
    assert held(tmp_path / "set" / "pics") == MEMBERS


def test_members_beyond_four_gigabytes(tmp_path: Path) -> None:
    path = make_zip(tmp_path, {})
    with path.open("wb") as stream:
        stream.seek(5 << 30)  # a hole, which takes no room on the disk
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
    facts = {"set": "demo", "path": "x", "url": "https://x", "source": "x", "checked": [], "fetched": "now"}
    receipts.write(path, Receipt(size=path.stat().st_size, sha256="0" * 64, **facts))  # or 5 GB would be hashed
    step.index_archive(path, row(), tmp_path)
    with sqlite3.connect(tmp_path / "set" / "pics.index") as found:
        assert found.execute("SELECT min(offset) FROM member").fetchone()[0] >= 5 << 30
    assert held(tmp_path / "set" / "pics") == MEMBERS


def test_more_members_than_sixteen_bits_count(tmp_path: Path) -> None:
    members = {f"pics/{number // 1000:02d}/{number:06d}.jpg": b"%d" % number for number in range(66_000)}
    folder = indexed(tmp_path, members, files=66_000)
    for number in (0, 999, 65_535, 65_536, 65_999):
        assert imagefiles.read_bytes(folder / f"{number // 1000:02d}" / f"{number:06d}.jpg") == b"%d" % number
    assert len(imagefiles.folder_listing(folder / "65") or ()) == 1000


def test_listings_and_folders(tmp_path: Path) -> None:
    folder = indexed(tmp_path)
    assert imagefiles.folder_listing(folder) == {"a0.jpg": 27, "empty.jpg": 0, "ünï 雪.png": 5}
    assert imagefiles.folder_listing(folder / "a") == {"1.jpg": 150}
    assert imagefiles.folder_listing(folder / "c") is None
    assert imagefiles.folder_listing(folder.parent / "elsewhere") is None
    assert imagefiles.is_folder(folder) and imagefiles.is_folder(folder / "a" / "b")
    assert not imagefiles.is_folder(folder / "c")
    assert imagefiles.exists(folder / "a" / "1.jpg")
    assert not imagefiles.exists(folder / "a") and not imagefiles.exists(folder / "a" / "b")
    assert not imagefiles.exists(folder / "a" / "3.jpg")


@pytest.mark.parametrize("name", ["a/3.jpg", "a", "", "b/1.jpg"])
def test_what_is_not_there_is_a_missing_file(tmp_path: Path, name: str) -> None:
    folder = indexed(tmp_path)
    for read in (imagefiles.read_bytes, imagefiles.open_stored_image):
        with pytest.raises(FileNotFoundError):
            read(folder / name)


def test_a_folder_on_disk_is_what_is_read(tmp_path: Path) -> None:
    folder = indexed(tmp_path)
    folder.mkdir()
    (folder / "a0.jpg").write_bytes(b"from the folder")
    imagefiles.forget_indexes()
    assert imagefiles.read_bytes(folder / "a0.jpg") == b"from the folder"
    assert not imagefiles.exists(folder / "empty.jpg")
    assert imagefiles.hidden_index(folder) == tmp_path / "set" / "pics.index"


def test_both_ways_to_store_give_the_same_bytes(tmp_path: Path) -> None:
    def encoded(kind: str, mode: str) -> bytes:
        stream = io.BytesIO()
        Image.new(mode, (6, 5), 200 if mode in ("L", "P") else None).save(stream, format=kind)
        return stream.getvalue()

    covers = {"pics/gif.jpg": encoded("GIF", "P"), "pics/alpha.jpg": encoded("PNG", "RGBA")}
    covers |= {
        "pics/true.jpg": encoded("JPEG", "RGB"),
        "pics/kept.png": encoded("PNG", "L"),
        "pics/broken.jpg": b"GIF8",
    }
    folder = indexed(tmp_path, covers, normalise_images=True)
    read, digests = held(folder, covers), {name: imagefiles.image_digest(folder / name[5:]) for name in covers}
    with imagefiles.open_stored_image(folder / "gif.jpg") as image:
        assert (image.format, image.convert("RGB").size) == ("JPEG", (6, 5))
    unpack.unpack_archive(tmp_path / "downloads" / "x.zip", row(normalise_images=True), tmp_path)
    imagefiles.forget_indexes()
    assert folder.is_dir()
    assert held(folder, covers) == read
    assert {name: imagefiles.image_digest(folder / name[5:]) for name in covers} == digests
    indexed(tmp_path / "other", covers)
    assert held(tmp_path / "other" / "set" / "pics", covers) == covers, "other sets keep their bytes"


def test_the_data_may_move(tmp_path: Path) -> None:
    indexed(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert held(tmp_path / "there" / "set" / "pics") == MEMBERS


def test_a_second_run_does_nothing_and_another_archive_is_indexed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = indexed(tmp_path)
    first = (tmp_path / "set" / "pics.index").stat().st_ino
    assert step.index_archive(tmp_path / "downloads" / "x.zip", row(), tmp_path)["files"] == 5
    assert (tmp_path / "set" / "pics.index").stat().st_ino == first
    indexed(tmp_path, {"pics/a0.jpg": b"another"})
    assert imagefiles.read_bytes(folder / "a0.jpg") == b"another"
    step.index_archive(tmp_path / "downloads" / "x.zip", row(strip=""), tmp_path)
    assert imagefiles.read_bytes(folder / "pics" / "a0.jpg") == b"another"


# ------------------------------------------------------------------- faults


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_truncated_archive_is_not_indexed(tmp_path: Path, keep: float) -> None:
    path = make_zip(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"x\.zip: cut off or damaged") as caught:
        step.index_archive(path, row(), tmp_path)
    assert "its receipt in results/data/fetched" in caught.value.remedy
    assert not (tmp_path / "set" / "pics.index").exists()


def test_an_archive_with_a_piece_cut_out_is_not_indexed(tmp_path: Path) -> None:
    path = make_zip(tmp_path, {f"pics/{n}.jpg": os.urandom(5000) for n in range(9)})
    whole = path.read_bytes()
    path.write_bytes(whole[:9000] + whole[30000:])
    with pytest.raises(DataError, match=r"x\.zip: cut off or damaged"):
        step.index_archive(path, row(), tmp_path)


def test_an_archive_that_changed_its_size_is_refused(tmp_path: Path) -> None:
    folder = indexed(tmp_path)
    with (tmp_path / "downloads" / "x.zip").open("ab") as stream:
        stream.write(b"more")
    imagefiles.forget_indexes()
    with pytest.raises(DataError, match="were indexed: it was changed afterwards") as caught:
        imagefiles.read_bytes(folder / "a0.jpg")
    assert "pics.index" in caught.value.remedy
    (tmp_path / "downloads" / "x.zip").unlink()
    imagefiles.forget_indexes()
    with pytest.raises(DataError, match=r"x\.zip: No such file"):
        imagefiles.exists(folder / "a0.jpg")


def test_other_bytes_of_the_same_size_are_never_taken_for_the_image(tmp_path: Path) -> None:
    folder = indexed(tmp_path)
    make_zip(tmp_path, {name: content[::-1] for name, content in MEMBERS.items()})
    imagefiles.forget_indexes()
    with pytest.raises(imagefiles.BrokenMemberError, match=r"a/1\.jpg in .*x\.zip: its CRC is another"):
        imagefiles.read_bytes(folder / "a" / "1.jpg")
    size = (tmp_path / "downloads" / "x.zip").stat().st_size
    (tmp_path / "downloads" / "x.zip").write_bytes(bytes(size))
    imagefiles.forget_indexes()
    with pytest.raises(imagefiles.BrokenMemberError, match="no header where it should begin"):
        imagefiles.read_bytes(folder / "a" / "1.jpg")


def test_a_damaged_deflated_member(tmp_path: Path) -> None:
    folder = indexed(tmp_path, method=zipfile.ZIP_DEFLATED)
    path = tmp_path / "downloads" / "x.zip"
    content = bytearray(path.read_bytes())
    begin = content.index(b"pics/a/b/2.jpg") + len("pics/a/b/2.jpg")
    content[begin : begin + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    imagefiles.forget_indexes()
    with pytest.raises(imagefiles.BrokenMemberError, match=r"2\.jpg in .*changed since it was indexed"):
        imagefiles.read_bytes(folder / "a" / "b" / "2.jpg")
    assert imagefiles.read_bytes(folder / "a" / "1.jpg") == MEMBERS["pics/a/1.jpg"], "only that one is lost"


@pytest.mark.parametrize("content", [b"", b"not SQLite at all" * 100])
def test_a_file_that_is_no_index_is_said_to_be_none_and_made_again(tmp_path: Path, content: bytes) -> None:
    folder = indexed(tmp_path)
    (tmp_path / "set" / "pics.index").write_bytes(content)
    imagefiles.forget_indexes()
    with pytest.raises(DataError, match=r"pics\.index: (not an index|an index of version None)"):
        imagefiles.read_bytes(folder / "a0.jpg")
    step.index_archive(tmp_path / "downloads" / "x.zip", row(), tmp_path)
    assert held(folder) == MEMBERS


@pytest.mark.parametrize("name", ["../evil.txt", "pics/../../evil.txt", "/etc/evil.txt", "C:/evil.txt"])
def test_a_member_that_leaves_its_folder_stops_everything(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"outside its folder|absolute path"):
        indexed(tmp_path, MEMBERS | {name: b"evil"})
    assert not (tmp_path / "set" / "pics.index").exists()


def test_links_secrets_twins_and_other_methods_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("pics/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = make_zip(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is not a plain file"):
        step.index_archive(path, row(), tmp_path)
    content = bytearray(make_zip(tmp_path).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        step.index_archive(path, row(), tmp_path)
    make_zip(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("pics/a0.jpg", b"twin")
    with pytest.raises(DataError, match="comes twice"):
        step.index_archive(path, row(), tmp_path)
    with pytest.raises(DataError, match="is packed by method 14") as caught:
        indexed(tmp_path, method=zipfile.ZIP_LZMA)
    assert "storage: extracted" in caught.value.remedy


def test_what_the_row_says_is_checked(tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    with pytest.raises(DataError, match="5 files where 4 are published"):
        step.index_archive(path, row(files=4), tmp_path)
    with pytest.raises(DataError, match="set/pics/train would not be there"):
        step.index_archive(path, row(creates="set/pics/train"), tmp_path)
    assert step.index_archive(path, row(creates="set/pics/a"), tmp_path)["files"] == 5


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    path = make_zip(tmp_path)
    monkeypatch.setattr(step.sqlite3, "connect", full)
    with pytest.raises(DataError, match=r"pics\.index: cannot be written: database or disk is full"):
        step.index_archive(path, row(), tmp_path)
    assert list((tmp_path / "set").iterdir()) == []


# ---------------------------------------------------- processes and threads


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_worker_processes_read_at_once(tmp_path: Path, kind: str) -> None:
    members = {f"pics/{number}.jpg": os.urandom(3000 + number) for number in range(60)}
    folder = indexed(tmp_path, members, zipfile.ZIP_DEFLATED)
    assert held(folder, members) == members  # handles are open before the fork
    names = list(members) * 20
    random.Random(1).shuffle(names)
    with multiprocessing.get_context(kind).Pool(4 if kind == "fork" else 2) as pool:
        asked = pool.map_async(
            imagefiles.image_digest, [folder / name.removeprefix("pics/") for name in names], chunksize=10
        )
        assert held(folder, members) == members
        digests = asked.get(timeout=120)
    assert digests == [hashlib.sha256(members[name]).hexdigest() for name in names]
    assert held(folder, members) == members


def test_threads_read_at_once(tmp_path: Path) -> None:
    members = {f"pics/{number}.jpg": os.urandom(3000 + number) for number in range(60)}
    folder = indexed(tmp_path, members)
    names = list(members) * 20
    random.Random(1).shuffle(names)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: imagefiles.read_bytes(folder / name.removeprefix("pics/")), names))
    assert read == [members[name] for name in names]


def command(root: Path, tmp_path: Path, write_row: Callable[[ResolvedFile], Path]) -> list[str]:
    flags = [
        "--archive",
        str(tmp_path / "downloads" / "x.zip"),
        "--row",
        str(write_row(row())),
        "--root",
        str(tmp_path),
    ]
    return [sys.executable, "-m", "safe_llava.data.index", *flags, "--out", str(tmp_path / "receipt.json")]


def test_two_builders_at_once_and_a_killed_one(
    tmp_path: Path, root: Path, write_row: Callable[[ResolvedFile], Path]
) -> None:
    members = {f"pics/{number:06d}.jpg": b"%d" % number for number in range(30_000)}
    make_zip(tmp_path, members)
    arguments = command(root, tmp_path, write_row)
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    index = tmp_path / "set" / "pics.index"

    def begun() -> bool:
        try:
            return any(path.stat().st_size for path in index.parent.glob(".pics.index.*.part"))
        except FileNotFoundError:  # it has its name by now
            return True

    for _ in range(10):
        killed = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not begun() and killed.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        killed.kill()
        if killed.wait() == -signal.SIGKILL and not index.exists():
            break
        index.unlink()  # on a busy machine the builder may be the faster one
    assert begun() and not index.exists()
    both = [subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    folder = tmp_path / "set" / "pics"
    assert len(imagefiles.folder_listing(folder) or ()) == len(members)
    assert imagefiles.read_bytes(folder / "029999.jpg") == b"29999"
