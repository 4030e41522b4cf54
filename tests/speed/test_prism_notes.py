"""The page on PRISM's speed says what its raw logs of the transformers back end say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.speed.prism import ratio

NOTES = Path(__file__).parents[2] / "docs" / "benchmarks-prism.md"
LOGS = sorted((NOTES.parent / "benchmarks").glob("prism-transformers-*.jsonl"))
MAIN = NOTES.parent / "benchmarks" / "prism-transformers-h200.jsonl"
TODAY = NOTES.parent / "benchmarks" / "prism-transformers-h200-cache.jsonl"
TASKS = ("refusal_soft", "refusal_hard", "implicit_leakage")


def read(file: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    first, edition, *loop, last = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return first, edition, loop, last


def rows(name: str) -> list[list[str]]:
    """The rows of the page that name a log."""
    lines = [line for line in NOTES.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if f"`{name}`" in line]


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_every_log_has_a_row_with_its_figures(file: Path) -> None:
    first, edition, loop, last = read(file)
    assert ratio(edition, loop) == last
    assert edition["answers"] == 13 * first["arguments"]["pictures"]
    assert edition["answers_per_s"] == pytest.approx(edition["answers"] / edition["seconds"], abs=0.01)
    (_, minutes, speed, times, memory, _), *_ = rows(file.name)
    assert float(minutes) == round(edition["seconds"] / 60, 1)
    assert float(speed) == round(edition["answers_per_s"], 1)
    assert float(times) == last["times_the_loop"]
    assert float(memory) == edition["memory_gib"]


def test_the_loop_and_the_phases_are_those_of_the_log() -> None:
    _, edition, loop, last = read(MAIN)
    _, *others = rows(MAIN.name)
    tasks, (_, _, speed, *_), phases = others[:3], others[3], others[4:]
    for line, (task, count, answers, tokens, _) in zip(loop, tasks, strict=True):
        assert (task, int(count)) == (line["task"], line["answers"])
        assert float(answers) == round(line["answers_per_s"], 1)
        assert float(tokens) == round(line["answer_tokens"] / line["answers"], 1)
    assert speed == f"{last['loop_answers_per_s']:.2f} ({last['loop_hours']:.1f} hours)"
    for name, (_, seconds, tokens, _) in zip(("prefix", "questions", "decode", "rest"), phases, strict=True):
        assert float(seconds) == round(edition["phases"][name], 1)
        assert not tokens or int(tokens) == edition["tokens"][name]
    assert f"{edition['tokens']['steps']:,} steps" in phases[2][0]


def test_the_aim_is_reached() -> None:
    first, edition, _, last = read(TODAY)
    assert "H200" in first["device"]
    assert first["arguments"]["size"] == "7b"
    assert last["times_the_loop"] >= 15
    minutes = 28_600 / edition["answers_per_s"] / 60
    assert f"would take {minutes:.1f} minutes" in NOTES.read_text(encoding="utf-8")
