"""Images as they really are: formats that their names hide, and whether they decode."""

from __future__ import annotations

import warnings
from pathlib import Path

from safe_llava.images import store as imagefiles
from safe_llava.images.jpeg import FAULTS, as_jpeg, needs_jpeg

__all__ = ["fault_of", "needs_jpeg", "rewrite_as_jpeg"]


def fault_of(path: Path) -> str:
    """Return why an image cannot be decoded, or an empty string where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and palettes do not matter here
            with imagefiles.open_image(path) as image:
                image.load()
    except FAULTS as error:
        return f"{type(error).__name__}: {error}".replace(str(path), path.name)
    return ""


def rewrite_as_jpeg(path: Path) -> bool:
    """Rewrite an image of any format as JPEG in place; the first frame of an animation, on white.

    Returns:
        Whether it could be read; one that could not stays as it is, for the layout check to report.
    """
    content = as_jpeg(path.read_bytes())
    if content is not None:
        path.write_bytes(content)
    return content is not None
