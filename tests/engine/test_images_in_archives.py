"""PRISM's answers to images in an archive are those to files, and are kept under the same keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from data.storing import archive_folder
from safe_llava.config.models import EvaluatedModel
from safe_llava.paper.figures.examples import find_image
from safe_llava.prism import answers

TASKS = ("refusal_soft", "refusal_hard", "implicit_leakage")


def write_edition(root: Path) -> dict[str, Any]:
    """Write four images and a question of each task to each of them."""
    names = [f"Age/a_person,_outdoors/{number:06d}.jpg" for number in range(4)]
    for number, name in enumerate(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (30 + 9 * number, 50), (60 * number, 255 - 60 * number, 90)).save(path)
    for task in TASKS:
        rows = [{"question_id": name, "image": name, "text": "what is the age of the person ?"} for name in names]
        (root / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "v1", "questions": {task: [f"{task}.jsonl"] for task in TASKS}, "images": ["images"]}


def test_the_same_answers_under_the_same_keys(
    tiny_llava: Path, row: EvaluatedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, archived = tmp_path / "files", tmp_path / "archived"
    edition = write_edition(files)
    for task in TASKS:
        archived.mkdir(exist_ok=True)
        shutil.copy(files / f"{task}.jsonl", archived)
    archive_folder(files / "images", archived, "images")
    (tmp_path / "row.json").write_text(row.model_dump_json())
    (tmp_path / "edition.json").write_text(json.dumps(edition))

    def ask(root: Path, partial: Path) -> list[str]:
        argv = ["--model", str(tiny_llava), "--row", str(tmp_path / "row.json"), "--name", "tiny", "--device", "cpu"]
        argv += ["--edition", str(tmp_path / "edition.json"), "--root", str(root), "--partial", str(partial)]
        outs = {task: partial / f"{task}.jsonl" for task in TASKS}
        for task, out in outs.items():
            argv += [f"--out-{task.replace('_', '-')}", str(out)]
        answers.main(argv)
        return [out.read_text() for out in outs.values()]

    first, second = ask(files, tmp_path / "one"), ask(archived, tmp_path / "two")
    assert first == second
    assert all('"status": "ok"' in line for text in first for line in text.splitlines())
    monkeypatch.setattr(answers, "open_engine", lambda *_, **__: pytest.fail("asked again"))
    assert ask(archived, tmp_path / "one") == first
    name = "Age/a_person,_outdoors/000002.jpg"
    assert find_image(name, [archived / "images"]) == archived / "images" / name
