"""The table of the audit: how often the annotations mention an attribute of people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safe_llava.formats.tables import Count, Text


@dataclass(frozen=True)
class MentionCount:
    """How often one set of annotations mentions one attribute.

    Args:
        pair: the safe set, which names the pair.
        dataset: the set that was counted.
        role: which of the pair it is.
        part: all samples, or those with an image.
        measure: how it was counted; ``published``: how is unknown.
        n_samples, n_answers: how many there are.
        samples, answers: how many of them mention it.
        source: whether it was counted here.
    """

    pair: Text
    dataset: Text
    role: Literal["original", "safe"]
    part: Text
    measure: Text
    attribute: Text
    n_samples: Count
    samples: Count
    n_answers: Count
    answers: Count
    source: Literal["computed", "published"]
