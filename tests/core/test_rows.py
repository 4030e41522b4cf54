"""A row that a step is handed is checked, and the first fault is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from safe_llava.core.errors import BenchmarkError, DataError
from safe_llava.core.rows import read_row


class Part(BaseModel):
    count: int = Field(ge=1)


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    parts: list[Part] = []


def write(folder: Path, value: Any) -> Path:
    path = folder / "row.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_a_row_is_read(tmp_path: Path) -> None:
    row = read_row(write(tmp_path, {"name": "a", "parts": [{"count": 2}]}), Whole, BenchmarkError)
    assert (row.name, row.parts[0].count) == ("a", 2)


def test_a_name_fills_in_and_does_not_replace(tmp_path: Path) -> None:
    assert read_row(write(tmp_path, {}), Whole, BenchmarkError, name="given").name == "given"
    assert read_row(write(tmp_path, {"name": "own"}), Whole, BenchmarkError, name="given").name == "own"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"name": "a", "parts": [{"count": 1}, {"count": 0}]}, r"row\.json: parts\.1\.count: Input should be"),
        ({}, r"row\.json: name: Field required"),
        ({"name": "a", "nmae": 1}, r"row\.json: nmae: Extra inputs"),
        ([], r"row\.json: row: Input should be"),
    ],
)
def test_the_first_fault_is_named(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words) as caught:
        read_row(write(tmp_path, value), Whole, BenchmarkError)
    assert caught.value.remedy == "let the workflow write it from the configuration"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row\.json: no such file") as caught:
        read_row(tmp_path / "row.json", Whole, BenchmarkError, remedy="write it")
    assert caught.value.remedy == "write it"
