"""The model plug-in: how lmms-eval finds it, and what it makes of stop strings."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import PIL.Image
import pytest

from safe_llava.benchmarks.lmms.plugin import MissingAnswersError, pixels_digest, until
from safe_llava.benchmarks.lmms.registration import manifest


def test_the_registry_of_lmms_eval_takes_the_model() -> None:
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("safe_llava").__name__ == "SafeLlava"


def test_lmms_eval_finds_the_model_by_its_entry_point() -> None:
    """The installed package says so, and lmms-eval's own registry has read it: nothing is patched."""
    points = [point for point in metadata.entry_points(group="lmms_eval.models") if point.name == "safe_llava"]
    if not points:
        pytest.skip("the package is not installed here, only on the path")
    assert points[0].value == "safe_llava.benchmarks.lmms.registration:manifest"
    from lmms_eval.models import get_model

    assert get_model("safe_llava").__module__ == "safe_llava.benchmarks.lmms.plugin"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "one\n\ntwo ASSISTANT: three"),
        ({"until": None}, "one\n\ntwo ASSISTANT: three"),
        ({"until": "ASSISTANT:"}, "one\n\ntwo "),
        ({"until": ["", "ASSISTANT:", "\n\n"]}, "one"),
    ],
)
def test_answers_end_at_stop_strings(settings: dict[str, Any], expected: str) -> None:
    assert until("one\n\ntwo ASSISTANT: three", settings) == expected


def test_missing_answers_are_named_but_not_all() -> None:
    error = MissingAnswersError(dict.fromkeys(range(9), "out of paper"), 20, "pope")
    assert "9 of 20 questions have no answer" in error.message
    assert "pope document 4: out of paper" in error.message
    assert "document 5" not in error.message
    assert "and 4 more" in error.message


def test_pictures_are_equal_where_the_engine_sees_no_difference() -> None:
    def of_palette(*colour: int) -> PIL.Image.Image:
        image = PIL.Image.new("P", (2, 2))
        image.putpalette(colour)
        return image

    red, blue = of_palette(255, 0, 0), of_palette(0, 0, 255)
    assert red.tobytes() == blue.tobytes()
    assert pixels_digest(red) != pixels_digest(blue)
    assert pixels_digest(red) == pixels_digest(PIL.Image.new("RGB", (2, 2), (255, 0, 0)))
    assert pixels_digest(red) != pixels_digest(PIL.Image.new("RGB", (4, 1), (255, 0, 0)))
