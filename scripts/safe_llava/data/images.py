"""Images as they really are: formats that their names hide, and whether they decode."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})
JPEG_MAGIC = b"\xff\xd8\xff"
QUALITY = 95
FAULTS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def fault_of(path: Path) -> str:
    """Return why an image cannot be decoded, or an empty string where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and palettes do not matter here
            with Image.open(path) as image:
                image.load()
    except FAULTS as error:
        return f"{type(error).__name__}: {error}".replace(str(path), path.name)
    return ""


def needs_jpeg(name: str, head: bytes) -> bool:
    """Tell whether a file bears a JPEG's name and begins like something else."""
    return Path(name).suffix.lower() in JPEG_SUFFIXES and bool(head) and not head.startswith(JPEG_MAGIC)


def rewrite_as_jpeg(path: Path) -> bool:
    """Rewrite an image of any format as JPEG in place; the first frame of an animation, on white.

    Returns:
        Whether it could be read; one that could not stays as it is, for the layout check to report.
    """
    try:
        with Image.open(path) as image:
            image.seek(0)
            pixels = image.convert("RGBA")
    except FAULTS:
        return False
    page = Image.new("RGB", pixels.size, (255, 255, 255))
    page.paste(pixels, mask=pixels.getchannel("A"))
    page.save(path, format="JPEG", quality=QUALITY)
    return True
