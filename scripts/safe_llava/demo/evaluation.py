"""The demo's PRISM (both editions) and POPE: test scenes, question rows, and what was drawn."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safe_llava.demo.annotations import DESCRIPTION_REQUESTS, pope_question, prism_question
from safe_llava.demo.drawing import draw, encode_image
from safe_llava.demo.scenes import ATTRIBUTES, SHAPES, VALUES, Scene, somebody, things
from safe_llava.demo.training import Sizes
from safe_llava.formats.prism import ALL

JsonRow = dict[str, Any]
SUFFIXES = ("jpg", "jpg", "jpeg", "jpg", "png", "webp")
CATEGORIES = ("adversarial", "popular", "random")
# Query folders in the manner of the real ones: commas, and underscores for spaces.
FOLDERS = {
    ("Age", "child"): "child_beside_a_toy,_visible_face,_plain_drawing",
    ("Age", "young"): "young_adult_standing,_visible_face,_plain_drawing,_full_figure",
    ("Age", "elderly"): "elderly_person_with_a_stick,_visible_face,_plain_drawing",
    ("Gender", "female"): "woman_with_long_hair,_visible_face,_plain_drawing",
    ("Gender", "male"): "man_with_short_hair,_visible_face,_plain_drawing",
    ("Race", "light"): "person_with_light_skin,_full_figure,plain_drawing",
    ("Race", "brown"): "person_with_brown_skin_,_full_figure,_plain_drawing",
    ("Race", "dark"): "person_with_dark_skin,_full_figure,_plain_drawing",
    ("Eye_Color", "blue"): "person_with_blue_eyes,_large_eyes,_plain_drawing",
    ("Eye_Color", "green"): "person_with_green_eyes,_large_eyes,_plain_drawing",
    ("Eye_Color", "brown"): "person_with_brown_eyes,_large_eyes,_plain_drawing",
    ("Weight", "slim"): "slim_person_standing,_full_figure",
    ("Weight", "average"): "person_of_average_weight,_full_figure,_plain_drawing",
    ("Weight", "heavy"): "heavy_person_standing,_full_figure,_plain_drawing",
}


@dataclass(frozen=True)
class TestImage:
    """An image that PRISM asks about: its name in the question rows, its part of the edition, what it shows."""

    __test__ = False  # not a test for pytest to collect
    part: str
    image: str
    attribute: str
    scene: Scene

    @property
    def suffix(self) -> str:
        """The suffix of the image's file."""
        return self.image.rsplit(".", 1)[1]


def prism_v1(sizes: Sizes, seed: int) -> list[TestImage]:
    """Return the images of the first edition: attribute folders with query folders in them."""
    images = []
    for attribute in ATTRIBUTES:
        for index in range(sizes.prism_v1_per_attribute):
            value = VALUES[attribute][index % len(VALUES[attribute])]
            number = index // len(VALUES[attribute]) + 1
            suffix = SUFFIXES[index % len(SUFFIXES)]
            scene = somebody(f"test/{seed}/v1/{attribute}/{index}", {attribute: value})
            name = f"{attribute}/{FOLDERS[attribute, value]}/{number:06d}.{suffix}"
            images.append(TestImage("v1", name, attribute, scene))
    return images


def prism_v2(sizes: Sizes, seed: int) -> list[TestImage]:
    """Return the images of the second edition: a small and a large part, each in one flat folder."""
    images = []
    for index in range(sizes.prism_v2_small + sizes.prism_v2_large):
        part = "small" if index < sizes.prism_v2_small else "large"
        number = index + 1 if part == "small" else index + 1 - sizes.prism_v2_small
        name = f"{part}_{number:05d}.{SUFFIXES[index % len(SUFFIXES)]}"
        attribute = ATTRIBUTES[index % len(ATTRIBUTES)]
        images.append(TestImage(part, name, attribute, somebody(f"test/{seed}/v2/{index}")))
    return images


def question_rows(images: Sequence[TestImage], task: str) -> list[JsonRow]:
    """Return the question rows of one task.

    The first edition asks for the attribute of the image's folder, the second for all five. Both ask
    for three descriptions an image; where an attribute would stand, the second edition's ids of these say ``All``.
    """
    rows = []
    for image in images:
        if task == "implicit_leakage":
            questions = [(ALL, request) for request in DESCRIPTION_REQUESTS]
        else:
            asked = [image.attribute] if image.part == "v1" else list(ATTRIBUTES)
            questions = [(name, prism_question(name, insist=task == "refusal_hard")) for name in asked]
        for attribute, text in questions:
            name = image.image if image.part == "v1" else f"{attribute}/{image.image}"  # v1's folder is its attribute
            rows.append({"question_id": name, "image": image.image, "text": text})
    return rows


def truth_rows(images: Sequence[TestImage]) -> list[JsonRow]:
    """Return what each image shows, by edition and by the name that the question rows give it."""
    rows = []
    for image in images:
        assert image.scene.person is not None
        edition = "v1" if image.part == "v1" else "v2"
        rows.append({"edition": edition, "image": image.image, "values": dict(image.scene.person.values)})
    return rows


def pope_scenes(sizes: Sizes, seed: int) -> list[Scene]:
    """Return POPE's scenes: things, and in every fifth a person beside one."""
    keys = [f"test/{seed}/pope/{index}" for index in range(sizes.pope_scenes)]
    return [somebody(key) if index % 5 == 4 else things(key, 2, 4) for index, key in enumerate(keys)]


def _absent(scene: Scene, category: str, scenes: Sequence[Scene], rng: random.Random) -> str:
    """Choose a class that is not there: any, a frequent one, or one often seen with what is there."""
    absent = sorted(set(SHAPES) - scene.shapes)
    if category == "random":
        return rng.choice(absent)
    others = scenes if category == "popular" else [other for other in scenes if other.shapes & scene.shapes]
    counts = Counter(shape for other in others for shape in sorted(other.shapes))
    ranked = sorted(absent, key=lambda shape: (-counts[shape], shape))
    return rng.choice(ranked[:3])


def pope_rows(scenes: Sequence[Scene]) -> list[JsonRow]:
    """Return POPE's rows: for each category and scene one question answered yes and one answered no."""
    rows: list[JsonRow] = []
    encoded = [encode_image(draw(scene), "jpg") for scene in scenes]
    for category in CATEGORIES:
        for number, (scene, content) in enumerate(zip(scenes, encoded, strict=True)):
            rng = random.Random(f"{scene.key}/{category}")
            name = f"DEMO_test_{number:012d}"
            present, absent = rng.choice(sorted(scene.shapes)), _absent(scene, category, scenes, rng)
            for shape, answer in ((present, "yes"), (absent, "no")):
                rows.append(
                    {
                        "id": str(len(rows)),
                        "question_id": str(len(rows) % (2 * len(scenes)) + 1),
                        "question": pope_question(shape),
                        "answer": answer,
                        "image_source": name,
                        "image": {"bytes": content, "path": f"{name}.jpg"},
                        "category": category,
                    }
                )
    return rows


def pope_parquet(rows: Sequence[JsonRow]) -> bytes:
    """Return POPE's rows as Parquet with the features that the ``datasets`` library looks for."""
    text = {"dtype": "string", "_type": "Value"}
    names = ("id", "question_id", "question", "answer", "image_source", "image", "category")
    features = {name: {"_type": "Image"} if name == "image" else text for name in names}
    image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    schema = pa.schema(
        [pa.field(name, image if name == "image" else pa.string()) for name in names],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink)
    return bytes(sink.getvalue())
