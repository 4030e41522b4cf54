"""What every configuration row has in common: unknown keys are refused, every field is described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Value = TypeVar("Value")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
ADDRESS = r"^https?://[^/\s]+\S*$"


def _place(path: str) -> str:
    place = str(Path(path).expanduser())
    if not path.strip() or place == "/" or not path.isprintable() or set("{}") & set(path):
        raise ValueError("a path that is not empty, not `/`, and without braces and control characters")
    return place


def _mirror(mirror: str) -> str:
    if "://" in mirror and not re.match(ADDRESS, mirror):
        raise ValueError("a folder, or an address that begins with https:// or http://")
    return _place_or_address(mirror)


def _address(address: str) -> str:
    if not re.match(ADDRESS, address):
        raise ValueError("not an address as `https://HOST/PATH`")
    return address


def _place_or_address(place: str) -> str:
    return place if "://" in place else _place(place)


def _each_once(values: list[Value]) -> list[Value]:
    if twice := [value for k, value in enumerate(values) if value in values[:k]]:
        raise ValueError(f"`{twice[0]}` is named twice; name it once")
    return values


Place = Annotated[str, AfterValidator(_place)]
PlaceOrAddress = Annotated[str, AfterValidator(_place_or_address)]
MirrorRoot = Annotated[str, AfterValidator(_mirror)]
Once = AfterValidator(_each_once)  # of a list whose values are each there once
Address = Annotated[str, AfterValidator(_address)]
Name = Annotated[str, Field(pattern=NAME, description="A name that is safe in a path.")]
Unknown = Literal["unknown"]


class Row(BaseModel):
    """A frozen piece of configuration that refuses keys it does not know."""

    # Built when first used: the whole tree is built once, and not each of its parts beside it.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)
