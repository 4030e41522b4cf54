"""The one reader of images: what the layout check lets pass, training, engine and figures read alike."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from safe_llava.images import store
from safe_llava.images.pixels import UndecodableError, decoding, in_mode


def read_rgb(source: Path | bytes | Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB; of an animation the first frame, whatever the file's name says it is.

    Args:
        source: a path in the tree of images (on disk or in an archive), a file's content, or an opened image.

    Raises:
        FileNotFoundError: there is no such file.
        UndecodableError: it is no image, is broken or cut off, or has an extreme shape.
        DataError: its archive or index as a whole is not what it was.
    """
    with decoding():
        if isinstance(source, Image.Image):
            return in_mode(source)
        opened = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else store.open_stored_image(source)
        with opened as image:
            return in_mode(image)


def fault_of(path: Path) -> str:
    """Return why an image cannot be decoded, or an empty string where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and palettes do not matter here
            read_rgb(path)
    except (UndecodableError, FileNotFoundError) as error:
        return str(error).replace(str(path), path.name)
    return ""
