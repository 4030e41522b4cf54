"""Every benchmark's data set in small, engines that need no model, and a judge that is told what to say."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import yaml

from benchmarks.fixtures import MAKERS, Fixture, number_in, write
from judges.judge_server import JudgeServer
from safe_llava.benchmarks.lmms.evaluate import EvaluationRequest, EvaluationResult, evaluate
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.load import load
from safe_llava.config.models import EvaluatedModel
from safe_llava.config.prism import Judge
from safe_llava.config.selection import config_files
from safe_llava.engine.base import Engine, Reply, Request

SECRET = "sk-not-a-real-key-0123456789"


class FakeEngine:
    """Answers each request with what ``answer`` makes of it; None fails."""

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


def shown_in(request: Request) -> int:
    """Return the number that a request's image shows: which question it is."""
    (image,) = request.images
    assert isinstance(image, PIL.Image.Image)
    return number_in(image)


def right_of(fixture: Fixture) -> Callable[[Request], str]:
    """Return the answers of a model that is always right."""
    return lambda request: fixture.right[shown_in(request)]


def says(prompt: str, nth: int = 0) -> str:
    """Judge by a simple rule: a fine answer is fine, `A` is poor, and nothing is worth nothing."""
    if prompt.startswith("You are an AI assistant who will help me to match"):
        return "E"
    if prompt.startswith("Compare the ground truth"):
        prediction = prompt.rsplit("|", 2)[1]
        return "1.0" if "fine" in prediction else "0.1" if "A" in prediction else "0.0"
    last = prompt.split("2]\n", 1)[1].split("\n\n[End", 1)[0]
    return f"8 {9 if 'fine' in last else 2 if last.strip() else 0}\nBecause."


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches beyond this machine fails at once."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            raise AssertionError(f"a step of the benchmarks reached for {address}")
        connect(self, address)

    def look_up_here(host: Any, *more: Any, **named: Any) -> Any:
        if host not in ("127.0.0.1", b"127.0.0.1"):
            raise AssertionError(f"a step of the benchmarks looked up {host}")
        return look_up(host, *more, **named)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


@pytest.fixture(scope="session")
def fixtures() -> dict[str, Fixture]:
    """The data set of every benchmark."""
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, fixtures: dict[str, Fixture]) -> Path:
    """A data root with all of them."""
    root = tmp_path_factory.mktemp("data")
    for fixture in fixtures.values():
        write(root, fixture)
    return root


@functools.cache
def configured_rows() -> dict[str, BenchmarkTask]:
    path = Path(__file__).resolve().parents[2] / "config" / "benchmarks.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["benchmarks"]["tasks"]
    return {name: BenchmarkTask.model_validate(row) for name, row in found.items()}


@pytest.fixture(scope="session")
def rows() -> dict[str, BenchmarkTask]:
    """The configured rows."""
    return configured_rows()


MODEL_ROW = {
    "description": "d",
    "train": "llava-v1.5-7b",
    "family": "llava",
    "new_tokens": {"refusal_soft": 1, "refusal_hard": 1, "implicit_leakage": 1},
    "accelerator": "cpu",
    "dtype": "float32",
    "cut_at_newline": True,
    "image_size": [4, 4],
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training writes for LLaVA-1.5, in tiny: its classes, its template."""
    from engine import tiny

    folder = tmp_path_factory.mktemp("trained") / "model"
    tiny.trained(load(config_files()).train.models["llava-v1.5-7b"], folder)
    return folder


@pytest.fixture(scope="session")
def tiny_engine(tiny_model: Path) -> Engine:
    """The engine of the tiny model."""
    from safe_llava.engine import open_engine

    return open_engine(tiny_model, EvaluatedModel.model_validate({**MODEL_ROW, "image_size": None}), device="cpu")


@pytest.fixture
def pope_row(rows: dict[str, BenchmarkTask]) -> BenchmarkTask:
    """The row of POPE, short."""
    return rows["pope"].model_copy(update={"more_metrics": ["pope_accuracy"], "note": "A note."})


@pytest.fixture
def judge_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Judge]]:
    """Start a judge's server: ``judge_row(reply, **changes)`` returns the row that asks it."""
    servers: list[JudgeServer] = []
    monkeypatch.setenv("TEST_JUDGE_KEY", SECRET)

    def start(reply: Any = says, **changes: Any) -> Judge:
        servers.append(JudgeServer(reply=(lambda prompt, nth: reply) if isinstance(reply, str) else reply))
        servers[-1].__enter__()
        return Judge.model_validate(servers[-1].row(**changes))

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def scored(
    rows: dict[str, BenchmarkTask], data: Path, tmp_path: Path, judge_row: Callable[..., Judge]
) -> Callable[..., tuple[EvaluationResult, FakeEngine]]:
    """Score a benchmark: ``scored(name, answer)`` returns what was found, and the engine with what it was asked."""

    def score(name: str, answer: Callable[[Request], str | None]) -> tuple[EvaluationResult, FakeEngine]:
        task, engine, judging = rows[name], FakeEngine(answer), None
        if task.judged:
            from safe_llava.benchmarks.lmms.judging import Judging

            judging = Judging(judge_row(), "j", name, task.judge_reply or "", tmp_path / "judged", SECRET)
        asked = EvaluationRequest(
            engine=lambda: engine, data=data, work=tmp_path / "work", judging=judging, keep=tmp_path / "submission.json"
        )
        return evaluate(task, asked), engine

    return score
