"""PRISM in lmms-eval gives the numbers of the workflow."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmms_eval.api.model
import lmms_eval.evaluator
import pytest
from lmms_eval.tasks import TaskManager
from PIL import Image

from benchmarks.conftest import FakeEngine
from judges.judge_server import JudgeServer
from safe_llava.benchmarks.lmms.plugin import Asking, SafeLlava
from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core.errors import SafeLlavaError
from safe_llava.data.archives.indexing import index_archive
from safe_llava.engine.base import Request
from safe_llava.formats.prism import Attribute, Task
from safe_llava.prism import answers, judge, score
from safe_llava.prism.lmms import __file__ as package
from safe_llava.prism.lmms.task import PARTS

TASKS = str(Path(package).parent / "tasks")
SAID = {
    Task.REFUSAL_SOFT: ("I'm sorry, I cannot determine that.", "About 30 years old.", "She is White.", "Brown eyes."),
    Task.REFUSAL_HARD: ("I cannot tell.", "An old man.", "Slim.", "Blue."),
    Task.IMPLICIT_LEAKAGE: ("A young woman.", "A tree.", "I'm sorry, I can't help with that.", "An Asian man, 40."),
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def prism_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both editions in small: question files and images as the data set has them."""
    root = tmp_path / "PRISM"
    for part, names in (("small_", ("1.png", "2.png")), ("large_", ("3.png",)), ("", ())):
        folder = root / (f"{part}images" if part else "biometric_images")
        named = [f"{one}/a_person/{n}.png" for one in Attribute for n in range(3)] if not part else list(names)
        for name in named:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (zlib.crc32(f"{part}{name}".encode()) % 255, 9, 9)).save(folder / name)
        for task in Task:
            if task.is_refusal:
                ids = [(f"{one}/{n}", n) for one in Attribute for n in named] if part else [(n, n) for n in named]
            else:
                ids = [(f"All/{n}" if part else n, n) for n in named for _ in range(3)]
            rows = [
                {"question_id": q, "image": image, "text": f"{task} {place}: {q}?\nAnswer"}
                for place, (q, image) in enumerate(ids)
            ]
            write(root / f"{part}PRISM_{task}.jsonl", rows)
    monkeypatch.setenv("PRISM_ROOT", str(root))
    return root


def said(request: Request) -> str:
    """Return the same answer to the same question, whichever program asks it."""
    task = Task(request.text.split(" ", 1)[0])
    return SAID[task][zlib.crc32(request.text.encode()) % len(SAID[task])]


def evaluated(
    task: str, answer: Callable[[Request], str | None] = said, model: Any = None
) -> dict[str, dict[str, Any]]:
    manager = TaskManager(include_defaults=False, include_path=TASKS)
    model = model or SafeLlava(engine=lambda: FakeEngine(answer), asking=Asking({}))
    raw = lmms_eval.evaluator.simple_evaluate(
        model=model, tasks=[task], task_manager=manager, bootstrap_iters=0, distributed_executor_backend="torchrun"
    )
    return {name: dict(row) for name, row in raw["results"].items()}


def of_the_workflow(root: Path, edition: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Return the rates of the workflow's own steps, by task and attribute."""
    monkeypatch.setattr(answers, "open_engine", lambda *_, **__: FakeEngine(said))
    (work / "model").mkdir(parents=True)
    (work / "model/config.json").write_text("{}")
    row = {"description": "d", "folder": str(work / "model"), "family": "llava", "template": "recorded"}
    row |= {"new_tokens": {"refusal_soft": 9, "refusal_hard": 9, "implicit_leakage": 9}}
    parts = [
        {"images": images} | {str(task): name.format(task=task) for task in Task} for name, images in PARTS[edition]
    ]
    (work / "row.json").write_text(json.dumps(row))
    (work / "edition.json").write_text(json.dumps({"name": edition, "parts": parts}))
    files = [f"--out-{task.replace('_', '-')}={work}/{task}.jsonl" for task in Task]
    given = ["--model", str(work / "model"), "--row", str(work / "row.json"), "--edition", str(work / "edition.json")]
    answers.main([*given, "--name=m", f"--root={root}", f"--partial={work}/partial", "--device=cpu", *files])
    rates: dict[str, dict[str, Any]] = {}
    for one in score(judge([work / f"{task}.jsonl" for task in Task])):
        rates.setdefault(str(one.task), {})[one.attribute] = one.rate
    return rates


PREFIX = {"v1": "prism_v1", "v2": "prism"}


def test_the_numbers_are_the_workflows(prism_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluated("prism")
    for edition, prefix in PREFIX.items():
        expected = of_the_workflow(prism_root, edition, tmp_path / edition, monkeypatch)
        for task in Task:
            own = {name.split(",")[0]: value for name, value in found[f"{prefix}_{task}"].items() if "," in name}
            own = {name: value for name, value in own.items() if "_stderr" not in name}
            assert own == {name: pytest.approx(rate, nan_ok=True) for name, rate in expected[task].items()}
            assert len(set(own.values())) > 2  # answers differ, and so do the rates


@pytest.mark.parametrize(("group", "prefix"), [("prism_v1", "prism_v1"), ("prism_v2", "prism")])
def test_an_edition_is_a_group_too(group: str, prefix: str) -> None:
    manager = TaskManager(include_defaults=False, include_path=TASKS)
    assert manager.task_index[group]["type"] == "group"
    assert manager._get_config(group)["task"] == [f"{prefix}_{task}" for task in Task]


class ChatModel(lmms_eval.api.model.lmms):
    """A model of lmms-eval's chat kind, which takes messages where simple models take images and text."""

    is_simple = False

    def generate_until(self, requests: list[Any]) -> list[str]:
        told = []
        for _, doc_to_messages, settings, doc_id, task, split in (request.args for request in requests):
            ((image, text),) = (turn["content"] for turn in doc_to_messages(self.task_dict[task][split][doc_id]))
            assert image["type"] == "image" and image["url"].size == (8, 8)
            assert dict(settings) == {"max_new_tokens": 200, "do_sample": False, "temperature": 0, "until": ["\n\n"]}
            told.append(said(Request("key", text["text"], (), settings.pop("max_new_tokens"))))
        return told

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError


def test_chat_models_and_simple_models_are_asked_alike(prism_root: Path) -> None:
    assert evaluated("prism_v2", model=ChatModel()) == evaluated("prism_v2")


def test_images_are_read_from_an_archive_too(prism_root: Path) -> None:
    unpacked = evaluated("prism_refusal_soft", model=ChatModel())
    folder, packed = prism_root / "large_images", prism_root / "x.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"large_images/{path.name}")
    place = Unpack(to="large_images", strip="large_images", creates="large_images")
    index_archive(
        packed, ResolvedFile(set="s", path="x.zip", url="https://data.example/x.zip", unpack=place), prism_root
    )
    shutil.rmtree(folder)
    assert evaluated("prism_refusal_soft", model=ChatModel()) == unpacked


def test_an_empty_answer_counts_in_no_rate(prism_root: Path) -> None:
    def half(request: Request) -> str:
        return "" if "Age/" in request.text else "I cannot tell."

    rates = evaluated("prism_refusal_soft", half)["prism_refusal_soft"]
    assert str(rates["Age,none"]) == "nan" and rates["Gender,none"] == 100.0


def test_an_asked_judge_is_a_variant(prism_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", "key")
    monkeypatch.setenv("PRISM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PRISM_JUDGE", str(tmp_path / "llm.json"))
    with JudgeServer(reply=lambda prompt, _: "yes") as server:
        (tmp_path / "llm.json").write_text(json.dumps(server.row()))
        rates = evaluated("prism_refusal_hard")["prism_refusal_hard"]
        assert rates["macro,none"] == 100.0
        # Four different answers, each asked once with each of the five questions that got it, at most.
        assert 4 <= len(server.seen.bodies) <= 15


def test_what_is_missing_is_named(prism_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prism_root / "small_images/1.png").unlink()
    with pytest.raises(SafeLlavaError, match="no such image"):
        evaluated("prism_refusal_soft")
    monkeypatch.delenv("PRISM_ROOT")
    with pytest.raises(SafeLlavaError, match="PRISM_ROOT is not set"):
        evaluated("prism_v1_refusal_soft")
