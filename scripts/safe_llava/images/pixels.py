"""From an opened image to 8-bit pixels, for every room alike: which shapes and depths are taken, which are named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from safe_llava.core.errors import SafeLlavaError

# The square that training pads an image to has at most as many pixels as Pillow takes from a file.
LONGEST_SIDE = 13_377
# The bound of Qwen's image processor; in the pretrain stage an image is resized to 336 x (336 x its ratio) pixels.
MOST_ELONGATED = 200
# Formats in which Pillow's 32-bit grey holds 16-bit values.
GREY_16_FORMATS = frozenset({"PNG", "PPM", "JPEG2000"})


class UndecodableError(Exception):
    """An image that cannot be used; the text says why, without the file's name."""


@contextmanager
def decoding() -> Iterator[None]:
    """Turn whatever a decoder raises into one error; Pillow's plugins raise many types on broken files.

    Raises:
        UndecodableError: in place of anything but a missing file and this project's own errors.
    """
    try:
        yield
    except (UndecodableError, SafeLlavaError, FileNotFoundError):
        raise
    except Exception as error:
        raise UndecodableError(f"{type(error).__name__}: {error}") from error


def in_mode(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """Return the first frame of an image in ``mode`` (RGB or RGBA), with 16-bit grey values scaled to 8 bits.

    Raises:
        UndecodableError: its shape is extreme, or its values have no known scale. Use it within ``decoding``.
    """
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or max(width, height) > MOST_ELONGATED * min(width, height):
        raise UndecodableError(
            f"an extreme shape, {width} x {height} pixels: sides up to {LONGEST_SIDE:,} pixels, "
            f"and at most {MOST_ELONGATED} times as long as the other, are taken"
        )
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in GREY_16_FORMATS):
        # The high byte, as Pillow itself takes it of 16-bit colours; its own conversion of grey cuts at 255: white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise UndecodableError(f"grey values of Pillow's mode {image.mode}, which have no known scale")
    return image.convert(mode)
