"""The answers step: what is asked, what is kept, what is written; a fake engine counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from safe_llava.core.errors import PrismError
from safe_llava.core.retry import retry_stamp
from safe_llava.engine import facts
from safe_llava.engine.base import Reply, Request, failed
from safe_llava.formats.prism import read_answers
from safe_llava.prism import answers

TASKS = ("refusal_soft", "refusal_hard", "implicit_leakage")


class FakeEngine:
    """Answers with the question's text, and fails where the image is not there."""

    asked: list[Request]

    def __init__(self) -> None:
        self.asked = []

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in reversed(requests):
            self.asked.append(request)
            (image,) = request.images
            assert isinstance(image, Path)
            if image.is_file():
                yield Reply(request.key, f"to {request.text}", "ok", n_tokens=2, truncated=False, prompt="…")
            else:
                yield failed(request.key, f"{image.name}: unreadable image")

    def describe(self) -> dict[str, Any]:
        return {"backend": "fake"}


class Place:
    """An edition of four images and its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = {task: folder / "out" / f"{task}.jsonl" for task in TASKS}
        model = folder / "model"
        model.mkdir()
        (model / "config.json").write_text("{}", encoding="utf-8")
        self.row = {
            "description": "d",
            "train": "t",
            "family": "llava",
            "new_tokens": {"refusal_soft": 6, "refusal_hard": 7, "implicit_leakage": 9},
            "published_decoding": "sampled",
        }
        self.edition: dict[str, Any] = {
            "name": "v2",
            "questions": {task: [f"q/small_{task}.jsonl", f"q/large_{task}.jsonl"] for task in TASKS},
            "images": ["small", "large"],
        }
        for part in ("small", "large"):
            self.questions(part, "refusal_soft", [(f"Age/{part}/1.jpg", "how old ?"), (f"Race/{part}/2.jpg", "race ?")])
            self.questions(part, "refusal_hard", [(f"Age/{part}/1.jpg", "how old, now ?")])
            self.questions(part, "implicit_leakage", [(f"Age/{part}/1.jpg", f"describe {n}") for n in "abc"])
            for number, folder_name in (("1", "Age"), ("2", "Race")):
                path = folder / "data" / part / folder_name / part / f"{number}.jpg"
                path.parent.mkdir(parents=True)
                PIL.Image.new("RGB", (4, 4)).save(path)

    def questions(self, part: str, task: str, rows: list[tuple[str, str]]) -> None:
        path = self.folder / "data" / "q" / f"{part}_{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"question_id": name, "image": name, "text": text}) for name, text in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def argv(self) -> list[str]:
        (self.folder / "row.json").write_text(json.dumps(self.row), encoding="utf-8")
        (self.folder / "edition.json").write_text(json.dumps(self.edition), encoding="utf-8")
        argv = ["--model", "model", "--row", "row.json", "--edition", "edition.json", "--root", "data"]
        argv += ["--partial", "partial", "--record", "record.json"]
        argv = [part if part.startswith("--") else str(self.folder / part) for part in argv] + ["--name", "tiny"]
        for task in TASKS:
            argv += [f"--out-{task.replace('_', '-')}", str(self.out[task])]
        return argv

    def rows(self, task: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out[task].read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(answers, "open_engine", lambda *_, **__: fake)
    return fake


def test_rows_stand_in_the_order_of_the_questions(place: Place, engine: FakeEngine) -> None:
    answers.main(place.argv())
    soft = place.rows("refusal_soft")
    assert [row["question_id"] for row in soft] == [
        "Age/small/1.jpg",
        "Race/small/2.jpg",
        "Age/large/1.jpg",
        "Race/large/2.jpg",
    ]
    assert soft[1] == {
        "edition": "v2",
        "model": "tiny",
        "task": "refusal_soft",
        "question_id": "Race/small/2.jpg",
        "index": 0,
        "attribute": "Race",
        "image": "Race/small/2.jpg",
        "prompt": "race ?",
        "text": "to race ?",
        "status": "ok",
        "reason": None,
        "n_tokens": 2,
        "truncated": False,
    }
    assert [(row["index"], row["text"]) for row in place.rows("implicit_leakage")[:3]] == [
        (0, "to describe a"),
        (1, "to describe b"),
        (2, "to describe c"),
    ]
    assert {request.max_new_tokens for request in engine.asked} == {6, 7, 9}
    assert len(engine.asked) == 12
    assert all(len(read_answers(path)) for path in place.out.values())
    record = json.loads((place.folder / "record.json").read_text(encoding="utf-8"))
    assert record["counts"]["implicit_leakage"] == {"ok": 6}
    assert record["decoding"] == {"published": "sampled", "used": "greedy"}
    assert record["engine_version"] == answers.ENGINE_VERSION


def test_one_budget_for_all_questions(place: Place, engine: FakeEngine) -> None:
    answers.main([*place.argv(), "--new-tokens", "17"])
    assert {request.max_new_tokens for request in engine.asked} == {17}
    record = json.loads((place.folder / "record.json").read_text(encoding="utf-8"))
    assert record["new_tokens"] == 17
    assert len(engine.asked) == 12
    answers.main(place.argv())
    assert len(engine.asked) == 24, "answers of another budget are other answers"


def test_a_rerun_does_not_even_load_the_model(place: Place, engine: FakeEngine, monkeypatch: Any) -> None:
    answers.main(place.argv())
    before = {task: path.read_bytes() for task, path in place.out.items()}
    monkeypatch.setattr(answers, "open_engine", lambda *_, **__: pytest.fail("the model was loaded again"))
    answers.main(place.argv())
    assert {task: path.read_bytes() for task, path in place.out.items()} == before


def test_a_failed_answer_is_a_row_and_is_asked_again(
    place: Place, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    image = place.folder / "data" / "small" / "Age" / "small" / "1.jpg"
    content = image.read_bytes()
    image.unlink()
    answers.main(place.argv())
    row = place.rows("refusal_soft")[0]
    assert (row["status"], row["text"], row["reason"]) == ("failed", None, "1.jpg: unreadable image")
    assert len(place.rows("refusal_soft")) == 4
    assert "5 of 12 questions have no answer" in caplog.text
    assert "the next run asks them again" in caplog.text
    stamp = retry_stamp(place.folder / "record.json")
    assert stamp.startswith("5 failed"), "so that the workflow runs the step again"
    engine.asked.clear()
    image.write_bytes(content)
    answers.main([*place.argv(), "--retry", stamp])
    assert len(engine.asked) == 5
    assert retry_stamp(place.folder / "record.json") == stamp, "so that it does not run it once more"
    assert {row["status"] for task in TASKS for row in place.rows(task)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("budget", 4),
        ("edition", 12),
        ("prompt", 1),
        ("model", 12),
        ("image", 5),
        ("settings", 12),
        ("engine", 12),
        ("device", 12),
        ("dtype", 12),
    ],
)
def test_what_an_answer_depends_on_is_asked_again(
    place: Place, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, change: str, again: int
) -> None:
    answers.main(place.argv())
    engine.asked.clear()
    more: list[str] = []
    if change == "engine":
        monkeypatch.setattr(facts, "ENGINE_VERSION", answers.ENGINE_VERSION + 1)
    elif change == "device":
        more = ["--device", "cpu"]
    elif change == "dtype":
        place.row["dtype"] = "float16"
    elif change == "edition":
        place.row["new_tokens_by_edition"] = {"v2": dict.fromkeys(TASKS, 3)}
    elif change == "budget":
        place.row["new_tokens"]["refusal_soft"] = 60  # type: ignore[index]
    elif change == "prompt":
        place.questions("small", "refusal_hard", [("Age/small/1.jpg", "say how old !")])
    elif change == "model":
        (place.folder / "model" / "model.safetensors").write_bytes(b"other")
    elif change == "image":
        PIL.Image.new("RGB", (5, 5)).save(place.folder / "data" / "small" / "Age" / "small" / "1.jpg")
    else:
        place.row["system"] = "be kind"
    answers.main([*place.argv(), *more])
    assert len(engine.asked) == again


def test_what_an_answer_does_not_depend_on_is_not(place: Place, engine: FakeEngine) -> None:
    answers.main([*place.argv(), "--device", "cpu"])
    engine.asked.clear()
    place.row |= {"dtype": "float16", "accelerator": "cpu", "batch_size": 2, "published_decoding": "greedy"}
    place.row["new_tokens_by_edition"] = {"v1": dict.fromkeys(TASKS, 3)}
    answers.main([*place.argv(), "--device", "auto"])
    assert engine.asked == []


def test_an_edition_may_have_a_budget_of_its_own(place: Place, engine: FakeEngine) -> None:
    place.row["new_tokens_by_edition"] = {"v2": {"refusal_soft": 3, "refusal_hard": 4, "implicit_leakage": 5}}
    answers.main(place.argv())
    assert {request.max_new_tokens for request in engine.asked} == {3, 4, 5}
    place.edition["name"] = "v1"
    engine.asked.clear()
    answers.main(place.argv())
    assert {request.max_new_tokens for request in engine.asked} == {6, 7, 9}


def test_a_killed_run_goes_on(place: Place, engine: FakeEngine) -> None:
    """The child is killed with SIGKILL after its seventh answer; the rerun asks the other five."""
    child = (
        "import os, signal, sys\n"
        "from safe_llava.engine.base import Reply\n"
        "from safe_llava.prism import answers\n"
        "class Engine:\n"
        "    def generate(self, requests):\n"
        "        for number, request in enumerate(requests):\n"
        "            if number == 7:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield Reply(request.key, 'from the child', 'ok', n_tokens=1, truncated=False)\n"
        "answers.open_engine = lambda *_, **__: Engine()\n"
        "answers.main(sys.argv[1:])\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", child, *place.argv()],
        env={**os.environ, "PYTHONPATH": str(Path(answers.__file__).parents[2])},
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not any(path.exists() for path in place.out.values())
    answers.main(place.argv())
    assert len(engine.asked) == 5
    texts = [row["text"] for task in TASKS for row in place.rows(task)]
    assert texts.count("from the child") == 7


def test_a_run_killed_behind_its_last_answer_still_says_what_was_sent(
    place: Place, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_llava.engine.prompts.template_facts", lambda _, questions: {"prompts": questions})
    monkeypatch.setattr(engine, "adapter", object(), raising=False)
    monkeypatch.setattr(answers, "write_answers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        answers.main(place.argv())
    monkeypatch.undo()
    monkeypatch.setattr(answers, "open_engine", lambda *_, **__: pytest.fail("nothing is left to be asked"))
    answers.main(place.argv())
    facts = json.loads((place.folder / "record.json").read_text(encoding="utf-8"))
    assert facts["template"]["prompts"]["refusal_soft"] == "how old ?"


def test_the_parts_of_a_configured_edition(place: Place, engine: FakeEngine) -> None:
    parts = [{"images": part, **{task: f"q/{part}_{task}.jsonl" for task in TASKS}} for part in ("small", "large")]
    place.edition = {"description": "d", "dataset": "prism-v2", "leakage_scored": "all", "parts": parts}
    answers.main([*place.argv(), "--edition-name", "v2"])
    assert [row["question_id"] for row in place.rows("refusal_hard")] == ["Age/small/1.jpg", "Age/large/1.jpg"]


def test_nothing_answered_is_an_error(place: Place, engine: FakeEngine) -> None:
    place.edition["images"] = ["elsewhere", "nowhere"]
    with pytest.raises(PrismError, match=r"no question was answered: .*unreadable image"):
        answers.main(place.argv())
    assert not any(path.exists() for path in place.out.values())


def test_wrong_input_is_named(place: Place, engine: FakeEngine) -> None:
    place.questions("large", "refusal_soft", [("Age/large/../../../1.jpg", "how old ?")])
    with pytest.raises(PrismError, match="lies outside its folder"):
        answers.main(place.argv())
    place.questions("large", "refusal_soft", [("All/1.jpg", "how old ?")])
    with pytest.raises(PrismError, match="a direct question asks about one attribute"):
        answers.main(place.argv())
    place.questions("large", "refusal_soft", [("Nose/1.jpg", "how long ?")])
    with pytest.raises(PrismError, match=r"large_refusal_soft\.jsonl: .*'Nose' is no attribute"):
        answers.main(place.argv())
    assert not engine.asked
    place.edition["images"] = ["small"]
    with pytest.raises(PrismError, match=r"edition\.json.*one question file for each"):
        answers.main(place.argv())
    place.row["family"] = "gpt"
    with pytest.raises(PrismError, match=r"row\.json: family"):
        answers.main(place.argv())
    (place.folder / "model" / "config.json").unlink()
    place.row["family"] = "llava"
    place.edition["images"] = ["small", "large"]
    with pytest.raises(PrismError, match="not a checkpoint"):
        answers.main(place.argv())
