"""No table while answers or verdicts are missing: a rate over the rest would mean something else.

Missing answers (of the model) and missing verdicts (of the judge) are counted separately: the next run asks both again,
in different steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute
from safe_llava.formats.scores import Score

MOST_NAMED = 5  # cells in the message
ALLOWED_HELP = "fraction of a cell's %s that may be missing"


@dataclass(frozen=True)
class Allowed:
    """Which fraction of a cell may be missing: of its questions an answer, of its answers a verdict."""

    answers: float = 0.0
    verdicts: float = 0.0


def missing_parts(score: Score) -> tuple[float, float]:
    """Return which fraction of a cell's questions has no answer, and of its answers no verdict."""
    unanswered, unjudged = score.n_unanswered or 0, score.n_unjudged or 0
    answered = (score.n or 0) + unjudged
    asked = answered + unanswered
    return unanswered / asked if asked else 0.0, unjudged / answered if answered else 0.0


def refuse_incomplete(scores: Sequence[Score], allowed: Allowed) -> None:
    """Make sure that no computed cell lacks more than is allowed.

    Raises:
        PrismError: naming the cells, how much each lacks and why, and what to do about it.
    """
    faults = []
    for score in scores:
        # The aggregates rest on the same answers as the five attributes.
        if score.source != "computed" or score.attribute not in list(Attribute):
            continue
        answers, verdicts = missing_parts(score)
        if answers > allowed.answers or verdicts > allowed.verdicts:
            faults.append(_fault(score))
    if faults:
        more = f"\n  and {len(faults) - MOST_NAMED} more cells" if len(faults) > MOST_NAMED else ""
        raise PrismError(
            f"too much is missing for a table ({len(faults)} cells):\n  " + "\n  ".join(faults[:MOST_NAMED]) + more,
            "run it again: only what failed is asked again; what fails every time, such as an empty answer, needs a "
            "fraction in prism.allow_failed",
        )


def _fault(score: Score) -> str:
    unanswered, unjudged = score.n_unanswered or 0, score.n_unjudged or 0
    asked = (score.n or 0) + unanswered + unjudged
    where = f"{score.model}, {score.edition}, {score.task}, {score.attribute}, judge {score.judge}"
    why = f" ({score.reasons})" if score.reasons else ""
    return f"{where}: of {asked} questions {unanswered} have no answer, {unjudged} no verdict{why}"
