"""The one reader of pictures: what the layout check lets pass, training, engine and figures read alike."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from safe_llava.images import store
from safe_llava.images.pixels import UndecodableError, converted, decoding


def read_rgb(source: Path | bytes | Image.Image) -> Image.Image:
    """Return a picture as 8-bit RGB; of an animation the first frame, whatever the file's name says it is.

    Args:
        source: a path in the tree of images (on disk or in an archive), a file's content, or an opened picture.

    Raises:
        FileNotFoundError: there is no such file.
        UndecodableError: it is no picture, is broken or cut off, or has an extreme shape.
        DataError: its archive or index as a whole is not what it was.
    """
    with decoding():
        if isinstance(source, Image.Image):
            return converted(source)
        opened = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else store.open_image(source)
        with opened as image:
            return converted(image)


def fault_of(path: Path) -> str:
    """Return why an image cannot be decoded, or an empty string where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and palettes do not matter here
            read_rgb(path)
    except (UndecodableError, FileNotFoundError) as error:
        return str(error).replace(str(path), path.name)
    return ""
