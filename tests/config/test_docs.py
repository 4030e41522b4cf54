"""What is generated from the schema must not drift from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safe_llava.config import docs
from safe_llava.config.schema import Config


def test_the_page_is_up_to_date(root: Path) -> None:
    assert (root / docs.PAGE_PATH).read_text() == docs.page_text(), "run `make docs`"


def test_drift_is_noticed(tmp_path: Path) -> None:
    assert docs.main(["--root", str(tmp_path)]) == 0
    assert docs.main(["--root", str(tmp_path), "--check"]) == 0
    (tmp_path / docs.PAGE_PATH).write_text("something else\n")
    assert docs.main(["--root", str(tmp_path), "--check"]) == 1


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, node in [("Config", schema), *schema["$defs"].items()]:
        for key, field in node.get("properties", {}).items():
            yield name, key, field


def test_every_field_is_described_and_unknown_keys_are_refused() -> None:
    schema = Config.model_json_schema()
    assert [f"{name}.{key}" for name, key, field in fields(schema) if not docs.description(schema, field)] == []
    objects = {name: node for name, node in schema["$defs"].items() if node.get("type") == "object"}
    assert [name for name, node in objects.items() if node.get("additionalProperties") is not False] == []
