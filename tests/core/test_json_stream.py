"""JSON lists row by row: what json.loads gives, in any pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core import json_stream
from safe_llava.core.errors import DataError
from safe_llava.core.json_stream import read_rows

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


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_rows_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None, ascii_only: bool
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    assert list(read_rows(path)) == ROWS


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_objects_line_by_line_and_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, mark: str
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
    path = tmp_path / "rows.jsonl"
    path.write_text(mark + '{"a": 1}\n\n{"a": [2]}\n', encoding="utf-8")
    assert list(read_rows(path)) == [{"a": 1}, {"a": [2]}]
    path.write_text(f"{mark}[1]", encoding="utf-8")
    assert list(read_rows(path)) == [1]


@pytest.mark.parametrize("text", ["[]", " [ \n ] ", '"[1]"', ""])
def test_nothing_comes_of_what_is_no_list_of_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    assert list(read_rows(tmp_path / "rows.json")) == []


@pytest.mark.parametrize(
    ("text", "row"),
    [("[1, 2", 2), ("[1 2]", 1), ("[1,]", 2), ('[{"a": 1}, {"a": ', 2), ("[1] 2", 1), ("[1, x]", 2), ("[", 1)],
)
def test_a_fault_names_its_row(tmp_path: Path, text: str, row: int) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=rf"rows\.json: not JSON: row {row}: ") as caught:
        list(read_rows(tmp_path / "rows.json", "do that"))
    assert caught.value.remedy == "do that"


def test_a_broken_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(json_stream, "LONGEST_ROW", 50)
    (tmp_path / "rows.json").write_text("[{broken" + " " * 1000)
    with (tmp_path / "rows.json").open() as stream:
        rows = iter(json_stream._Rows(stream, "rows.json", "do that"))
        with pytest.raises(DataError, match="row 1"):
            next(rows)
        assert len(stream.read()) > 900


def test_a_missing_file_and_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "rows.json"))
    (tmp_path / "rows.json").write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="not JSON: 'utf-8'"):
        list(read_rows(tmp_path / "rows.json"))


def test_lists_without_end_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="row 1: it is nested too deeply"):
        list(read_rows(tmp_path / "x.json"))
