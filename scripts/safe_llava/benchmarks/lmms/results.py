"""lmms-eval's results in one shape, with what every score is made of, and what is computed beyond them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from safe_llava.benchmarks.scoring.official import ANSWER_RULES, RULED, is_right, pope_answer
from safe_llava.benchmarks.scoring.pope import POPE_MEAN, PopeAnswer, pope_units
from safe_llava.benchmarks.scoring.units import ScoreKind, Units, as_units
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError

QBENCH_NAMED = "qbench_acc_named"
OWN = {POPE_MEAN: "pope_f1_score", QBENCH_NAMED: "qbench_acc"}  # scores that lmms-eval has not, by one that it has
MME = ("mme_perception_score", "mme_cognition_score")
# How far a score may be from its units: lmms-eval rounds LLaVA-Bench's means to a thousandth and their ratio to a tenth
# of a percent, and Q-Bench's score to 1e-5.
ROUNDED: dict[ScoreKind, float] = {"ratio": 0.07, "mean": 1e-5}

Samples = Sequence[Mapping[str, Any]]
Aggregate = Callable[[str, list[Any]], Any]  # metric and what process_results gave of some samples, to a score


def normalise_results(
    raw: Mapping[str, Any], task: BenchmarkTask, aggregate: Aggregate
) -> tuple[dict[str, dict[str, float | None]], dict[str, Units]]:
    """Return every score that lmms-eval computed, and our own, on the published scale, and their units.

    Args:
        raw: what ``simple_evaluate`` returned.
        task: the benchmark's row.
        aggregate: the task's own aggregation of a metric.

    Returns:
        ``{metric: {"score", "stderr"}}``, where stderr is None if none is known, and the units of those that have any.
        A metric for which no question counts (a limit may leave none) is not there.

    Raises:
        BenchmarkError: a score is not a finite number.
    """
    samples: Samples = raw["samples"][task.lmms_task]
    units = beyond(samples, task)
    metrics = {name: {"score": own.score(), "stderr": own.stderr()} for name, own in units.items()}
    for name, value in computed(raw, task).items():
        if name in units:
            continue
        if not math.isfinite(value):
            raise BenchmarkError(f"{task.lmms_task}: {name} is {value}", "look at the samples: none may be scored")
        found = units_of(name, value, samples, task, aggregate)
        metrics[name] = {"score": value * task.scale, "stderr": found.stderr() if found else None}
        if found:
            units[name] = found
    return metrics, units


def check_metrics(task: BenchmarkTask, computed_there: Collection[str]) -> None:
    """Check that a benchmark's metrics are among those that its task computes, and ours beyond them.

    Raises:
        BenchmarkError: one is not.
    """
    known = {*computed_there, *(own for own, other in OWN.items() if other in computed_there)}
    for name in [] if task.submission else task.metrics:
        if name not in known:
            raise BenchmarkError(
                f"{task.lmms_task}: no metric `{name}`", f"name one of these in the row: {', '.join(sorted(known))}"
            )


def computed(raw: Mapping[str, Any], task: BenchmarkTask) -> dict[str, float]:
    """Return the numbers among what lmms-eval computed, by metric."""
    found = {}
    for key, value in raw["results"][task.lmms_task].items():
        name, _, kind = key.partition(",")
        if kind and "_stderr" not in name and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def units_of(name: str, value: float, samples: Samples, task: BenchmarkTask, aggregate: Aggregate) -> Units | None:
    """Return what a score is made of, or None where that is not known: where the units do not give the score again."""
    having = [sample for sample in samples if name in sample]
    if name.startswith("gpt_eval_llava_"):
        scored = [sample for sample in having if -999 not in sample[name]["scores"]]
        rows = ((f"{sample['doc_id']}", "", sample[name]["scores"]) for sample in scored)
        found = as_units("ratio", rows, 100 * task.scale)
    else:
        found = as_units("mean", _single_rows(name, having, task, aggregate), task.scale)
    if not found.names:
        return None
    slack = ROUNDED[found.kind] * task.scale
    return found if math.isclose(found.score(), value * task.scale, rel_tol=1e-9, abs_tol=slack) else None


def beyond(samples: Samples, task: BenchmarkTask) -> dict[str, Units]:
    """Return the scores that are ours, as their units: by the benchmark's own rule, or without drawn answers."""
    if not samples:
        return {}
    if task.lmms_task in ANSWER_RULES:
        return _by_rule(samples, task)
    if all("pope_f1_score" in sample for sample in samples):
        return _pope(samples, task.scale)
    if all("qbench_acc" in sample for sample in samples):
        rows = ((f"{sample['doc_id']}", "", [float(_named(sample) and _is_right(sample))]) for sample in samples)
        return {QBENCH_NAMED: as_units("mean", rows, task.scale)}
    return {}


def _pope(samples: Samples, scale: float) -> dict[str, Units]:
    return pope_units(
        (
            PopeAnswer(
                f"{one['doc_id']}", str(one["doc"].get("category", "")), str(one["filtered_resps"][0]), _pope_truth(one)
            )
            for one in samples
        ),
        scale,
    )


def _pope_truth(sample: Mapping[str, Any]) -> str:
    return str(sample["pope_f1_score"]["ground_truth"])


def _by_rule(samples: Samples, task: BenchmarkTask) -> dict[str, Units]:
    """Return the scores of a benchmark whose replies are read by its own script's rule."""
    if task.lmms_task != "mme":
        found: dict[str, Units] = {}
        for name in RULED.get(task.lmms_task, ("exact_match",)):
            rows = [(f"{one['doc_id']}", "", [float(is_right(one, task.lmms_task))]) for one in samples if name in one]
            found |= {name: as_units("mean", rows, task.scale)} if rows else {}
        return found
    by_metric = {name: [one for one in samples if name in one] for name in MME}
    return {
        name: as_units("sum_of_means", _mme_pairs(having, name, task), task.scale)
        for name, having in by_metric.items()
        if having
    }


def _mme_pairs(samples: Samples, name: str, task: BenchmarkTask) -> list[tuple[str, str, list[float]]]:
    """Return the pairs of MME: accuracy and whether both are right, each worth 100 points."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for sample in samples:
        pairs.setdefault((str(sample[name]["category"]), str(sample[name]["question_id"])), []).append(sample)
    rows = []
    for (category, _), pair in pairs.items():
        right = [is_right(sample, task.lmms_task) for sample in pair]
        points = 100 * sum(right) / len(right) + 100 * all(right)
        rows.append((unit_name(pair[0]["doc"], pair[0]["doc_id"], task), category, [points]))
    return rows


def _single_rows(
    name: str, samples: Samples, task: BenchmarkTask, aggregate: Aggregate
) -> list[tuple[str, str, list[float]]]:
    """Return the score of every unit by itself, by the task's own aggregation."""
    groups: dict[str, list[Any]] = {}
    for sample in samples:
        groups.setdefault(unit_name(sample["doc"], sample["doc_id"], task), []).append(sample[name])
    rows = []
    for unit, values in groups.items():
        with contextlib.redirect_stdout(io.StringIO()):  # some tasks print a table each time
            score = values[0] if len(values) == 1 and _is_number(values[0]) else aggregate(name, values)
        if not _is_number(score):
            return []
        rows.append((unit, "", [float(score)]))
    return rows


def unit_name(doc: Mapping[str, Any], doc_id: int, task: BenchmarkTask) -> str:
    """Return the name of the unit that a question belongs to."""
    if task.group_by is None:
        return f"{doc_id}"
    value = doc[task.group_by]
    return f"{int(value) % task.group_modulo if task.group_modulo else value}"


def _named(sample: Mapping[str, Any]) -> bool:
    """Return whether an answer to Q-Bench names an option, by letter or, if it is longer, in words.

    Where none is named, lmms-eval draws one. The letters are found as it finds them.
    """
    reply, doc = str(sample["filtered_resps"][0]), sample["doc"]
    options = [doc[f"option{place}"] for place in range(4) if doc.get(f"option{place}") not in (None, "N/A")]
    for mark in ",.!?;:'":  # one after another, as lmms-eval strips them
        reply = reply.strip(mark)
    shown = f" {reply} "
    letters = [chr(ord("A") + place) for place in range(len(options))]
    if any(f"({letter})" in shown or f"{letter} " in shown or f"{letter}." in shown for letter in letters):
        return True
    return len(shown.split()) > 5 and any(option.lower() in shown.lower() for option in options)


def _is_right(sample: Mapping[str, Any]) -> bool:
    return bool(sample["qbench_acc"]["parsed_pred"] == sample["qbench_acc"]["answer"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sample_rows(
    raw: Mapping[str, Any], task: BenchmarkTask, model: str, benchmark: str, *, judged_all: bool = True
) -> list[dict[str, Any]]:
    """Return one row per question: what was asked, what was answered, how it was scored.

    Where a call of the judge has failed, none is scored: what the task made of the failure looks like a score.
    """
    named = computed(raw, task)
    rows = []
    for sample in raw["samples"][task.lmms_task]:
        judged = {
            key: value
            for name in named
            if isinstance(sample.get(name), Mapping)
            for key, value in sample[name].items()
            if key in ("eval_model", "review")
        }
        row = {
            "model": model,
            "benchmark": benchmark,
            "doc_id": sample["doc_id"],
            "unit": unit_name(sample["doc"], sample["doc_id"], task),
            "prompt": next((part for part in sample["arguments"] if isinstance(part, str)), ""),
            "target": sample["target"],
            "reply": sample["filtered_resps"][0],
            "status": "ok" if judged_all else "not judged",
            "scores": _scores(sample, named, task) if judged_all else {},
            **({"judged": judged} if judged else {}),
        }
        rows.append(json.loads(json.dumps(row, default=str)))
    return rows


def _scores(sample: Mapping[str, Any], named: Collection[str], task: BenchmarkTask) -> dict[str, float]:
    if "pope_f1_score" in sample:
        return {"pope_accuracy": float(pope_answer(sample["filtered_resps"][0]) == _pope_truth(sample))}
    numbers = {name: _number(sample[name]) for name in sample if name in named}
    if task.lmms_task in ANSWER_RULES:
        return dict.fromkeys(numbers, float(is_right(sample, task.lmms_task)))
    return {name: number for name, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    found = value.get("score") if isinstance(value, Mapping) else value
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
