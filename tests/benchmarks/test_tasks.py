"""Every configured benchmark that needs no judge and no server, through lmms-eval's own code on two or four questions.

A benchmark's row is right where an engine that answers rightly gets full marks, and one that answers wrongly gets none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
import yaml

from benchmarks.conftest import FakeEngine
from safe_llava.benchmarks.evaluate import evaluate
from safe_llava.benchmarks.results import normalise
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.engine.base import Request

PICTURE = PIL.Image.new("RGB", (8, 8), "red")
HUMANS = [{"answer": "sunny", "answer_id": number} for number in range(10)]
CHOICES = {"A": "sunny", "B": "rainy", "C": "windy", "D": "misty"}
MMBENCH = {"hint": "nan", "source": "s", "split": "dev", "category": "c", "L2-category": "l", **CHOICES}
FIVE = {f"option{number}": choice for number, choice in enumerate(CHOICES.values())}

# For each task: its data set, the split, and what one question holds beside its text.
TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vqav2": ("VQAv2", "validation", {"answers": HUMANS}),
    "vizwiz": ("VizWiz-VQA", "val", {"answers": ["sunny"] * 10}),
    "textvqa": ("textvqa", "validation", {"answers": ["sunny"] * 10, "ocr_tokens": ["SIGN", "POST"]}),
    "textvqa-ocr": ("textvqa", "validation", {"answers": ["sunny"] * 10, "ocr_tokens": ["SIGN", "POST"]}),
    "scienceqa": ("ScienceQA", "test", {"choices": list(CHOICES.values()), "answer": 0, "hint": ""}),
    "mme": ("MME", "test", {"answer": "Yes", "category": "existence"}),
    "mmbench-static": ("MMBench", "dev", {"answer": "A", **MMBENCH}),
    "seedbench": (
        "SEED-Bench",
        "test",
        {"answer": "A", "data_type": "image", **{f"choice_{key.lower()}": value for key, value in CHOICES.items()}},
    ),
    "qbench": ("Q-Bench-HF", "dev", {"correct_choice": "A", "question_concern": 0, "question_type": 0, **FIVE}),
}
CONFIGURATIONS = {"scienceqa": "ScienceQA-IMG", "mmbench-static": "en"}
RIGHT = {"mme": "Yes", "scienceqa": "A", "mmbench-static": "A", "seedbench": "A", "qbench": "A"}
WRONG = {"mme": "No", "scienceqa": "B", "mmbench-static": "B", "seedbench": "B", "qbench": "B"}
FULL = {"mme": 200.0}


def write(root: Path, name: str, split: str, rows: list[dict[str, Any]], configuration: str = "default") -> None:
    """Add one configuration of a data set to a data root."""
    organisation = "q-future" if name == "Q-Bench-HF" else "lmms-lab-encoder"
    folder = root / "hub" / "datasets" / organisation / name
    (folder / configuration).mkdir(parents=True)
    several = isinstance(rows[0].get("image"), list)
    made = datasets.Dataset.from_list(rows)
    if "image" in rows[0]:
        made = made.cast_column("image", datasets.Sequence(datasets.Image()) if several else datasets.Image())
    made.to_parquet(folder / configuration / f"{split}-00000-of-00001.parquet")
    readme = folder / "README.md"
    header = yaml.safe_load(readme.read_text().split("---")[1]) if readme.exists() else {"configs": []}
    files = [{"split": split, "path": f"{configuration}/{split}-*"}]
    header["configs"].append({"config_name": configuration, "data_files": files})
    readme.write_text(f"---\n{yaml.safe_dump(header)}---\n")


def picture() -> dict[str, Any]:
    """Return the picture as the `datasets` library stores it."""
    return datasets.Image().encode_example(PICTURE)


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[str, BenchmarkTask]:
    """The configured rows."""
    found = yaml.safe_load((root / "config" / "benchmarks.yaml").read_text(encoding="utf-8"))["benchmarks"]["tasks"]
    return {name: BenchmarkTask.model_validate(row) for name, row in found.items()}


def score(task: BenchmarkTask, data: Path, answer: str) -> tuple[dict[str, float | None], FakeEngine]:
    engine = FakeEngine(lambda _: answer)
    raw = evaluate(task, engine, data, data / "work")
    return {name: metric["score"] for name, metric in normalise(raw, task).items()}, engine


@pytest.mark.parametrize("name", TASKS)
def test_full_marks_and_none(name: str, rows: dict[str, BenchmarkTask], tmp_path: Path) -> None:
    dataset, split, fields = TASKS[name]
    image = [picture()] if name == "seedbench" else picture()
    asked = [
        {"id": f"{n}", "question_id": "one", "index": n, "question": f"how is thing {n}?", "image": image, **fields}
        for n in range(2)
    ]
    write(tmp_path, dataset, split, asked, CONFIGURATIONS.get(name, "default"))
    full, engine = score(rows[name], tmp_path, RIGHT.get(name, "sunny"))
    assert full[rows[name].metric] == pytest.approx(FULL.get(name, 100.0))
    assert len(engine.asked) == 2
    assert all(len(request.images) == 1 for request in engine.asked)
    assert ("SIGN" in engine.asked[0].text) == (name == "textvqa-ocr")
    none, _ = score(rows[name], tmp_path, WRONG.get(name, "rainy"))
    assert none[rows[name].metric] == 0.0


def test_gqa_finds_its_pictures_offline(rows: dict[str, BenchmarkTask], tmp_path: Path) -> None:
    asked = [{"id": f"{n}", "imageId": "p", "question": f"how is thing {n}?", "answer": "sunny"} for n in range(2)]
    write(tmp_path, "GQA", "testdev", asked, "testdev_balanced_instructions")
    write(tmp_path, "GQA", "testdev", [{"id": "p", "image": picture()}], "testdev_balanced_images")
    full, engine = score(rows["gqa"], tmp_path, "Sunny")
    assert full == {"exact_match": 100.0}
    (image,) = engine.asked[0].images
    assert isinstance(image, PIL.Image.Image)
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_every_scorable_row_is_tried_here(rows: dict[str, BenchmarkTask]) -> None:
    scorable = {name for name, task in rows.items() if not task.judged and not task.submission}
    assert scorable == {*TASKS, "gqa", "pope"}


def test_requests_hold_the_budget_of_the_task(rows: dict[str, BenchmarkTask], tmp_path: Path) -> None:
    asked = [{"question_id": "one", "image": picture(), "question": "q?", **TASKS["mme"][2]} for _ in range(2)]
    write(tmp_path, "MME", "test", asked)
    budgets: set[int] = set()

    def answer(request: Request) -> str:
        budgets.add(request.max_new_tokens)
        return "Yes"

    evaluate(rows["mme"], FakeEngine(answer), tmp_path, tmp_path / "work")
    assert budgets == {16}
