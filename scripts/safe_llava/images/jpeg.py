"""Images that are not what their names say: another format under a JPEG's name."""

from __future__ import annotations

import io
from pathlib import Path, PurePath

from PIL import Image

from safe_llava.images.pixels import UndecodableError, decoding, in_mode

SUFFIXES = frozenset({".jpg", ".jpeg"})
MAGIC = b"\xff\xd8\xff"
QUALITY = 95


def needs_jpeg(name: str, head: bytes) -> bool:
    """Tell whether a file bears a JPEG's name and begins like something else."""
    return PurePath(name).suffix.lower() in SUFFIXES and bool(head) and not head.startswith(MAGIC)


def as_jpeg(content: bytes) -> bytes | None:
    """Return an image of any format as a JPEG; the first frame of an animation, on white.

    The same content gives the same bytes, so that it does not matter when it is asked.

    Returns:
        The JPEG, or None where the content cannot be decoded.
    """
    try:
        with decoding(), Image.open(io.BytesIO(content)) as image:
            image.seek(0)
            pixels = in_mode(image, "RGBA")
    except UndecodableError:
        return None
    page = Image.new("RGB", pixels.size, (255, 255, 255))
    page.paste(pixels, mask=pixels.getchannel("A"))
    stream = io.BytesIO()
    page.save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()


def rewrite_as_jpeg(path: Path) -> bool:
    """Rewrite an image of any format as JPEG in place; the first frame of an animation, on white.

    Returns:
        Whether it could be read; one that could not stays as it is, for the layout check to report.
    """
    content = as_jpeg(path.read_bytes())
    if content is not None:
        path.write_bytes(content)
    return content is not None
