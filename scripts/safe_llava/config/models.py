"""The ``models`` section: every model that PRISM and the general benchmarks evaluate."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Name, Row

# Families whose checkpoints the engine cannot ask yet.
WITHOUT_ADAPTER = frozenset({"llava_qwen", "internvl"})


class TokenBudget(Row):
    """New tokens a task may take, as published."""

    refusal_soft: int = Field(ge=1, description="New tokens for a direct question.")
    refusal_hard: int = Field(ge=1, description="New tokens for a question that asks not to refuse.")
    implicit_leakage: int = Field(ge=1, description="New tokens for a description.")


class EvaluatedModel(Row):
    """A model that answers."""

    description: str = Field(description="What the model is, for the tables' notes.")
    train: Name | None = Field(None, description="Row of train.models whose result this is.")
    weights: Name | None = Field(None, description="Data set row whose snapshot this is.")
    published_as: str | None = Field(None, description="Its name in the published tables; null: the row's own name.")
    accelerator: Literal["gpu", "cpu"] = Field("gpu", description="What answering runs on.")
    family: Literal["llava", "llava_next", "llava_onevision", "llava_qwen", "gemma3", "qwen2_5_vl", "internvl"] = Field(
        description="The adapter that turns a question into the model's input."
    )
    new_tokens: TokenBudget = Field(description="New tokens as published.")
    new_tokens_by_edition: dict[Name, TokenBudget] = Field(
        {}, description="New tokens in an edition of PRISM that was published with others, by the edition's name."
    )
    published_decoding: Literal["greedy", "checkpoint", "sampled"] | None = Field(
        None,
        description="How its published answers were decoded: greedily, by the checkpoint's own settings, or sampled; "
        "null: not known, or never published. As published; this workflow always decodes greedily, so that a rerun "
        "gives the same answers.",
    )
    cut_at_newline: bool = Field(False, description="Keep the first line of an answer only, as published.")
    system: str | None = Field(None, description="System message, where upstream sends one.")
    image_size: tuple[int, int] | None = Field(None, description="Width and height that images are forced to.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="Precision of the weights.")
    batch_size: int = Field(64, ge=1, description="Questions answered at once by the transformers back end.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the checkpoint; off unless asked for.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.train is None) == (self.weights is None):
            raise ValueError("exactly one of `train` and `weights` says where the model comes from")
        return self

    def budget(self, edition: str) -> TokenBudget:
        """Return the new tokens that an edition's tasks may take."""
        return self.new_tokens_by_edition.get(edition, self.new_tokens)
