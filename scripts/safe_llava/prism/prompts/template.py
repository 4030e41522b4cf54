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


@dataclass(frozen=True)
class Text:
    """Words that are always the same."""

    value: str

    def render(self, values: Mapping[str, str]) -> str:
        """Return the words."""
        return self.value

    def fields(self) -> frozenset[str]:
        """Return no names."""
        return frozenset()


@dataclass(frozen=True)
class Field:
    """The place of a value."""

    name: str

    def render(self, values: Mapping[str, str]) -> str:
        """Return the value as it is; braces in it are only characters."""
        return values[self.name]

    def fields(self) -> frozenset[str]:
        """Return its name."""
        return frozenset({self.name})


@dataclass(frozen=True)
class Joined:
    """Parts with a separator between them."""

    parts: tuple[Node, ...]
    separator: str = ""

    def render(self, values: Mapping[str, str]) -> str:
        """Return the parts in their order."""
        return self.separator.join(part.render(values) for part in self.parts)

    def fields(self) -> frozenset[str]:
        """Return the names in all parts."""
        return frozenset().union(*(part.fields() for part in self.parts))


@dataclass(frozen=True)
class Formatted:
    """A part that is converted (``r``, ``a``, ``s``) and laid out by a format specification."""

    part: Node
    conversion: str
    spec: str

    def render(self, values: Mapping[str, str]) -> str:
        """Return the part as the built-in ``format`` lays it out."""
        return format(CONVERSIONS[self.conversion](self.part.render(values)), self.spec)

    def fields(self) -> frozenset[str]:
        """Return the names in the part."""
        return self.part.fields()


@dataclass(frozen=True)
class Called:
    """A part after one of ``METHODS``."""

    method: str
    part: Node
    arguments: tuple[str, ...] = ()

    def render(self, values: Mapping[str, str]) -> str:
        """Return what the method makes of the part."""
        return METHODS[self.method](self.part.render(values), *self.arguments)

    def fields(self) -> frozenset[str]:
        """Return the names in the part."""
        return self.part.fields()


@dataclass(frozen=True)
class Percent:
    """A text whose ``%`` places take parts in their order."""

    text: str
    parts: tuple[Node, ...]

    def render(self, values: Mapping[str, str]) -> str:
        """Return what the ``%`` operator makes of the text."""
        return self.text % tuple(part.render(values) for part in self.parts)

    def fields(self) -> frozenset[str]:
        """Return the names in all parts."""
        return frozenset().union(*(part.fields() for part in self.parts))


Node = Text | Field | Joined | Formatted | Called | Percent


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
            parts.append(Text(words))
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
