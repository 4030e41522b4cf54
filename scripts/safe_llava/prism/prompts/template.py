"""A prompt as a small tree of text, fields and string operations: what a prompt in source is once it is read.

A tree is data: rendering it calls nothing but the string operations named here, and renders what Python would.
"""

from __future__ import annotations

import inspect
import string
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# String operations that a template may use, each with the arguments that it may take beside the text.
METHODS: dict[str, Callable[..., str]] = {
    "strip": str.strip,
    "lstrip": str.lstrip,
    "rstrip": str.rstrip,
    "lower": str.lower,
    "upper": str.upper,
    "dedent": textwrap.dedent,
    "cleandoc": inspect.cleandoc,
}
CONVERSIONS: dict[str, Callable[[str], str]] = {"": str, "s": str, "r": repr, "a": ascii}


class Node:
    """A part of a prompt: one of the kinds below."""

    def render(self, values: Mapping[str, str]) -> str:
        """Return the text with each field's value in its place; braces in a value are only characters."""
        match self:
            case FixedText(words):
                return words
            case Field(name):
                return values[name]
            case Joined(parts, separator):
                return separator.join(part.render(values) for part in parts)
            case Formatted(part, conversion, spec):
                return format(CONVERSIONS[conversion](part.render(values)), spec)
            case Called(method, part, arguments):
                return METHODS[method](part.render(values), *arguments)
            case Percent(words, parts):
                return words % tuple(part.render(values) for part in parts)
        raise TypeError(f"{type(self).__name__} is no part of a prompt")

    def fields(self) -> frozenset[str]:
        """Return the names of the fields in it."""
        match self:
            case Field(name):
                return frozenset({name})
            case Joined(parts=parts) | Percent(parts=parts):
                return frozenset().union(*(part.fields() for part in parts))
            case Formatted(part=part) | Called(part=part):
                return part.fields()
        return frozenset()


@dataclass(frozen=True)
class FixedText(Node):
    """Words that are always the same."""

    words: str


@dataclass(frozen=True)
class Field(Node):
    """The place of a value."""

    name: str


@dataclass(frozen=True)
class Joined(Node):
    """Parts with a separator between them."""

    parts: tuple[Node, ...]
    separator: str = ""


@dataclass(frozen=True)
class Formatted(Node):
    """A part that is converted (``r``, ``a``, ``s``) and laid out by a format specification."""

    part: Node
    conversion: str
    spec: str


@dataclass(frozen=True)
class Called(Node):
    """A part after one of ``METHODS``."""

    method: str
    part: Node
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Percent(Node):
    """Words whose ``%`` places take parts in their order."""

    words: str
    parts: tuple[Node, ...]


def from_format(text: str, values: Mapping[str, Node], positional: tuple[Node, ...] = ()) -> Node:
    """Return the tree of a text with ``{}`` places, as ``str.format`` reads it.

    Args:
        text: the text; ``{{`` and ``}}`` are braces.
        values: what stands for each named place.
        positional: what stands for ``{}``, ``{0}``, ``{1}``, …

    Raises:
        ValueError: the text is none, or a place in it has no value or is more than a name.
    """
    parts: list[Node] = []
    automatic = 0
    for words, name, spec, conversion in string.Formatter().parse(text):
        if words:
            parts.append(FixedText(words))
        if name is None:
            continue
        if name == "":
            name, automatic = str(automatic), automatic + 1
        if spec and "{" in spec:
            raise ValueError(f"the place {{{name}}} has places in its format")
        if name.isdigit() and int(name) < len(positional):
            part = positional[int(name)]
        elif name in values:
            part = values[name]
        else:
            raise ValueError(f"nothing is given for the place {{{name}}}")
        parts.append(Formatted(part, conversion or "", spec or "") if conversion or spec else part)
    return Joined(tuple(parts))
