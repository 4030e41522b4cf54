"""Rows that come from outside, checked against their type: an object of a JSON file, or what another reader parsed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from safe_llava.core.errors import SafeLlavaError
from safe_llava.core.files import read_json

Checked = TypeVar("Checked")
REMEDY = "let the workflow write it from the configuration"


@cache  # to make one takes as long as to check hundreds of rows
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check_row(
    kind: type[Checked],
    value: Any,
    where: str,
    error: type[SafeLlavaError],
    remedy: str,
    show_value: bool = False,
    is_json: bool = False,
) -> Checked:
    """Return a value as its type: a pydantic model, or a dataclass whose fields pydantic can check.

    Args:
        kind: what the value is.
        value: as it was read.
        where: the file, and the row in it, for the message.
        error: what is raised; each stage has its own.
        remedy: what the user can do about it.
        show_value: whether the message shows the wrong value, as in tables.
        is_json: whether the value is JSON text, as an argument or a variable of the environment holds it.

    Raises:
        SafeLlavaError: of type ``error``, naming the first key that is wrong.
    """
    try:
        adapter = _adapter(cast(Any, kind))
        checked: Checked = adapter.validate_json(value) if is_json else adapter.validate_python(value)
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        shown = f" = {first['input']!r}" if show_value else ""
        raise error(f"{where}: {key}{shown}: {first['msg'].removeprefix('Value error, ')}", remedy) from fault
    return checked


def read_row(
    path: Path, kind: type[Checked], error: type[SafeLlavaError], name: str | None = None, remedy: str = REMEDY
) -> Checked:
    """Read a row of the configuration as the workflow hands it to a step: one JSON object in a file.

    Args:
        path: the JSON file.
        kind: what the row is.
        error: what is raised where it is not.
        name: fills in for a row without a ``name``.
        remedy: what the user can do about it.

    Raises:
        SafeLlavaError: of type ``error``, naming the file and the first key that is wrong.
        DataError: the file is missing or is not JSON.
    """
    value = read_json(path, remedy)
    if name is not None and isinstance(value, dict):
        value.setdefault("name", name)
    return check_row(kind, value, str(path), error, remedy)
