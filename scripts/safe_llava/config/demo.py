"""The ``demo`` section: what `make demo` checks about the experiment in small."""

from __future__ import annotations

from pydantic import Field

from safe_llava.config.base import Name, Row


class DemoConfig(Row):
    """The experiment in small: two models that differ in their annotations only, and what must come out."""

    truth: str = Field(
        description="File, under `results`, with the drawn attributes of every PRISM image of the miniature upstream."
    )
    safe: Name = Field(description="Row of `models` that was trained on the cleaned annotations.")
    original: Name = Field(description="Row of `models` that was trained on the original annotations.")
    benchmark: Name = Field(description="Row of benchmarks.tasks whose accuracy is compared.")
