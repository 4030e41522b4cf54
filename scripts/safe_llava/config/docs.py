"""Generate docs/configuration.md from the schema: `python -m safe_llava.config.docs --root .`.

With ``--check`` it only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safe_llava.config.schema import Config
from safe_llava.core import cli
from safe_llava.core.files import write_text

PAGE_PATH = "docs/configuration.md"
HEADER = """\
# Configuration

This page is generated from the schema (`make docs`); a test fails where the two differ.

Files are laid over each other in this order: the files in `config/` (the rows, then `config.yaml`), then those of
`--configfile`, then `--config`. A key that is not on this page is refused. `NAME` stands for the name of a row.
On the command line the parts of a key are joined by hyphens: `--config benchmarks-limit=5`.

| key | type | default | meaning |
|---|---|---|---|
"""


def page_text() -> str:
    """Return the configuration page: one line a key."""
    schema = Config.model_json_schema()
    rows = "".join(f"| `{key}` | {kind} | {default} | {text} |\n" for key, kind, default, text in _walk(schema, schema))
    return HEADER + rows


def description(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """Return what a field means; the schema leaves that out where it is what its section's docstring says."""
    inherited = _resolve(schema, field).get("description", "") if "$ref" in field else ""
    return str(field.get("description", inherited))


def _walk(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for key, field in node.get("properties", {}).items():
        path = f"{prefix}{key}"
        text = " ".join(description(schema, field).split()).replace("|", "\\|")
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        if key in node.get("required", []):
            default = "required"
        yield path, _kind(schema, field), default, text
        yield from _children(schema, field, path)


def _children(schema: dict[str, Any], field: dict[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    for option in [field, *field.get("anyOf", [])]:
        if "$ref" in option:
            yield from _walk(schema, _resolve(schema, option), f"{path}.")
        if isinstance(option.get("items"), dict) and "$ref" in option["items"]:
            yield from _walk(schema, _resolve(schema, option["items"]), f"{path}[].")
        values = option.get("additionalProperties") or next(iter(option.get("patternProperties", {}).values()), None)
        if isinstance(values, dict) and "$ref" in values:
            yield from _walk(schema, _resolve(schema, values), f"{path}.NAME.")


def _resolve(schema: dict[str, Any], option: dict[str, Any]) -> dict[str, Any]:
    resolved: dict[str, Any] = schema["$defs"][option["$ref"].rsplit("/", 1)[-1]]
    return resolved


def _kind(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "$ref" in field:
        return _kind(schema, _resolve(schema, field))
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(schema, option) for option in field["anyOf"]))
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return f"list of {_kind(schema, field['items'])}" if isinstance(field.get("items"), dict) else "list"
    if field.get("type") == "object":
        return "rows" if "patternProperties" in field or "additionalProperties" in field else "section"
    return str(field.get("type", "value"))


def main(argv: Sequence[str] | None = None) -> int:
    """Write, or check, the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="root of the clone")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is out of date")
    arguments = parser.parse_args(argv)
    page, text = arguments.root / PAGE_PATH, page_text()
    if not (page.is_file() and page.read_text(encoding="utf-8") == text):
        if arguments.check:
            print(f"error: out of date: {PAGE_PATH}\n  remedy: make docs", file=sys.stderr)
            return 1
        write_text(page, text)
    return 0


if __name__ == "__main__":
    cli.run(main)
