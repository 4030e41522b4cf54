"""Rows of the configuration as the workflow hands them to a step: one JSON object in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from safe_llava.core.errors import SafeLlavaError
from safe_llava.core.files import read_json

Read = TypeVar("Read", bound=BaseModel)
REMEDY = "let the workflow write it from the configuration"


def read_row(
    path: Path, kind: type[Read], error: type[SafeLlavaError], name: str | None = None, remedy: str = REMEDY
) -> Read:
    """Read a row and check it.

    Args:
        path: the JSON file.
        kind: what the row is.
        error: what is raised where it is not; each stage has its own.
        name: fills in for a row without a ``name``.
        remedy: what the user is told to do.

    Raises:
        SafeLlavaError: of type ``error``, naming the file and the first key that is wrong.
        DataError: the file is missing or is not JSON.
    """
    value = read_json(path, remedy)
    if name is not None and isinstance(value, dict):
        value.setdefault("name", name)
    try:
        return kind.model_validate(value)
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise error(f"{path}: {key}: {first['msg']}", remedy) from fault
