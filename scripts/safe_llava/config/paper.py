"""The ``paper`` section: which tables and figures are made, and which models are set side by side."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from safe_llava.config.base import Name, Row

TableKind = Literal[
    "prism",
    "prism_released",
    "prism_paired",
    "prism_judges",
    "differences",
    "benchmarks",
    "benchmarks_paired",
    "audit",
    "costs",
]
FigureKind = Literal[
    "prism",
    "prism_released",
    "prism_paired",
    "prism_judges",
    "differences",
    "benchmarks",
    "benchmarks_paired",
    "training",
    "examples",
    "audit",
]


class Comparison(Row):
    """Two models that differ in their training annotations only."""

    safe: Name = Field(description="Row of `models` that was trained on the cleaned annotations.")
    original: Name = Field(description="Row of `models` that was trained on the original annotations.")


class Examples(Row):
    """The contact sheet of test images with every model's answers."""

    count: int = Field(3, ge=1, le=8, description="How many images it shows.")
    seed: int = Field(42, description="Seed of the draw of the images.")


class PaperConfig(Row):
    """The tables and figures of the paper."""

    tables: list[TableKind] = Field(description="Tables to make, each as Markdown and LaTeX.")
    figures: list[FigureKind] = Field(description="Figures to make.")
    formats: list[Literal["pdf", "png"]] = Field(min_length=1, description="File formats of the figures.")
    compare: list[Comparison] = Field(
        description="Pairs of models, set side by side question by question in each stage that both are selected for."
    )
    examples: Examples = Field(description="The contact sheet of test images with every model's answers.")
