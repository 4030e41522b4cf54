"""The ``prism`` section: editions of the benchmark, judges, and what is evaluated."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Name, Row


class EditionPart(Row):
    """One split of an edition: its three question files and the folder of its images."""

    refusal_soft: str = Field(description="Question file of the soft refusal task, under data.root.")
    refusal_hard: str = Field(description="Question file of the hard refusal task, under data.root.")
    implicit_leakage: str = Field(description="Question file of the leakage task, under data.root.")
    images: str = Field(description="Folder that the `image` of a question is relative to, under data.root.")


class Edition(Row):
    """One edition of PRISM."""

    description: str = Field(description="What the edition is.")
    dataset: Name = Field(description="Data set row with the questions and images.")
    parts: list[EditionPart] = Field(min_length=1, description="The splits that are asked, one after another.")
    leakage_scored: Literal["own", "all"] = Field(
        description="own: a description is scored for the attribute of its folder; all: for all five."
    )


class Judge(Row):
    """Who reads an answer and says what it gives away."""

    description: str = Field(description="What the judge is, for the tables' notes.")
    kind: Literal["rules", "openai"] = Field(
        description="rules: the lexicon of this project, offline; openai: any OpenAI-compatible endpoint."
    )
    base_url: str | None = Field(None, description="Address of the endpoint; null: the OpenAI client's own.")
    model: str | None = Field(None, description="Name of the model behind the endpoint, always pinned.")
    leakage_model: str | None = Field(None, description="Another model for the leakage task, where published so.")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature; null: not sent.")
    key_env: str | None = Field(None, description="Environment variable that holds the key; null: no key is needed.")
    max_concurrency: int = Field(8, ge=1, description="Calls under way at once.")
    retries: int = Field(6, ge=0, description="Further tries of a call that failed, with growing pauses.")
    timeout_s: float = Field(120.0, gt=0, description="Seconds that a call may take before it counts as failed.")

    @model_validator(mode="after")
    def _model_named(self) -> Self:
        if self.kind == "openai" and not self.model:
            raise ValueError("a judge of kind `openai` names its `model`")
        return self


class PrismSelect(Row):
    """What `snakemake prism` evaluates."""

    models: list[Name] = Field(min_length=1, description="Rows of `models` that answer.")
    editions: list[Name] = Field(min_length=1, description="Rows of prism.editions that are asked.")
    judges: list[Name] = Field(min_length=1, description="Rows of prism.judges that read the answers.")


class PrismConfig(Row):
    """The privacy benchmark."""

    select: PrismSelect = Field(description="What `snakemake prism` evaluates.")
    released_models: list[Name] = Field(description="Models whose released answers (v1) are judged and compared.")
    released_dataset: Name = Field(description="Data set row with the released answers.")
    editions: dict[Name, Edition] = Field(description="Editions by name.")
    judges: dict[Name, Judge] = Field(description="Judges by name.")
    published: dict[Name, str] = Field(description="Committed file of the published counts, by edition.")
