"""The page on PRISM's speed says what the raw logs of the vLLM back end say; the benchmark runs on the stand-in."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.fake_vllm import fake_modules
from safe_llava.core.errors import EngineError
from safe_llava.speed import prism_set as bench_set
from safe_llava.speed import prism_vllm as vllm_bench

NOTES = Path(__file__).parents[2] / "docs" / "benchmarks-prism.md"
SPEED = NOTES.parent / "benchmarks" / "prism-vllm-h200.jsonl"
EARLIER = SPEED.with_stem(f"{SPEED.stem}-0.24")  # of vLLM 0.24
AGREEMENT = NOTES.parent / "benchmarks" / "prism-vllm-agreement.jsonl"


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def figures(name: str) -> list[list[float]]:
    """The numbers in each row of the page that names a log."""
    lines = [line for line in NOTES.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [
        [float(found.replace(",", "")) for found in re.findall(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w.-])", line)]
        for line in lines
        if f"`{name}`" in line
    ]


@pytest.mark.parametrize("log", [SPEED, EARLIER], ids=lambda log: log.stem)
def test_the_speed_on_the_page_is_that_of_the_log(log: Path) -> None:
    first, start, edition = read(log)
    assert "H200" in first["device"] and first["arguments"]["size"] == "7b"
    assert edition["answers"] == 13 * first["arguments"]["pictures"] == 28_600
    assert edition["answers_per_s"] == pytest.approx(edition["answers"] / edition["seconds"], rel=1e-4)
    sampler = first["environment"].get("VLLM_USE_FLASHINFER_SAMPLER") != "0"
    assert edition["seconds"] + (0 if sampler else start["seconds"]) < 5 * 60, "the aim, with a start as the engine's"
    speed, pieces = figures(log.name)
    minutes = round(edition["seconds"] / 60, 1)
    assert speed[-3:] == [minutes, round(edition["answers_per_s"], 1), round(start["seconds"])]
    prompt, cached = edition["tokens"]["prompt"], edition["tokens"]["prompt, not read again"]
    assert pieces[-4:] == [prompt, prompt - cached, edition["answer_tokens"], round(edition["phases"]["hand over"])]


def test_the_agreement_on_the_page_is_that_of_the_log() -> None:
    _, *lines = read(AGREEMENT)
    found = {(line["backend"], line["dtype"]): line["digests"] for line in lines}
    pairs = {
        (one, other): sum(a == b for a, b in zip(found[one], found[other], strict=True))
        for one in found
        for other in found
    }
    asked = [
        (("vllm", "float16"), ("transformers", "float16")),
        (("vllm", "float16"), ("transformers", "float32")),
        (("transformers", "float16"), ("transformers", "float32")),
        (("vllm", "float32"), ("transformers", "float32")),
    ]
    assert figures(AGREEMENT.name) == [[pairs[pair], 1300] for pair in asked]


def test_the_agreement_of_the_pinned_version_is_that_of_its_log() -> None:
    log = AGREEMENT.with_stem(f"{AGREEMENT.stem}-0.33")
    pairs = [line for line in read(log) if line["kind"] == "agreement"]
    assert sorted(figures(log.name)) == sorted([line["same"], line["of"]] for line in pairs)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_modules(measured=True).items():
        monkeypatch.setitem(sys.modules, name, module)


def test_an_edition_is_measured_with_its_lengths(stand_in: None, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    common = ["--work", str(tmp_path / "work"), "--size", "tiny", "--device", "cpu", "--pictures", "3"]
    vllm_bench.main([*common, "--out", str(out)])
    first, start, edition = read(out)
    assert (first["engine"]["backend"], start["kind"]) == ("vllm", "start")
    images = bench_set.write_images(tmp_path / "work" / "pictures", 3)
    assert edition["answers"] == 39
    assert edition["answer_tokens"] == sum(bench_set.edition(images).lengths.values())
    assert edition["tokens"]["prompt"] > edition["tokens"]["prompt, not read again"] > 0
    with pytest.raises(EngineError, match="does not load it: TypeError: unknown arguments"):
        vllm_bench.main([*common, "--out", str(out), "--options", '{"no_such": 1}'])
