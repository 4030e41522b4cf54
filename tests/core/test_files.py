"""Files are whole or absent, whatever happens to who writes them."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_llava.core import files
from safe_llava.core.errors import DataError
from safe_llava.core.files import atomic_path, file_digest, read_json, read_jsonl, write_json, write_jsonl, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_succeeds_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "made" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not target.exists()
        assert temporary.parent == target.parent, "a rename is atomic within one file system only"
    assert target.read_text(encoding="utf-8") == "new"
    assert names(target.parent) == ["a.txt"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("before", ["old", None])
def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    target = tmp_path / "a.txt"
    if before is not None:
        target.write_text(before, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert names(tmp_path) == ([] if before is None else ["a.txt"])
    assert before is None or target.read_text(encoding="utf-8") == before


def test_a_writer_killed_inside_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.jsonl"
    target.write_text('{"n": 0}\n', encoding="utf-8")
    child = (
        "import os, signal, sys\n"
        "from safe_llava.core.files import write_jsonl\n"
        "def rows():\n"
        "    for number in range(100_000):\n"
        "        if number == 50_000:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield {'n': number}\n"
        "write_jsonl(sys.argv[1], rows())\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", child, str(target)],
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert read_jsonl(target) == [{"n": 0}]
    (left,) = set(names(tmp_path)) - {"a.jsonl"}
    assert left.startswith(".a.jsonl."), "what is left is hidden and cannot be taken for the file"
    assert left.endswith(".part")
    assert write_jsonl(target, [{"n": 1}, {"n": 2}]) == 2
    assert read_jsonl(target) == [{"n": 1}, {"n": 2}]


def test_a_row_that_does_not_serialise_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.jsonl"
    write_jsonl(target, [{"n": 0}])
    with pytest.raises(TypeError):
        write_jsonl(target, [{"n": 1}, {"n": object()}])
    assert read_jsonl(target) == [{"n": 0}]
    assert names(tmp_path) == ["a.jsonl"]


def test_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, {"z": 1, "y": 2}], "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": [1, {"y": 2, "z": 1}]})
    data = (tmp_path / "a.json").read_bytes()
    assert data == (tmp_path / "b.json").read_bytes()
    assert "é".encode() in data
    assert data.endswith(b"}\n")
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": [1, {"y": 2, "z": 1}]}


def test_blank_lines_are_passed_over_and_line_separators_are_text(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028line\x85here"}, {"text": "two"}]
    path = tmp_path / "a.jsonl"
    write_jsonl(path, rows)
    path.write_text("\n" + path.read_text(encoding="utf-8") + "  \n", encoding="utf-8")
    assert read_jsonl(path) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"n": 1}\n\n{"n": \n', r"a\.jsonl: row 3 is not JSON"),
        ('{"n": 1}\n[2]\n', r"a\.jsonl: row 2 is not a JSON object"),
        ('{"n": 1}\n{"n": 2, "n": 3}\n', r"a\.jsonl: row 2 is not JSON: the key 'n' comes 2 times"),
        ('{"n": {"m": 2, "m": 2}}\n', r"a\.jsonl: row 1 is not JSON: the key 'm' comes 2 times"),
        ('{"n": "\\ud83d."}\n', r"a\.jsonl: row 1 is not JSON: .* half a surrogate pair"),
        ('{"n": ' + "[" * 100_000 + "\n", r"a\.jsonl: row 1 is not JSON: it is nested too deeply"),
    ],
)
def test_a_broken_row_is_named_by_its_number(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        read_jsonl(path, "fetch it again")
    assert caught.value.remedy == "fetch it again"


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"a\.json: no such file"):
        read(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(DataError, match=r"a\.json: not (JSON|UTF-8)"):
        read(tmp_path / "a.json")


def test_a_byte_order_mark_and_whole_surrogate_pairs_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"n": "\\ud83d\\ude00"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"n": "😀"}
    assert read_jsonl(tmp_path / "a.json") == [{"n": "😀"}]


def test_digest_is_that_of_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_BYTES", 3)
    write_text(tmp_path / "a", "ten bytes!")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"ten bytes!").hexdigest()
    assert file_digest(tmp_path / "a", "md5") == hashlib.md5(b"ten bytes!").hexdigest()


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "out.csv", "x")
    assert caught.value.filename == str(tmp_path / "out.csv")
    assert names(tmp_path) == ["out.csv"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        write_text(tmp_path / "file" / "out.csv", "x")


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file(tmp_path: Path, fault: int) -> None:
    with pytest.raises(OSError, match="out\\.json") as caught, atomic_path(tmp_path / "out.json"):
        raise OSError(fault, os.strerror(fault))
    assert caught.value.filename == str(tmp_path / "out.json")
    with pytest.raises(OSError, match="mine"), atomic_path(tmp_path / "out.json"):
        raise OSError("mine")
