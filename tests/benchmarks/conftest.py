"""A POPE of twelve questions, and engines that need no model."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.engine.base import Reply, Request

CATEGORIES = ("adversarial", "popular", "random")
# Four questions a category; the second category has one yes only.
ANSWERS = {"adversarial": "yes no yes no", "popular": "yes no no no", "random": "no yes no yes"}


class FakeEngine:
    """Answers each request with what ``answer`` makes of its text and picture."""

    def __init__(self, answer: Callable[[Request], str | None]) -> None:
        self.answer, self.asked = answer, list[Request]()

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in reversed(requests):
            self.asked.append(request)
            text = self.answer(request)
            if text is None:
                yield Reply(request.key, None, "failed", "out of paper")
            else:
                yield Reply(request.key, text, "ok", n_tokens=1, truncated=False)

    def describe(self) -> dict[str, Any]:
        return {"backend": "fake"}


def right(request: Request) -> str:
    """Read the answer off the picture: white means yes."""
    (image,) = request.images
    assert isinstance(image, PIL.Image.Image)
    return "Yes" if image.getpixel((0, 0)) == (255, 255, 255) else "No"


def pope_rows(broken: int | None = None) -> list[dict[str, Any]]:
    """Return the questions in POPE's columns; the picture of question ``broken`` does not decode."""
    rows = []
    for category in CATEGORIES:
        for answer in ANSWERS[category].split():
            number = len(rows)
            stream = io.BytesIO()
            PIL.Image.new("RGB", (8, 8), "white" if answer == "yes" else "black").save(stream, "PNG")
            rows.append(
                {
                    "id": str(number),
                    "question_id": str(number),
                    "question": f"Is there a thing of kind {number} in the image?",
                    "answer": answer,
                    "image_source": f"picture_{number}",
                    "image": {"bytes": b"broken" if number == broken else stream.getvalue(), "path": None},
                    "category": category,
                }
            )
    return rows


def write_pope(root: Path, rows: list[dict[str, Any]]) -> Path:
    """Lay the data set out under a data root as the data stage does, and return the root."""
    folder = root / "hub" / "datasets" / "lmms-lab-encoder" / "POPE" / "data"
    folder.mkdir(parents=True)
    strings = {name: datasets.Value("string") for name in rows[0] if name != "image"}
    features = datasets.Features({name: strings.get(name, datasets.Image()) for name in rows[0]})
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, folder / "test-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="session")
def pope_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the small POPE."""
    return write_pope(tmp_path_factory.mktemp("data"), pope_rows())


@pytest.fixture
def pope_row() -> BenchmarkTask:
    """The row of POPE."""
    return BenchmarkTask.model_validate(
        {
            "description": "POPE",
            "lmms_task": "pope",
            "dataset": "benchmark-pope",
            "metric": "pope_f1_mean",
            "more_metrics": ["pope_accuracy"],
            "published": {"pope_f1_mean": 85.9},
            "note": "A note.",
        }
    )
