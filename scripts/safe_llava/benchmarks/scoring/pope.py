"""POPE: its scores as sums over questions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from safe_llava.benchmarks.scoring.official import pope_answer
from safe_llava.benchmarks.scoring.units import ScoreKind, Units, as_units

POPE_MEAN = "pope_f1_mean"
POPE_KINDS: dict[str, ScoreKind] = {"pope_f1_score": "f1", "pope_precision": "precision", "pope_recall": "recall"}


class PopeAnswer(NamedTuple):
    """One question of POPE; ``truth`` is "yes" or "no", and ``category`` random, popular, adversarial, or empty."""

    name: str
    category: str
    reply: str
    truth: str


def pope_units(questions: Iterable[PopeAnswer], scale: float) -> dict[str, Units]:
    """Return POPE's scores by metric; the mean over categories only where every question has one."""
    rows = [(one, pope_answer(one.reply)) for one in questions]
    parts = [[float(said == one.truth == "yes"), float(said == "yes"), float(one.truth == "yes")] for one, said in rows]

    def units(kind: ScoreKind, values: list[list[float]]) -> Units:
        return as_units(
            kind, [(row[0].name, row[0].category, part) for row, part in zip(rows, values, strict=True)], scale
        )

    return {
        **{name: units(kind, parts) for name, kind in POPE_KINDS.items()},
        "pope_accuracy": units("mean", [[float(said == one.truth)] for one, said in rows]),
        "pope_yes_ratio": units("mean", [[said] for _, said, _ in parts]),
        **({POPE_MEAN: units("f1_of_strata", parts)} if all(one.category for one, _ in rows) else {}),
    }
