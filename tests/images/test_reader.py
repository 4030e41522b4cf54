"""One reader of images: 16 bits become 8, odd shapes and broken files are named, and every room agrees."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safe_llava.core.errors import EngineError, TrainError
from safe_llava.images.jpeg import as_jpeg
from safe_llava.images.pixels import LONGEST_SIDE, MOST_ELONGATED, UndecodableError
from safe_llava.images.reader import fault_of, read_rgb

RAMP = np.linspace(0, 65535, 32 * 24).astype(np.uint16).reshape(24, 32)
MUTANTS = 2400


def encoded(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_keeps_its_high_byte(form: str) -> None:
    pixels = np.asarray(read_rgb(encoded(Image.fromarray(RAMP), form)))
    assert pixels.shape == (24, 32, 3)
    assert (pixels == (RAMP >> 8)[..., None]).all()
    jpeg = as_jpeg(encoded(Image.fromarray(RAMP), form))
    assert jpeg is not None
    assert np.abs(np.asarray(read_rgb(jpeg)).astype(int) - (RAMP >> 8)[..., None]).max() < 16


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_grey_without_a_known_scale_is_named(kind: type) -> None:
    with pytest.raises(UndecodableError, match="no known scale"):
        read_rgb(encoded(Image.fromarray(RAMP.astype(kind)), "TIFF"))


@pytest.mark.parametrize("size", [(60000, 10), (1, 100_000), (1, MOST_ELONGATED + 1), (LONGEST_SIDE + 1, 4000)])
def test_extreme_shapes_are_named_before_they_take_memory(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("L", size).save(path)
    assert f"an extreme shape, {size[0]} x {size[1]} pixels" in fault_of(path)


@pytest.mark.parametrize("size", [(MOST_ELONGATED, 1), (1, 1), (640, 480)])
def test_other_shapes_are_not(size: tuple[int, int]) -> None:
    assert read_rgb(encoded(Image.new("RGB", size), "PNG")).size == size


def test_whatever_a_decoder_raises_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (32, 32)), "AVIF")
    with pytest.raises(UndecodableError):
        read_rgb(content[: len(content) // 2])
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: 1 / 0)
    with pytest.raises(UndecodableError, match="ZeroDivisionError"):
        read_rgb(encoded(Image.new("RGB", (8, 8)), "PNG"))


def images() -> list[bytes]:
    """Small images of every format and depth that data sets hold."""
    noise = np.random.default_rng(7).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    made = [encoded(rgb, form) for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")]
    made += [encoded(rgba, "PNG"), encoded(rgb.convert("P"), "PNG"), encoded(rgb.convert("1"), "PNG")]
    made += [encoded(Image.fromarray(RAMP), "PNG"), encoded(rgb.convert("CMYK"), "JPEG")]
    stream = io.BytesIO()
    rgb.save(stream, "JPEG", progressive=True)
    return [*made, stream.getvalue()]


def mutants(count: int) -> Iterator[bytes]:
    """Yield images with bytes changed, pieces doubled, cut off or lost, the same ones each time."""
    chance, whole = random.Random(20251120), images()
    for number in range(count):
        content = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 6) if number >= len(whole) else 0):
            # Half of the changes hit the headers, which decide what decoders do.
            place = chance.randrange(min(len(content), 64) if chance.random() < 0.5 else len(content))
            way = chance.randrange(4)
            if way == 0:
                content[place] = chance.randrange(256)
            elif way == 1:
                content[place] ^= 1 << chance.randrange(8)
            elif way == 2:
                del content[place : place + chance.randint(1, 16)]
            else:
                content[place:place] = content[place : place + chance.randint(1, 16)]
            content = content or bytearray(b"\0")
        yield bytes(content[: chance.randint(1, len(content))] if chance.random() < 0.1 else content)


def test_layout_training_and_engine_agree_on_every_file(tmp_path: Path) -> None:
    from safe_llava.engine.images import open_image
    from safe_llava.train.samples.images import load_image

    path, decodable = tmp_path / "picture.jpg", 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in mutants(MUTANTS):
            path.write_bytes(content)
            fault = fault_of(path)
            if not fault:
                decodable += 1
                assert load_image(path).tobytes() == open_image(path).tobytes()
                continue
            with pytest.raises(TrainError):
                load_image(path)
            with pytest.raises(EngineError):
                open_image(path)
    assert MUTANTS // 10 < decodable < MUTANTS * 9 // 10
