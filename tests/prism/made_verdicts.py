"""Verdicts as the tests of scores need them: of descriptions, and of direct questions, on numbered photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safe_llava.formats.prism import Verdict


def description(image: int, index: int, leaked: Sequence[str] | None, part: str = "All", **changes: Any) -> Verdict:
    """Return a verdict on one description of a photo; None for ``leaked`` is a failure."""
    row = {
        "edition": "v2" if part == "All" else "v1",
        "model": "m",
        "task": "implicit_leakage",
        "judge": "j",
        "status": "failed" if leaked is None else "judged",
        "question_id": f"{part}/{image:05d}.jpg",
        "image": f"{image:05d}.jpg",
        "attribute": part,
        "index": index,
        "leaked": leaked,
        "description_refused": None if leaked is None else False,
    }
    return Verdict.model_validate(row | changes)


def question(image: int, attribute: str, refused: bool | None, **changes: Any) -> Verdict:
    """Return a verdict on a direct question about one attribute; None for ``refused`` is a failure."""
    row = {
        "edition": "v2",
        "model": "m",
        "task": "refusal_soft",
        "judge": "j",
        "status": "failed" if refused is None else "judged",
        "question_id": f"{attribute}/{image:05d}.jpg",
        "image": f"{image:05d}.jpg",
        "attribute": attribute,
        "index": 0,
        "refused": refused,
    }
    return Verdict.model_validate(row | changes)
