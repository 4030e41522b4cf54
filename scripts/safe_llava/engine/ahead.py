"""Images opened by threads ahead of the model that waits for them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

import PIL.Image

from safe_llava.core.files import file_digest
from safe_llava.engine.base import ImageSource
from safe_llava.engine.images import open_image

Item = TypeVar("Item")
Value = TypeVar("Value")


def ahead(
    executor: Executor, make: Callable[[Item], Value], items: Iterable[Item], depth: int
) -> Iterator[tuple[Item, Future[Value]]]:
    """Yield each item with the future of ``make(item)``, in order; ``depth`` of them are made beforehand."""
    waiting: deque[tuple[Item, Future[Value]]] = deque()
    for item in items:
        waiting.append((item, executor.submit(make, item)))
        if len(waiting) > depth:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def open_with_digest(source: ImageSource, size: tuple[int, int] | None) -> tuple[PIL.Image.Image, str]:
    """Return an image in RGB and a digest of what it shows, equal images of equal size sharing one.

    Raises:
        EngineError: the file is missing or does not decode.
    """
    image = open_image(source, size)
    content = file_digest(source) if isinstance(source, Path) else hashlib.sha256(image.tobytes()).hexdigest()
    return image, hashlib.sha256(f"{content} {image.size}".encode()).hexdigest()
