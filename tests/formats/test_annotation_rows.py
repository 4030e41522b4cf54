"""Rows of large JSON files: what json.loads gives, whatever the form, and faults by their row."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.errors import DataError
from safe_llava.formats import annotations
from safe_llava.formats.annotations import read_rows

ROWS: list[Any] = [
    {"id": "1", "text": 'a ] , [ " \\ 雪 😀\n'},
    {},
    [],
    [1, [2.5e3]],
    -12,
    345,
    "x",
    None,
    True,
    {"a": [{}]},
]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_rows_are_those_of_the_whole(tmp_path: Path, mark: str, indent: int | None, ascii_only: bool) -> None:
    path = tmp_path / "rows.json"
    path.write_text(mark + json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    assert list(read_rows(path, "")) == ROWS
    objects = [row for row in ROWS if isinstance(row, dict)]
    path.write_text(mark + "\n\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in objects), encoding="utf-8")
    assert list(read_rows(path, "")) == objects


@pytest.mark.parametrize("text", ["[]", " [ \n ] ", '"[1]"', "3"])
def test_nothing_comes_of_what_is_no_list_of_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    assert list(read_rows(tmp_path / "rows.json", "")) == []


@pytest.mark.parametrize(
    ("text", "row"),
    [("[[1], [2", 2), ('[{"a": 1}, {"a": ', 2), ("[[1], x]", 2), ("[", 1), ("", 1), ('{"a": 1}\n{"a": x}', 2)],
)
def test_a_fault_names_its_row(tmp_path: Path, text: str, row: int) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=rf"rows\.json: not JSON: row {row}: ") as caught:
        list(read_rows(tmp_path / "rows.json", "do that"))
    assert caught.value.remedy == "do that"


@pytest.mark.parametrize("content", [b'["\xff"]', b"[1 2]", b"[1,]", b"[1] 2"])
def test_other_bytes_are_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match="not JSON: row "):
        list(read_rows(tmp_path / "rows.json", ""))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 6000 + "]" * 6000])
def test_rows_without_end_are_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(f"[{text}")
    with pytest.raises(DataError, match=r"rows\.json: (a row is nested too deeply|not JSON)"):
        list(read_rows(tmp_path / "rows.json", ""))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "rows.json", ""))


def test_half_a_surrogate_pair_is_found_wherever_a_chunk_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)
    parts = ["\\", "a", "\ud83d", "\ude00", "😀", '"', "\n", "d83d", "u"]
    for _ in range(2000):
        text = "".join(chance.choices(parts, k=chance.randint(0, 14)))
        raw = json.dumps([text])
        half = any("\ud800" <= character <= "\udfff" for character in json.loads(raw)[0])
        monkeypatch.setattr(annotations, "CHUNK_BYTES", chance.randint(1, 20))
        assert annotations._holds_half_pair(io.BytesIO(raw.encode())) == half, raw
