"""What the demo's drawings show: things with colours, and people with the five attributes of PRISM.

Every scene is drawn from a random stream of its own, named by a key: the key of a test scene begins
with ``test``, that of a training scene with ``train``, so neither can repeat the other by accident.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

# Every class of things has a colour of its own, and clothes have others: a tower with random weights
# passes colour on better than form, and a small language model has minutes, not days.
SHAPES: dict[str, str] = {
    "ball": "red",
    "box": "orange",
    "tree": "green",
    "house": "purple",
    "car": "blue",
    "star": "yellow",
    "cup": "pink",
    "fish": "cyan",
}
CLOTHES = ("black", "maroon", "white")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 30, 30),
    "orange": (246, 130, 20),
    "green": (20, 140, 50),
    "purple": (120, 40, 170),
    "blue": (36, 72, 224),
    "yellow": (250, 220, 20),
    "pink": (250, 110, 190),
    "cyan": (20, 200, 220),
    "black": (24, 24, 28),
    "maroon": (110, 0, 24),
    "white": (252, 252, 252),
}
SETTINGS = ("indoors", "outdoors")

# The values that can be seen in a drawing, by PRISM's name of the attribute. Race is the tone of the
# skin, in neutral words: a drawing has no ethnicity, and nothing here should pretend that it has.
VALUES: dict[str, tuple[str, ...]] = {
    "Age": ("child", "young", "elderly"),
    "Gender": ("female", "male"),
    "Race": ("light", "brown", "dark"),
    "Eye_Color": ("blue", "green", "brown"),
    "Weight": ("slim", "average", "heavy"),
}
ATTRIBUTES = tuple(VALUES)


@dataclass(frozen=True)
class Thing:
    """A thing in a scene; ``x``, ``y`` is its centre and ``size`` its side, in 56ths of the image's side."""

    shape: str
    x: float
    y: float
    size: float

    @property
    def colour(self) -> str:
        """The colour of everything of its class."""
        return SHAPES[self.shape]

    @property
    def phrase(self) -> str:
        """The thing in words, without an article."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Person:
    """Somebody in a scene; ``values`` has one value of `VALUES` for each attribute."""

    values: Mapping[str, str]
    clothes: str
    x: float
    y_shift: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything that one drawing shows; ``page`` is the colour of a sheet that fills it (a cover, a sign)."""

    key: str
    setting: str
    items: tuple[Thing, ...]
    person: Person | None = None
    tint: tuple[int, int, int] = (0, 0, 0)
    page: str | None = None

    @property
    def shapes(self) -> frozenset[str]:
        """The classes of the things in the scene."""
        return frozenset(item.shape for item in self.items)


def _tint(rng: random.Random) -> tuple[int, int, int]:
    return (rng.randint(-8, 8), rng.randint(-8, 8), rng.randint(-8, 8))


def things(key: str, least: int = 1, most: int = 4) -> Scene:
    """Draw lots for ``least`` to ``most`` things of different classes, at most one in a quarter, in reading order."""
    rng = random.Random(key)
    count = rng.randint(least, most)
    quarters = sorted(rng.sample([(14.0, 14.0), (14.0, 42.0), (42.0, 14.0), (42.0, 42.0)], count))
    items = tuple(
        Thing(shape, x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), rng.uniform(20, 23))
        for shape, (y, x) in zip(rng.sample(sorted(SHAPES), count), quarters, strict=True)
    )
    return Scene(key, rng.choice(SETTINGS), items, tint=_tint(rng))


def somebody(key: str, fixed: Mapping[str, str] | None = None) -> Scene:
    """Draw lots for a person beside a thing; ``fixed`` gives values that are not left to chance."""
    rng = random.Random(key)
    values = {name: rng.choice(options) for name, options in VALUES.items()} | dict(fixed or {})
    item = Thing(rng.choice(sorted(SHAPES)), rng.uniform(8.5, 9.5), rng.uniform(44, 47), rng.uniform(15, 16))
    person = Person(values, rng.choice(CLOTHES), 35 + rng.uniform(-1.5, 1.5), rng.uniform(-1, 1))
    return Scene(key, rng.choice(SETTINGS), (item,), person, _tint(rng))


def sheet(key: str) -> Scene:
    """Draw lots for a sheet that shows one thing: the cover of a book, or a sign."""
    rng = random.Random(key)
    item = Thing(rng.choice(sorted(SHAPES)), 28 + rng.uniform(-3, 3), 28 + rng.uniform(-3, 3), rng.uniform(20, 23))
    return Scene(key, "outdoors", (item,), tint=_tint(rng), page=rng.choice(CLOTHES))
