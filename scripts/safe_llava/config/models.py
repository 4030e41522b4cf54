"""The ``models`` section: every model that PRISM and the general benchmarks evaluate."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Name, Place, Row

REPOSITORY = r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$"
# Keys of a model's row that say where its checkpoint comes from.
SOURCES = ("train", "weights", "hub", "folder")


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
    hub: str | None = Field(
        None,
        pattern=REPOSITORY,
        description="Name of a Hugging Face repository, `organisation/name`: a data set row is made for it.",
    )
    revision: str | None = Field(None, description="Commit of `hub`; null: not pinned yet.")
    folder: Place | None = Field(None, description="Folder with a checkpoint of your own; nothing is fetched for it.")
    vision_tower: Name | None = Field(
        None, description="Data set row of the vision tower, for a checkpoint to convert that may lack its own."
    )
    published_as: str | None = Field(None, description="Its name in the published tables; null: the row's own name.")
    accelerator: Literal["gpu", "cpu"] = Field("gpu", description="What answering runs on.")
    family: Literal[
        "llava", "llava_next", "llava_onevision", "llava_qwen", "gemma3", "qwen2_5_vl", "internvl", "internvl_chat"
    ] = Field(
        description="The adapter that turns a question into the model's input; llava_qwen and internvl_chat are "
        "formats of their publishers', converted before they are asked."
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
    backend: Literal["auto", "vllm", "transformers"] = Field(
        "auto",
        description="What generates; auto: vLLM on a GPU, where it is installed and has the family, else transformers.",
    )
    batch_size: int = Field(
        64,
        ge=1,
        description="Questions that the transformers back end answers at once where it does not read each image "
        "once for all of its questions; where it does, the GPU's memory decides.",
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Tokens of prompt and answer that vLLM makes room for; null: as the checkpoint says."
    )
    gpu_memory: float = Field(0.9, gt=0, le=1, description="Share of the GPU's memory that vLLM may take.")
    template: Literal["known", "recorded"] = Field(
        "known",
        description="known: the prompts are golden files of this project; recorded: the checkpoint's own template was "
        "not seen, and what it gives is written beside the answers on first use.",
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with the checkpoint; off unless asked for.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [name for name in SOURCES if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(f"one of {', '.join(SOURCES)} says where the model comes from, the others are null")
        if self.revision is not None and self.hub is None:
            raise ValueError("`revision` is that of `hub`; a data set row carries its own")
        return self

    def budget(self, edition: str) -> TokenBudget:
        """Return the new tokens that an edition's tasks may take."""
        return self.new_tokens_by_edition.get(edition, self.new_tokens)
