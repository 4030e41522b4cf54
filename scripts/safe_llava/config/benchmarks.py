"""The ``benchmarks`` section: the general benchmarks, each a task of lmms-eval."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from safe_llava.config.base import Name, Once, Row

FieldType = Literal["integer", "string"]
ImagesShown = Literal["all", "middle", "none"]


class BenchmarkTask(Row):
    """A general benchmark."""

    description: str = Field(description="What the benchmark asks.")
    lmms_task: str = Field(min_length=1, description="Task of lmms-eval that has its prompt and its metric.")
    overrides: dict[str, JsonValue] = Field({}, description="Keys of the task's own file that are set otherwise.")
    pictures: ImagesShown = Field(
        "all",
        description="Which images of a question are shown; middle: of several (frames of a video) that one; none: "
        "the questions have none. Otherwise a question without an image is a failed one.",
    )
    dataset: Name = Field(description="Data set row with the questions.")
    metric: str = Field(min_length=1, description="The metric that stands for the benchmark, by lmms-eval's name.")
    more_metrics: list[str] = Field([], description="Metrics that the tables show beside it.")
    scale: float = Field(100.0, gt=0, description="lmms-eval's scores times this are on the published scale.")
    group_by: str | None = Field(
        None, description="Column of the data set whose equal values make one unit, such as the pairs of MME."
    )
    group_modulo: int | None = Field(
        None, ge=1, description="What `group_by` is taken modulo: MMBench numbers the turned copies of a question so."
    )
    group_size: int | None = Field(
        None,
        ge=2,
        description="Questions of a unit, where the metric takes only whole ones; a limit may cut one apart.",
    )
    published: dict[str, float] = Field({}, description="Scores published for LLaVA-1.5-7B, by metric.")
    noise: dict[str, float] = Field(
        {},
        description="By how much a score is known to move when all is done again, by metric; the note says from where.",
    )
    comparable: bool = Field(True, description="Whether the published scores were measured the same way.")
    not_comparable: dict[str, str] = Field(
        {}, description="Why a published score was not measured the same way, by metric, where the others were."
    )
    judged: bool = Field(False, description="Whether another model reads the answers.")
    judge: Name | None = Field(None, description="Row of prism.judges that reads them; null: that of the section.")
    judge_reply: str | None = Field(
        None, description="Regular expression that a judge's reply matches in full; another reply is a failure."
    )
    published_judge: str | None = Field(None, description="Who read the answers for the published score.")
    submission: bool = Field(False, description="Whether the task only writes a file for a server to score.")
    submission_fields: dict[str, FieldType] = Field(
        {}, description="What every entry of that file holds, first what names the question."
    )
    note: str = Field("", description="What a reader of the score has to know.")

    @property
    def metrics(self) -> list[str]:
        """Every metric that the tables show, the benchmark's own first."""
        return list(dict.fromkeys([self.metric, *self.more_metrics, *self.published]))

    @field_validator("judge_reply")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.comparable and not self.note:
            raise ValueError("a row with `comparable: false` says why in its `note`")
        if self.submission and not self.submission_fields:
            raise ValueError("a row with `submission: true` says what the file holds (`submission_fields`)")
        if self.judged and not self.judge_reply:
            raise ValueError("a row with `judged: true` says what a reply looks like (`judge_reply`)")
        return self


class ReleasedAnswers(Row):
    """A file of answers to a general benchmark that others released; its files lie under the data root."""

    benchmark: Name = Field(description="The benchmark's name in the table.")
    model: str = Field(min_length=1, description="Who answered.")
    scored_as: Literal["pope", "scienceqa", "seedbench", "llava-bench", "mmvet"] | None = Field(
        None, description="How the files are read and scored; null: not here, and the note says why."
    )
    answers: str = Field(min_length=1, description="The answers; for judged benchmarks what the judge said of them.")
    questions: str | None = Field(None, description="The questions.")
    labels: list[str] = Field([], description="Files with what is right, where the questions do not say it.")
    run: str = Field("", description="Which of several judgements of the same answers.")
    published: dict[str, float] = Field({}, description="Published scores of this model, by metric.")
    questions_published: dict[str, int] = Field(
        {}, description="How many questions a published score is of, by metric; other numbers are not compared."
    )
    note: str = Field("", description="What a reader of the score has to know.")

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.scored_as is None and not self.note:
            raise ValueError("answers that are not scored (`scored_as: null`) say why in their `note`")
        return self


class ReleasedBenchmarks(Row):
    """Answers to general benchmarks that others released."""

    dataset: Name = Field(description="Data set row with the files.")
    answers: list[ReleasedAnswers] = Field(description="What `results/tables/benchmarks_released.csv` scores.")


class BenchmarksSelect(Row):
    """What `snakemake benchmarks` evaluates."""

    models: Annotated[list[Name], Once] = Field(description="Rows of `models` that answer.")
    tasks: Annotated[list[Name], Once] = Field(description="Rows of benchmarks.tasks that are asked.")


class BenchmarksConfig(Row):
    """The general benchmarks."""

    select: BenchmarksSelect = Field(description="What `snakemake benchmarks` evaluates.")
    limit: int | None = Field(None, ge=1, description="Ask the first so many questions only; null: all of them.")
    judge: Name | None = Field(None, description="Row of prism.judges that reads the answers of judged benchmarks.")
    allow_failed: float = Field(
        0.0, ge=0, le=1, description="Fraction of the questions that may lack an answer where a score is published."
    )
    compare: Annotated[list[Name], Once] | None = Field(
        None, description="Models whose scores stand beside the published ones; null: all that are evaluated."
    )
    released: ReleasedBenchmarks | None = Field(None, description="Answers that others released, scored again.")
    tasks: dict[Name, BenchmarkTask] = Field(description="Benchmarks by name.")

    def judge_of(self, name: str) -> str | None:
        """Return the name of the judge that reads a benchmark's answers; None where none is needed, or none named."""
        task = self.tasks[name]
        return (task.judge or self.judge) if task.judged else None
