"""lmms-eval's results in one shape, and what is computed beyond them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError

POPE_MEAN = "pope_f1_mean"


def normalise(raw: Mapping[str, Any], task: BenchmarkTask) -> dict[str, dict[str, float | None]]:
    """Return every score that lmms-eval computed, and our own, on the published scale.

    Args:
        raw: what ``simple_evaluate`` returned.
        task: the benchmark's row.

    Returns:
        ``{metric: {"score", "stderr"}}``; stderr is None where none is known.

    Raises:
        BenchmarkError: the benchmark's own metric is not there, or a score is not a finite number.
    """
    samples = raw["samples"][task.lmms_task]
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in raw["results"][task.lmms_task].items():
        name, _, kind = key.partition(",")
        if not kind or "_stderr" in name or isinstance(value, str | bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            raise BenchmarkError(f"{task.lmms_task}: {name} is {value}", "look at the samples: none may be scored")
        stderr = _stderr(raw["results"][task.lmms_task], name, kind, value, samples)
        metrics[name] = {"score": value * task.scale, "stderr": None if stderr is None else stderr * task.scale}
    if all("category" in sample["doc"] and "pope_f1_score" in sample for sample in samples):
        metrics[POPE_MEAN] = {"score": pope_f1_mean(samples) * task.scale, "stderr": None}
    if task.metric not in metrics:
        raise BenchmarkError(
            f"{task.lmms_task}: no metric `{task.metric}`", f"set `metric` to one of: {', '.join(sorted(metrics))}"
        )
    return metrics


def _stderr(
    results: Mapping[str, Any], name: str, kind: str, value: float, samples: Sequence[Mapping[str, Any]]
) -> float | None:
    """Return lmms-eval's standard error of a score, if the score is what that error is of: a mean over samples.

    Tasks with their own aggregation (POPE's F1 too) give the same numbers for every metric: of those only accuracy
    is their mean.
    """
    own = any(isinstance(sample.get(name), Mapping) for sample in samples)
    if own and not name.endswith(("accuracy", "_acc")):
        return None
    scores = [_number(sample[name]) for sample in samples if name in sample]
    found = results.get(f"{name}_stderr_clt,{kind}")
    if not isinstance(found, int | float) or not scores or None in scores:
        return None
    mean = statistics.fmean(score for score in scores if score is not None)
    return float(found) if math.isfinite(found) and math.isclose(mean, value, abs_tol=1e-9) else None


def _number(value: Any) -> float | None:
    found = value.get("score") if isinstance(value, Mapping) else value
    return float(found) if isinstance(found, int | float) else None


def pope_f1_mean(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean over POPE's categories of the F1 score of "yes", as LLaVA-1.5 publishes it."""
    by_category: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_category.setdefault(str(sample["doc"]["category"]), []).append(sample["pope_f1_score"])
    return statistics.fmean(f1_of_yes(rows) for rows in by_category.values())


def f1_of_yes(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the F1 score of "yes" over rows of ``prediction`` and ``ground_truth``; 0 where no yes is right."""
    hits = sum(row["prediction"] == "yes" == row["ground_truth"] for row in rows)
    said = sum(row["prediction"] == "yes" for row in rows)
    true = sum(row["ground_truth"] == "yes" for row in rows)
    return 2 * hits / (said + true) if hits else 0.0


def sample_rows(raw: Mapping[str, Any], task: BenchmarkTask, model: str, benchmark: str) -> list[dict[str, Any]]:
    """Return one row per question: what was asked, what was answered, how it was scored."""
    rows = []
    for sample in raw["samples"][task.lmms_task]:
        found = {name: _number(sample[name]) for name in sample if f"{name},none" in raw["results"][task.lmms_task]}
        row = {
            "model": model,
            "benchmark": benchmark,
            "doc_id": sample["doc_id"],
            "prompt": next((part for part in sample["arguments"] if isinstance(part, str)), ""),
            "target": sample["target"],
            "reply": sample["filtered_resps"][0],
            "status": "ok",
            "scores": {name: number for name, number in found.items() if number is not None},
        }
        rows.append(json.loads(json.dumps(row, default=str)))
    return rows
