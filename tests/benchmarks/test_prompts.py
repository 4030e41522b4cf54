"""What the engine is sent for LLaVA-1.5, as golden files, and against what LLaVA's own evaluation sends.

``UPDATE_GOLDEN=1`` writes the files anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import FakeEngine, configured_rows, shown_in
from benchmarks.fixtures import Fixture
from safe_llava.benchmarks.lmms.evaluate import EvaluationResult
from safe_llava.config.load import load
from safe_llava.config.selection import config_files
from safe_llava.engine.base import Engine

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
Doc = dict[str, Any]


def options(doc: Doc, names: str, letters: str = "ABCD") -> str:
    given = [(letter, doc[names.format(letter)]) for letter in letters]
    return "".join(f"\n{letter}. {text}" for letter, text in given if text != "nan")


def llava_mmbench(doc: Doc, last: str = LETTER) -> str:
    hint = "" if doc["hint"] == "nan" else f"{doc['hint']}\n"
    return f"{hint}{doc['question']}{options(doc, '{}')}{last}"


def llava_qbench(doc: Doc) -> str:
    given = [doc[f"option{place}"] for place in range(4) if doc[f"option{place}"] != "N/A"]
    listed = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", given, strict=False))
    return f"{doc['question']}\nChoose between one of the options as follows:\n{listed}"


def llava_scienceqa(doc: Doc) -> str:
    """Write a question as those with an image are in LLaVA's llava_test_CQM-A.json."""
    context = f"Context: {doc['hint']}\n" if doc["hint"] else ""
    listed = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCDE", doc["choices"], strict=False))
    return f"{context}{doc['question']}{listed}{LETTER}"


def llava_seed(doc: Doc) -> str:
    return doc["question"] + "".join(f"\n{letter.upper()}. {doc[f'choice_{letter}']}" for letter in "abcd") + LETTER


def llava_vizwiz(doc: Doc) -> str:
    return f"{doc['question']}\nWhen the provided information is insufficient, respond with 'Unanswerable'.{SHORT}"


def llava_ocr(doc: Doc) -> str:
    return f"{doc['question']}\nReference OCR token: {', '.join(doc['ocr_tokens'])}{SHORT}"


# Written from LLaVA's evaluation guide, its scripts llava/eval/model_vqa_{mmbench,qbench}.py, and its paper.
LLAVA: dict[str, Callable[[Doc], str]] = {
    **dict.fromkeys(["vqav2", "vqav2-test", "gqa", "pope", "textvqa"], lambda doc: doc["question"] + SHORT),
    "mme": lambda doc: doc["question"].replace(" Please answer yes or no.", "") + SHORT,
    "vizwiz": llava_vizwiz,
    "vizwiz-test": llava_vizwiz,
    "textvqa-ocr": llava_ocr,
    "scienceqa": llava_scienceqa,
    "mmbench": llava_mmbench,
    "mmbench-static": llava_mmbench,
    "mmbench-cn": lambda doc: llava_mmbench(doc, "\n请直接回答选项字母。"),
    "seedbench": llava_seed,
    "qbench": llava_qbench,
    "llava-bench": lambda doc: doc["question"],
    "mmvet": lambda doc: doc["question"],
}


def check_golden(path: Path, text: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", sorted(configured_rows()))
def test_what_the_engine_is_sent(
    name: str,
    scored: Callable[..., tuple[EvaluationResult, FakeEngine]],
    fixtures: dict[str, Fixture],
    tiny_engine: Engine,
    root: Path,
) -> None:
    _, engine = scored(name, lambda _: "A")
    asked = {shown_in(request): request for request in engine.asked}
    parts = []
    for number in sorted(asked)[:2]:
        request = asked[number]
        prompt = tiny_engine.adapter.prompt(request)
        parts.append(f"{prompt}\n[pictures: {len(request.images)}, new tokens: {request.max_new_tokens}]\n")
    check_golden(root / "tests" / "golden" / "benchmarks" / f"{name}.txt", "\n".join(parts))
    docs = fixtures[name].parts[0].rows
    assert {n: request.text for n, request in asked.items()} == {n: LLAVA[name](docs[n]) for n in asked}


def test_a_system_message_is_what_lmms_eval_itself_sends() -> None:
    """`system` of a model's row serves PRISM and the general benchmarks: only where both send the same."""
    rows = {row.family: row.system for row in load(config_files()).models.values() if row.system is not None}
    assert list(rows) == ["gemma3"]
    from lmms_eval import models

    source = (Path(models.__file__).parent / "simple" / "gemma3.py").read_text(encoding="utf-8")
    assert f'system_prompt: Optional[str] = "{rows["gemma3"]}"' in source
