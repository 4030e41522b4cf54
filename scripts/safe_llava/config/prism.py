"""The ``prism`` section: editions of the benchmark, judges, and what is evaluated."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Address, Name, Once, Place, Row

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


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


class Price(Row):
    """What a model behind an API costs."""

    input: float = Field(ge=0, description="US dollars for a million tokens of prompts.")
    output: float = Field(ge=0, description="US dollars for a million tokens of replies, reasoning among them.")


class Judge(Row):
    """Who reads an answer and says what it gives away."""

    description: str = Field(description="What the judge is, for the tables' notes.")
    kind: Literal["rules", "openai", "gemini"] = Field(
        description="rules: the lexicon of this project, offline; openai: OpenAI or any endpoint compatible with it; "
        "gemini: Gemini's own API."
    )
    published_as: str | None = Field(None, description="Published judge whose figures stand beside this one's.")
    base_url: Address | None = Field(None, description="Address of the endpoint; null: that of OpenAI or Gemini.")
    model: str | None = Field(None, description="Name of the model behind the endpoint, always pinned.")
    leakage_model: str | None = Field(None, description="Another model for the leakage task, where published so.")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature; null: not sent.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Cap on the tokens of a reply; null: not sent. Without a `base_url` it goes out as "
        "max_completion_tokens.",
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="The same under the name that newer models take, whatever the endpoint."
    )
    reasoning_effort: str | None = Field(
        None, description="How much a model behind an endpoint of kind openai reasons; null: not sent."
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of every request, as the endpoint names them."
    )
    key_env: str | None = Field(None, description="Environment variable that holds the key; null: no key is needed.")
    max_concurrency: int = Field(
        2000, ge=1, description="Most calls under way at once; no more are than the endpoint answers in good time."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="Calls a minute; null: as many as the endpoint takes, found by its replies."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Tokens a minute, of prompts and replies; null: as many as the endpoint takes."
    )
    retries: int = Field(6, ge=0, description="Further tries of a call that failed, with growing pauses.")
    asks_again: int = Field(3, ge=0, description="Further asks where a reply cannot be read.")
    timeout_s: float = Field(
        120.0,
        gt=0,
        description="Seconds that a call may take at most; one that takes 10 s and 5 times as long as the others is "
        "asked again before.",
    )
    patience_s: float = Field(
        300.0, gt=0, description="Seconds without a single reply, while calls fail, after which the run stops."
    )
    prices: Price | None = Field(None, description="Prices of `model`; null: unknown.")
    leakage_prices: Price | None = Field(None, description="Prices of `leakage_model`; null: unknown.")
    reply_tokens: int = Field(10, ge=1, description="Tokens of a reply, to estimate what a run costs before it starts.")
    max_cost: float | None = Field(
        None, ge=0, description="US dollars that this judge may cost, all its runs together; null: no bound."
    )
    prompts: Literal["ours", "published"] = Field(
        "ours", description="ours: the prompts of this project; published: upstream's, those of the answers' edition."
    )
    prompts_of: Literal["gpt", "gemini"] = Field("gpt", description="Whose published prompts.")
    batch: bool = Field(False, description="Ask through the batch API: half the price, within a day.")
    batch_poll_s: float = Field(60.0, gt=0, description="Seconds between looks at a batch.")
    batch_tries: int = Field(3, ge=1, description="Batches that a call is put in before it counts as failed.")
    batch_requests: int | None = Field(None, ge=1, description="Most calls of a batch; null: as many as the API takes.")

    @model_validator(mode="after")
    def _batches_are_of_an_api(self) -> Self:
        if self.batch and self.kind == "rules":
            raise ValueError("`batch` belongs to judges behind an API: a judge of kind `rules` has none")
        return self

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Self:
        # As a fault of the row, not of the key: the value is not repeated in the message.
        if self.key_env is not None and not VARIABLE.fullmatch(self.key_env):
            raise ValueError("`key_env` is the name of an environment variable in capitals, never the key itself")
        if self.base_url is not None and "@" in self.base_url.partition("://")[2].partition("/")[0]:
            raise ValueError("`base_url` holds a user or a password; name the variable of a key in `key_env`")
        return self

    @property
    def reply_cap(self) -> int | None:
        """The cap on the tokens of a reply, under whichever name it is sent."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("`max_tokens` and `max_completion_tokens` are one cap: set one of them")
        if self.reasoning_effort is not None and self.kind != "openai":
            raise ValueError("`reasoning_effort` belongs to judges of kind `openai`; use `extra_body`")
        if self.kind != "rules" and not self.model:
            raise ValueError(f"a judge of kind `{self.kind}` names its `model`")
        known = self.prices and (self.leakage_prices or not self.leakage_model)
        if self.max_cost is not None and self.kind != "rules" and not known:
            raise ValueError("`max_cost` needs the prices of each model (`prices`, `leakage_prices`)")
        return self


class PrismSelect(Row):
    """What `snakemake prism` evaluates."""

    models: Annotated[list[Name], Once] = Field(min_length=1, description="Rows of `models` that answer.")
    editions: Annotated[list[Name], Once] = Field(min_length=1, description="Rows of prism.editions that are asked.")
    judges: Annotated[list[Name], Once] = Field(min_length=1, description="Rows of prism.judges that read the answers.")


class AllowFailed(Row):
    """How much may be missing of what a table is made of; nothing, unless said otherwise."""

    answers: float = Field(0.0, ge=0, le=1, description="Fraction of the questions that may lack an answer.")
    verdicts: float = Field(0.0, ge=0, le=1, description="Fraction of the answers that may lack a verdict.")


class PrismConfig(Row):
    """The privacy benchmark."""

    select: PrismSelect = Field(description="What `snakemake prism` evaluates.")
    released_models: Annotated[list[Name], Once] = Field(
        description="Models whose released answers (v1) are judged and compared."
    )
    released_dataset: Name = Field(description="Data set row with the released answers.")
    editions: dict[Name, Edition] = Field(description="Editions by name.")
    judges: dict[Name, Judge] = Field(description="Judges by name.")
    new_tokens: Literal["published"] | Annotated[int, Field(ge=1)] = Field(
        "published", description="Budget of an answer: as published for each model and task, or one number for all."
    )
    allow_failed: AllowFailed = Field(
        default_factory=AllowFailed, description="What may be missing when a table of PRISM is made."
    )
    published: dict[Name, Place] = Field(description="Committed file of the published counts, by edition.")
