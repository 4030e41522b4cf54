"""The ``paper`` section: which tables and figures are made, and which models are set side by side."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Name, Once, Row

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

    def __str__(self) -> str:
        return f"{self.safe}, {self.original}"

    @model_validator(mode="after")
    def _of_two(self) -> Self:
        if self.safe == self.original:
            raise ValueError(f"`{self.safe}` is compared with itself")
        return self


class Examples(Row):
    """The contact sheet of test images with every model's answers."""

    count: int = Field(3, ge=1, le=8, description="How many images it shows.")
    seed: int = Field(42, description="Seed of the draw of the images.")


class PaperConfig(Row):
    """The tables and figures of the paper."""

    tables: Annotated[list[TableKind], Once] = Field(description="Tables to make, each as Markdown and LaTeX.")
    figures: Annotated[list[FigureKind], Once] = Field(description="Figures to make.")
    formats: Annotated[list[Literal["pdf", "png"]], Once] = Field(
        min_length=1, description="File formats of the figures."
    )
    compare: Annotated[list[Comparison], Once] = Field(
        description="Pairs of models, set side by side question by question in each stage that both are selected for."
    )
    examples: Examples = Field(description="The contact sheet of test images with every model's answers.")
