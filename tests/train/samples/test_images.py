"""Pixels: the original's, and what the geometry of a small image says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safe_llava.checkpoints.tower import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD
from safe_llava.core.errors import TrainError
from safe_llava.train.samples.images import (
    ImageGeometry,
    load_image,
    pad_to_square,
    preprocess,
)

BLACK_WHITE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def striped(width: int, height: int) -> Image.Image:
    """An image with a red left edge, a blue right edge and grey between."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    pixels[:, 0], pixels[:, -1] = (255, 0, 0), (0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("geometry", [ImageGeometry.PAD, ImageGeometry.CROP])
@pytest.mark.parametrize("number", range(6))
def test_equals_the_original_bit_for_bit(geometry: ImageGeometry, number: int, shared: Path) -> None:
    folder = shared / "golden" / "tiny_llava"
    image = load_image(folder / "images" / f"{number}.png")
    pixels = preprocess(image, geometry, 336, CLIP_MEAN, CLIP_STD)
    with np.load(folder / "pixels.npz", allow_pickle=False) as golden:
        assert np.array_equal(pixels[:, ::12, ::12].numpy(), golden[f"{geometry}_{number}"])
        assert float(pixels.double().mean()) == pytest.approx(float(golden[f"{geometry}_{number}_mean"]), abs=1e-6)


@pytest.mark.parametrize(
    ("width", "height", "corner"), [(7, 4, (0, 1)), (4, 7, (1, 0)), (6, 3, (0, 1)), (5, 5, (0, 0))]
)
def test_padding_centres_on_the_mean_colour(width: int, height: int, corner: tuple[int, int]) -> None:
    square = pad_to_square(Image.new("RGB", (width, height), (9, 9, 9)), (1, 2, 3))
    side = max(width, height)
    assert square.size == (side, side)
    expected = np.tile(np.array([1, 2, 3], dtype=np.uint8), (side, side, 1))
    left, top = corner
    expected[top : top + height, left : left + width] = 9
    assert np.array_equal(np.asarray(square), expected)


@pytest.mark.parametrize("geometry", list(ImageGeometry))
@pytest.mark.parametrize(("width", "height"), [(8, 8), (31, 8), (8, 31), (1, 40), (40, 1), (9, 8)])
def test_every_shape_becomes_a_square_of_float32(geometry: ImageGeometry, width: int, height: int) -> None:
    pixels = preprocess(striped(width, height), geometry, 14, CLIP_MEAN, CLIP_STD)
    assert pixels.shape == (3, 14, 14)
    assert pixels.dtype == torch.float32
    assert bool(torch.isfinite(pixels).all())


def test_geometries_keep_or_lose_the_edges() -> None:
    image = striped(40, 10)
    seen = {geometry: preprocess(image, geometry, 10, *BLACK_WHITE) for geometry in ImageGeometry}
    grey = torch.full((3, 10, 10), 128 / 255)
    torch.testing.assert_close(seen[ImageGeometry.CROP], grey)  # the edges are cropped away
    resized = seen[ImageGeometry.RESIZE]
    assert bool((resized[0, :, 0] > resized[2, :, 0]).all())  # red on the left in every row
    padded = seen[ImageGeometry.PAD]
    assert float(padded[:, 0].abs().max()) == 0.0  # the padding, of mean colour black
    assert bool((padded[0, 4:6, 0] > padded[2, 4:6, 0]).all())


def test_a_crop_of_the_right_size_is_normalised_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    expected = (values / 255 - np.array(SIGLIP_MEAN)) / np.array(SIGLIP_STD)
    for geometry in ImageGeometry:
        pixels = preprocess(Image.fromarray(values), geometry, 12, SIGLIP_MEAN, SIGLIP_STD)
        np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png")]
)
def test_every_mode_is_read_as_rgb(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.new(mode, (5, 4)).save(path)
    assert (load_image(path).mode, load_image(path).size) == ("RGB", (5, 4))


def test_a_gif_under_another_name_gives_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "cover.jpg"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "000.jpg"
    path.write_bytes(content)
    with pytest.raises(TrainError, match=r"000\.jpg: the image cannot be decoded"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_cut_short_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"half.{suffix}"
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TrainError, match="cannot be decoded"):
        load_image(path)


def test_a_missing_picture_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"gone\.png: no such image") as error:
        load_image(tmp_path / "gone.png")
    assert "receipt" in error.value.remedy
