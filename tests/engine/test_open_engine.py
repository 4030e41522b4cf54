"""Which back end answers a row."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import EngineError
from safe_llava.engine import open_engine
from safe_llava.engine.base import backend_of

real_find_spec = importlib.util.find_spec


@pytest.fixture(params=[True, False], ids=["with vLLM", "without vLLM"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    spec = importlib.machinery.ModuleSpec("vllm", None) if request.param else None

    def find_spec(name: str, package: str | None = None) -> Any:
        return spec if name == "vllm" else real_find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return bool(request.param)


@pytest.mark.parametrize(
    ("backend", "accelerator", "device", "with_vllm", "without"),
    [
        ("auto", "gpu", "auto", "vllm", "transformers"),
        ("auto", "cpu", "auto", "transformers", "transformers"),
        ("auto", "gpu", "cpu", "transformers", "transformers"),
        ("auto", "cpu", "cuda:1", "vllm", "transformers"),
        ("transformers", "gpu", "auto", "transformers", "transformers"),
        ("vllm", "gpu", "auto", "vllm", "vllm"),
    ],
)
def test_the_back_end_is_known_beforehand(
    row: EvaluatedModel, there: bool, backend: str, accelerator: str, device: str, with_vllm: str, without: str
) -> None:
    changed = row.model_copy(update={"backend": backend, "accelerator": accelerator})
    assert backend_of(changed, device) == (with_vllm if there else without)


def test_a_family_that_was_not_tried_takes_transformers(
    row: EvaluatedModel, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_llava.engine.base.VLLM_FAMILIES", frozenset())
    assert backend_of(row, "cuda") == "transformers"


def test_vllm_that_is_wanted_and_not_there(tiny_llava: Path, row: EvaluatedModel, there: bool) -> None:
    wanted = row.model_copy(update={"backend": "vllm"})
    if there:
        pytest.skip("it is there")
    with pytest.raises(EngineError, match=r"vLLM is not installed[\s\S]*backend: auto"):
        open_engine(tiny_llava, wanted, device="cpu")


def test_a_cpu_answers_through_transformers(tiny_llava: Path, row: EvaluatedModel) -> None:
    described = open_engine(tiny_llava, row, device="cpu", threads=1).describe()
    assert described["backend"] == backend_of(row, "cpu") == "transformers"
