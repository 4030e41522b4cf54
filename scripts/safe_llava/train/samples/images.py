"""Images to pixels, as the original's CLIP image processor gave them: Pillow's bicubic filter, no torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from safe_llava.core.errors import TrainError, again
from safe_llava.images.pixels import UndecodableError
from safe_llava.images.reader import read_rgb

FETCH = f"{again('unpacked')} (docs/data.md, When something goes wrong)"


class ImageGeometry(StrEnum):
    """How an image of any shape becomes a square."""

    PAD = "pad"  # padded with the mean colour, then resized: the finetune stage
    CROP = "crop"  # shortest edge resized, centre cropped: the pretrain stage
    RESIZE = "resize"  # resized whatever its shape: SigLIP's own processor


def load_image(path: Path) -> Image.Image:
    """Read an image as RGB; of an animation the first frame, whatever the file's name says it is.

    Raises:
        TrainError: the file is missing or is no image that can be decoded to its end.
    """
    try:
        return read_rgb(path)
    except FileNotFoundError as error:
        raise TrainError(f"{path}: no such image", FETCH) from error
    except UndecodableError as error:
        raise TrainError(f"{path}: the image cannot be decoded: {error}", FETCH) from error


def pad_to_square(image: Image.Image, mean_rgb: tuple[int, int, int]) -> Image.Image:
    """Centre an image on the smallest square that holds it, of colour ``mean_rgb`` (0 to 255)."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), mean_rgb)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def preprocess(
    image: Image.Image, geometry: ImageGeometry, size: int, mean: Sequence[float], std: Sequence[float]
) -> torch.FloatTensor:
    """Return the pixels that the vision tower sees, float32 [3, size, size].

    Args:
        image: an RGB image.
        geometry: how it becomes a square.
        size: edge of the square in pixels.
        mean, std: of each channel, on the scale 0 to 1.
    """
    if geometry is ImageGeometry.PAD:
        red, green, blue = (int(channel * 255) for channel in mean)
        image = pad_to_square(image, (red, green, blue))
    if geometry is ImageGeometry.RESIZE:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    else:
        image = _centre_crop(_resize_shortest_edge(image, size), size)
    # The original scales in float64 and normalises in float32.
    scaled = (np.asarray(image) * (1 / 255)).astype(np.float32)
    normal = (scaled - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))  # type: ignore[return-value]


def _resize_shortest_edge(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    return image.resize((size, longer) if width <= height else (longer, size), Image.Resampling.BICUBIC)


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
