"""The ``benchmarks`` section: the general benchmarks, each a task of lmms-eval."""

from __future__ import annotations

from typing import Self

from pydantic import Field, JsonValue, model_validator

from safe_llava.config.base import Name, Row


class BenchmarkTask(Row):
    """A general benchmark."""

    description: str = Field(description="What the benchmark asks.")
    lmms_task: str = Field(min_length=1, description="Task of lmms-eval that has its prompt and its metric.")
    overrides: dict[str, JsonValue] = Field({}, description="Keys of the task's own file that are set otherwise.")
    dataset: Name = Field(description="Data set row with the questions.")
    metric: str = Field(min_length=1, description="The metric that stands for the benchmark, by lmms-eval's name.")
    more_metrics: list[str] = Field([], description="Metrics that the tables show beside it.")
    scale: float = Field(100.0, gt=0, description="lmms-eval's scores times this are on the published scale.")
    published: dict[str, float] = Field({}, description="Scores published for LLaVA-1.5-7B, by metric.")
    comparable: bool = Field(True, description="Whether the published scores were measured the same way.")
    judged: bool = Field(False, description="Whether another model reads the answers.")
    submission: bool = Field(False, description="Whether the task only writes a file for a server to score.")
    note: str = Field("", description="What a reader of the score has to know.")

    @property
    def scored_elsewhere(self) -> str | None:
        """Why this workflow cannot score the benchmark; None where it can."""
        if self.judged:
            return "its answers are read by a judge, which is not supported yet"
        return "only a server can score it" if self.submission else None

    @property
    def metrics(self) -> list[str]:
        """Every metric that the tables show, the benchmark's own first."""
        return list(dict.fromkeys([self.metric, *self.more_metrics, *self.published]))

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.comparable and not self.note:
            raise ValueError("a row with `comparable: false` says why in its `note`")
        return self


class BenchmarksSelect(Row):
    """What `snakemake benchmarks` evaluates."""

    models: list[Name] = Field(description="Rows of `models` that answer.")
    tasks: list[Name] = Field(description="Rows of benchmarks.tasks that are asked.")


class BenchmarksConfig(Row):
    """The general benchmarks."""

    select: BenchmarksSelect = Field(description="What `snakemake benchmarks` evaluates.")
    limit: int | None = Field(None, ge=1, description="Ask the first so many questions only; null: all of them.")
    compare: list[Name] | None = Field(
        None, description="Models whose scores stand beside the published ones; null: all that are evaluated."
    )
    tasks: dict[Name, BenchmarkTask] = Field(description="Benchmarks by name.")
