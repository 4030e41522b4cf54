"""Names of archive members: nothing is ever written outside, and both storages take and refuse the same."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import DataError
from safe_llava.data.archives.indexing import index_archive
from safe_llava.data.archives.unpacking import unpack_archive
from safe_llava.images import store

PARTS = ["pics", "pics", "a", "b.jpg", "", ".", "..", "x" * 249, "x" * 250, "é" * 125, ".b.jpg.part", "C:", "d\\e"]
ARCHIVES = 400


def row(strip: str) -> ResolvedFile:
    unpack = Unpack(to="pics", strip=strip, creates="pics")
    return ResolvedFile(set="demo", path="x.zip", url="https://example.org/x.zip", unpack=unpack)


def write(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name  # as it stands, whatever ZipInfo would make of it
            archive.writestr(info, name.encode())


def both(folder: Path, names: list[str], strip: str) -> dict[str, bytes] | str:
    """Place an archive in both ways below ``folder``; return what both give: the files by name, or the fault."""
    results: list[dict[str, bytes] | str] = []
    for storage, place in (("unpacked", unpack_archive), ("indexed", index_archive)):
        root = folder / storage
        root.mkdir(parents=True)
        write(root / "x.zip", names)
        try:
            place(root / "x.zip", row(strip), root)
        except DataError as error:
            results.append(error.message.removeprefix(str(root)))
            continue
        found = {path for path in (root / "pics").rglob("*") if path.is_file()}
        if storage == "unpacked":
            results.append({str(path.relative_to(root / "pics")): path.read_bytes() for path in found})
        else:
            unpacked = results[0]
            assert not found and isinstance(unpacked, dict), unpacked
            results.append({name: store.read_bytes(root / "pics" / name) for name in unpacked})
            assert store.read_facts(store.index_path(root / "pics"))["files"] == len(unpacked)
    assert results[0] == results[1]
    return results[0]


def outside(folder: Path) -> set[str]:
    """Files below ``folder`` that belong to neither storage."""
    own = {folder / "unpacked/pics", folder / "indexed/pics"}
    return {path.name for path in folder.rglob("*") if path.is_file() and not own & set(path.parents)} - {
        *("x.zip", ".pics.lock", "pics.unpacked.json", "pics.index", ".pics.part.json")
    }


@pytest.mark.parametrize("strip", ["pics", "pics/", "", "pics//a"])
def test_what_is_stripped_off_leaves_no_absolute_name(tmp_path: Path, strip: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "evil.jpg"
    for number, lead in enumerate(("pics/", "pics//", "pics/./", "pics/a//")):
        got = both(tmp_path / str(number), [f"{lead}{target}", "pics/good.jpg", "pics/a/good.jpg"], strip)
        assert isinstance(got, dict) and not any(name.startswith("/") for name in got)
    assert not target.exists()


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["pics/a", "pics/a/b.jpg"], "'pics/a/b.jpg' lies in a folder that is a file as well"),
        (["pics/a/b/c.jpg", "pics/a"], "'pics/a/b/c.jpg' lies in a folder that is a file as well"),
        (["pics/a.jpg", "pics/./a.jpg"], "comes twice"),
        (["pics/" + "x" * 250], "a name that is too long"),
        (["pics/" + "é" * 125], "a name that is too long"),
        (["pics/" + "/".join(["y" * 100] * 31)], "a name that is too long"),
        (["pics/" + "d/" * 1400 + "a.jpg"], "lies in more than 100 folders in folders"),
        (["pics/.a.jpg.part"], "has the name of a file that is being written"),
        (["pics/../../evil.jpg"], "would land outside its folder"),
        (["/evil.jpg"], "has an absolute path"),
        (["pics"], "would land outside its folder"),
    ],
)
def test_both_refuse_with_one_clear_error(tmp_path: Path, names: list[str], fault: str) -> None:
    got = both(tmp_path / "t", [*names, "pics/good.jpg"], "pics")
    assert isinstance(got, str) and fault in got
    assert outside(tmp_path / "t") == set() and not list(tmp_path.rglob("evil*"))


def test_any_names_at_all(tmp_path: Path) -> None:
    chance = random.Random(20251120)
    taken = 0
    for number in range(ARCHIVES):
        count = chance.randint(1, 3)
        names = ["/".join(chance.choices(PARTS, k=chance.randint(1, 4))) for _ in range(count)]
        got = both(tmp_path / str(number), names, chance.choice(["", "pics", "pics/a", "/pics/"]))
        taken += isinstance(got, dict)
        assert outside(tmp_path / str(number)) == set(), names
    assert ARCHIVES // 20 < taken < ARCHIVES
