"""Images for the engine: opened once, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import PIL.Image

from safe_llava.core.errors import EngineError
from safe_llava.engine.base import ImageSource
from safe_llava.images.pixels import UndecodableError
from safe_llava.images.reader import read_rgb

Value = TypeVar("Value")


def open_image(source: ImageSource, size: tuple[int, int] | None = None) -> PIL.Image.Image:
    """Return an image in RGB, forced to ``size`` (width, height) where one is given.

    Raises:
        EngineError: the file is missing or does not decode.
    """
    try:
        image = read_rgb(source)
    except (UndecodableError, FileNotFoundError) as error:
        name = str(source) if isinstance(source, Path) else "an image in memory"
        raise EngineError(f"{name}: unreadable image: {error}", "fetch the image again") from error
    return image.resize(size, PIL.Image.Resampling.BICUBIC) if size else image


class ByteCache(Generic[Value]):
    """The most recently used values, as many as fit into ``limit`` bytes.

    Args:
        limit: bytes in all.
        size_of: bytes of one value.
    """

    def __init__(self, limit: int, size_of: Callable[[Value], int]) -> None:
        self._limit, self._size_of = limit, size_of
        self._held = 0
        self._values: OrderedDict[Path, Value] = OrderedDict()

    def get(self, key: Path, make: Callable[[], Value]) -> Value:
        """Return the value of ``key``, made now unless it is still there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self._held += self._size_of(value)
        while self._held > self._limit and len(self._values) > 1:
            self._held -= self._size_of(self._values.popitem(last=False)[1])
        return value
