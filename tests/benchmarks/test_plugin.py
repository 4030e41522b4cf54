"""The model plug-in and what is computed from lmms-eval's results."""

from __future__ import annotations

import math
from typing import Any

import pytest

from safe_llava.benchmarks.plugin import until
from safe_llava.benchmarks.registration import manifest
from safe_llava.benchmarks.results import f1_of_yes, normalise
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError


def test_the_registry_of_lmms_eval_takes_the_model() -> None:
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("safe_llava").__name__ == "SafeLlava"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "one\n\ntwo ASSISTANT: three"),
        ({"until": None}, "one\n\ntwo ASSISTANT: three"),
        ({"until": "ASSISTANT:"}, "one\n\ntwo "),
        ({"until": ["", "ASSISTANT:", "\n\n"]}, "one"),
    ],
)
def test_answers_end_at_stop_strings(settings: dict[str, Any], expected: str) -> None:
    assert until("one\n\ntwo ASSISTANT: three", settings) == expected


def test_f1_by_hand() -> None:
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), ("maybe", "yes")]
    rows = [{"prediction": said, "ground_truth": true} for said, true in pairs]
    assert f1_of_yes(rows) == pytest.approx(2 * 1 / (2 + 3))
    assert f1_of_yes(rows[2:]) == 0.0


def raw(value: Any) -> dict[str, Any]:
    return {
        "results": {"gqa": {"alias": "gqa", "exact_match,none": value, "exact_match_stderr_clt,none": 0.5}},
        "samples": {"gqa": [{"doc": {}, "exact_match": 1.0}, {"doc": {}, "exact_match": 0.0}]},
    }


def row(**changes: Any) -> BenchmarkTask:
    fixed = {"description": "d", "lmms_task": "gqa", "dataset": "benchmark-gqa", "metric": "exact_match"}
    return BenchmarkTask.model_validate({**fixed, **changes})


def test_scores_are_on_the_published_scale() -> None:
    assert normalise(raw(0.5), row()) == {"exact_match": {"score": 50.0, "stderr": 50.0}}
    assert normalise(raw(0.5), row(scale=1)) == {"exact_match": {"score": 0.5, "stderr": 0.5}}
    assert normalise(raw(0.7), row())["exact_match"]["stderr"] is None, "0.7 is not the mean of the samples"


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="exact_match is nan"):
        normalise(raw(math.nan), row())
    with pytest.raises(BenchmarkError, match="no metric `exact_match`"):
        normalise(raw("N/A"), row())
