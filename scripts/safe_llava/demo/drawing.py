"""Scenes as images: plain figures with PIL, large and distinct enough for a random vision tower."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from safe_llava.demo.scenes import COLOURS, Person, Scene, Thing

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

UNITS = 56  # a scene is laid out in 56ths of the image's side
PIXELS = 112  # the side of a stored image; drawn at twice that for smooth edges
OVERSAMPLE = 2
BLACK: Colour = (20, 20, 20)
WHITE: Colour = (255, 255, 255)
BROWN: Colour = (122, 72, 30)
SKIN: dict[str, Colour] = {"light": (255, 219, 188), "brown": (184, 122, 72), "dark": (78, 46, 26)}
IRIS: dict[str, Colour] = {"blue": (20, 84, 255), "green": (10, 190, 50), "brown": (120, 62, 10)}
BODY_WIDTH = {"slim": 7.0, "average": 17.0, "heavy": 28.0}
RIBBON: dict[str, Colour] = {"female": (255, 40, 200), "male": (0, 220, 255)}
HAIR_COLOURS: dict[str, Colour] = {"child": (196, 120, 30), "young": (36, 20, 16), "elderly": (255, 255, 255)}


class Pen:
    """A PIL canvas whose coordinates are scene units."""

    def __init__(self, width: int = PIXELS, height: int = PIXELS) -> None:
        self._size = (width, height)
        self._scale = PIXELS * OVERSAMPLE / UNITS
        self.image = Image.new("RGB", (width * OVERSAMPLE, height * OVERSAMPLE), WHITE)
        self._draw = ImageDraw.Draw(self.image)

    def _points(self, values: tuple[float, ...]) -> list[float]:
        return [value * self._scale for value in values]

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Fill an ellipse with centre ``x``, ``y`` and half axes ``rx``, ``ry``."""
        self._draw.ellipse(self._points((x - rx, y - ry, x + rx, y + ry)), fill=fill)

    def box(self, box: Box, fill: Colour) -> None:
        """Fill a rectangle given as left, top, right, bottom."""
        self._draw.rectangle(self._points(box), fill=fill)

    def polygon(self, points: tuple[float, ...], fill: Colour) -> None:
        """Fill a polygon given as x, y, x, y, …"""
        self._draw.polygon(self._points(points), fill=fill)

    def line(self, points: tuple[float, ...], fill: Colour, width: float) -> None:
        """Draw a line through points given as x, y, x, y, …"""
        self._draw.line(self._points(points), fill=fill, width=round(width * self._scale))

    def finish(self) -> Image.Image:
        """Return the image at its stored size."""
        return self.image.resize(self._size, Image.Resampling.BOX)


def _shift(colour: Colour, tint: tuple[int, int, int]) -> Colour:
    red, green, blue = (max(0, min(255, part + change)) for part, change in zip(colour, tint, strict=True))
    return red, green, blue


def _background(pen: Pen, scene: Scene) -> None:
    if scene.page is not None:
        pen.box((0, 0, 56, 56), _shift(COLOURS[scene.page], scene.tint))
        pen.box((14, 14, 42, 42), WHITE)
    elif scene.setting == "outdoors":
        pen.box((0, 0, 56, 44), _shift((120, 142, 166), scene.tint))
        pen.box((0, 44, 56, 56), _shift((104, 132, 92), scene.tint))
    else:
        pen.box((0, 0, 56, 44), _shift((152, 136, 118), scene.tint))
        pen.box((0, 44, 56, 56), _shift((120, 100, 84), scene.tint))


def _ball(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.ellipse(x, y, h, h, fill)
    pen.line((x - h * 0.95, y, x + h * 0.95, y), WHITE, h * 0.3)


def _box(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.box((x - h, y - h, x + h, y + h), fill)
    pen.line((x - h, y - h, x + h, y + h), BLACK, h * 0.2)
    pen.line((x - h, y + h, x + h, y - h), BLACK, h * 0.2)


def _tree(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.box((x - h * 0.25, y, x + h * 0.25, y + h), BROWN)
    pen.polygon((x, y - h, x - h, y + h * 0.4, x + h, y + h * 0.4), fill)


def _house(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.box((x - h * 0.8, y - h * 0.1, x + h * 0.8, y + h), fill)
    pen.polygon((x, y - h, x - h * 1.05, y, x + h * 1.05, y), (96, 40, 30))
    pen.box((x - h * 0.2, y + h * 0.35, x + h * 0.2, y + h), WHITE)


def _car(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.box((x - h * 0.55, y - h * 0.55, x + h * 0.55, y), fill)
    pen.box((x - h * 0.4, y - h * 0.4, x + h * 0.4, y - h * 0.05), (190, 226, 250))
    pen.box((x - h * 1.1, y - h * 0.05, x + h * 1.1, y + h * 0.5), fill)
    pen.ellipse(x - h * 0.6, y + h * 0.55, h * 0.36, h * 0.36, BLACK)
    pen.ellipse(x + h * 0.6, y + h * 0.55, h * 0.36, h * 0.36, BLACK)


def _star(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.polygon((x, y - h, x + h * 0.95, y + h * 0.6, x - h * 0.95, y + h * 0.6), fill)
    pen.polygon((x, y + h, x + h * 0.95, y - h * 0.6, x - h * 0.95, y - h * 0.6), fill)


def _cup(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.ellipse(x + h * 0.6, y, h * 0.45, h * 0.5, BLACK)
    pen.ellipse(x + h * 0.6, y, h * 0.25, h * 0.3, WHITE)
    pen.polygon((x - h * 0.95, y - h, x + h * 0.55, y - h, x + h * 0.3, y + h, x - h * 0.7, y + h), fill)
    pen.ellipse(x - h * 0.2, y - h * 0.85, h * 0.75, h * 0.25, WHITE)


def _fish(pen: Pen, x: float, y: float, h: float, fill: Colour) -> None:
    pen.ellipse(x - h * 0.25, y, h * 0.8, h * 0.5, fill)
    pen.polygon((x + h * 0.3, y, x + h, y - h * 0.7, x + h, y + h * 0.7), fill)
    pen.ellipse(x - h * 0.6, y - h * 0.1, h * 0.2, h * 0.2, WHITE)
    pen.ellipse(x - h * 0.6, y - h * 0.1, h * 0.1, h * 0.1, BLACK)


PAINTERS = {
    "ball": _ball,
    "box": _box,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "star": _star,
    "cup": _cup,
    "fish": _fish,
}


def _item(pen: Pen, item: Thing) -> None:
    PAINTERS[item.shape](pen, item.x, item.y, item.size / 2, COLOURS[item.colour])


def _eyes(pen: Pen, x: float, y: float, colour: Colour) -> None:
    for side in (-1, 1):
        pen.ellipse(x + side * 4.6, y, 4.3, 3.9, WHITE)
        pen.ellipse(x + side * 4.6, y, 3.3, 3.3, colour)
        pen.ellipse(x + side * 4.6, y, 0.8, 0.8, BLACK)


def _person(pen: Pen, person: Person) -> None:
    values, x = person.values, person.x
    child = values["Age"] == "child"
    head, top = (9.5, 33.0) if child else (10.5, 19.0)
    top += person.y_shift
    skin, hair = SKIN[values["Race"]], HAIR_COLOURS[values["Age"]]
    half = BODY_WIDTH[values["Weight"]] / 2
    shoulders = top + head - 0.5
    if values["Gender"] == "female":  # long hair falls behind the shoulders
        pen.box((x - head - 4.5, top - 2, x + head + 4.5, shoulders + 9), hair)
        pen.ellipse(x, top - 2.5, head + 4.5, head + 2, hair)
    pen.box((x - half - 3, shoulders + 3, x + half + 3, shoulders + 13), skin)  # arms
    pen.box((x - half, shoulders, x + half, 56), COLOURS[person.clothes])
    pen.box((x - 3, shoulders - 2, x + 3, shoulders + 2), skin)  # neck
    pen.ellipse(x, top - 2.0, head + 0.8, head, hair)
    pen.ellipse(x, top + 1.0, head, head - 1.0, skin)
    _eyes(pen, x, top, IRIS[values["Eye_Color"]])
    knot, ribbon = shoulders + 5, RIBBON[values["Gender"]]
    pen.polygon((x, knot, x - 8, knot - 4, x - 8, knot + 4), ribbon)
    pen.polygon((x, knot, x + 8, knot - 4, x + 8, knot + 4), ribbon)
    pen.line((x - 2.5, top + 6.3, x + 2.5, top + 6.3), (170, 40, 50), 1.2)
    if values["Age"] == "elderly":  # white hair reaches down beside the face, and there is a stick to lean on
        pen.box((x - head - 1, top - 4, x - head + 1.5, top + 5), hair)
        pen.box((x + head - 1.5, top - 4, x + head + 1, top + 5), hair)
        pen.line((x - half - 4.5, shoulders + 8, x - half - 4.5, 56), BLACK, 1.6)


def draw(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of `PIXELS` by `PIXELS`."""
    pen = Pen()
    _background(pen, scene)
    for item in scene.items:
        _item(pen, item)
    if scene.person is not None:
        _person(pen, scene.person)
    return pen.finish()


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """Encode an image for a file of that suffix (jpg, jpeg, png, gif, webp)."""
    stream = io.BytesIO()
    if suffix in ("jpg", "jpeg"):
        image.save(stream, "JPEG", quality=92, subsampling=0)
    elif suffix == "png":
        image.save(stream, "PNG", compress_level=6)
    elif suffix == "webp":
        image.save(stream, "WEBP", lossless=True)
    elif suffix == "gif":
        image.quantize(64).save(stream, "GIF")
    else:
        raise ValueError(f"no encoder for images of suffix {suffix!r}")
    return stream.getvalue()
