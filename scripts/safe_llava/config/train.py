"""The ``train`` section: the models that the paper trains, as rows over one LLaVA-1.5 base."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Name, Once, Place, Row

StageName = Literal["pretrain", "finetune"]


class Lora(Row):
    """Low-rank adapters in place of the whole language model."""

    rank: int = Field(ge=1, description="Rank of the update matrices.")
    alpha: int = Field(ge=1, description="Scale of the update: it is multiplied by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the first matrix.")
    projector_learning_rate: float = Field(gt=0, description="Peak learning rate of the projector.")


class Stage(Row):
    """One of the two training stages."""

    annotations: Name = Field(description="Data set row that holds the annotation file.")
    template: Literal["plain", "v1", "qwen_1_5"] = Field(description="How a conversation becomes text.")
    image_geometry: Literal["crop", "pad", "resize"] = Field(
        description="crop: shortest edge, then centre crop; pad: pad to a square, then resize; resize: to a square."
    )
    trainable: list[Literal["projector", "language_model"]] = Field(description="What receives gradients.")
    order: Literal["shuffled", "modality_length"] = Field(
        description="shuffled, or grouped by modality and length as the original does when finetuning."
    )
    epochs: float = Field(gt=0, description="Passes over the annotations.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps; null: never.")
    global_batch: int = Field(ge=1, description="Samples an optimizer step, over all devices.")
    reference_group: int = Field(
        ge=1,
        description="Samples over which one token mean is taken (the original's batch on one device); "
        "the loss is the plain mean over these groups, whatever the number of devices.",
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    warmup_ratio: float = Field(ge=0, lt=1, description="Part of the steps with a rising learning rate.")
    weight_decay: float = Field(ge=0, description="Decoupled weight decay of AdamW.")
    adam_betas: tuple[float, float] = Field(description="Decay rates of AdamW's two moments.")
    adam_epsilon: float = Field(gt=0, description="AdamW's epsilon.")
    max_grad_norm: float = Field(gt=0, description="Gradients are clipped to this norm.")
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        description="What DeepSpeed partitions over the devices; auto: the least that fits their memory."
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        description="Recompute activations in the backward pass; auto: only if they do not fit."
    )
    offload_optimizer: Literal["auto"] | bool = Field(
        False, description="Keep AdamW's states and fp32 weights in the CPU's memory; auto: only if they do not fit."
    )


class Checkpoints(Row):
    """When a running stage saves itself."""

    every_steps: int = Field(ge=1, description="Optimizer steps between two checkpoints.")
    every_minutes: float = Field(gt=0, description="Minutes between two checkpoints.")
    keep: int = Field(2, ge=1, description="How many of the newest are kept.")


class TrainedModel(Row):
    """A model that this workflow trains."""

    description: str = Field(description="What the model is, for the tables' notes.")
    language_model: Name = Field(description="Data set row with the weights of the language model.")
    vision_tower: Name = Field(description="Data set row with the weights of the vision tower.")
    projector: Literal["linear", "mlp2x_gelu"] = Field(description="Map from image features to word embeddings.")
    vision_feature_layer: int = Field(description="Hidden state of the tower that is taken; -2 is the last but one.")
    vision_feature_select: Literal["patch", "full"] = Field(
        description="patch drops the class token; full keeps every position (SigLIP has no class token)."
    )
    max_length: int = Field(ge=8, description="Longest sequence in tokens, the image expanded.")
    precision: Literal["bf16", "fp32"] = Field(description="Compute precision; master weights are always fp32.")
    seed: int = Field(description="Seed of the order of samples and of new weights.")
    accelerator: Literal["gpu", "cpu"] = Field("gpu", description="What training runs on.")
    processes: int = Field(ge=1, description="Training processes in all: one a GPU, or CPU processes without one.")
    nodes: int = Field(
        1, ge=1, description="Machines over which the processes are spread evenly; more than one needs SLURM."
    )
    checkpoints: Checkpoints = Field(description="When a running stage saves itself.")
    loss_limit: float | None = Field(
        None, gt=1, description="Stop when a step's loss is above this multiple of its running mean; null: never."
    )
    lora: Lora | None = Field(None, description="Adapters in place of full finetuning; null trains everything.")
    pretrain: Stage = Field(description="The first stage: the projector alone, on captions.")
    finetune: Stage = Field(description="The second stage: projector and language model, on conversations.")

    @model_validator(mode="after")
    def _spread_evenly(self) -> Self:
        if self.processes % self.nodes:
            raise ValueError(f"{self.processes} processes do not spread evenly over {self.nodes} nodes")
        return self

    def identity(self, stage: StageName) -> dict[str, Any]:
        """Return, as JSON values without the defaults, what changes a number of a stage: a run is another one by it."""
        unseen = {"description", "processes", "nodes", "checkpoints", "loss_limit"}
        unseen.add("pretrain" if stage == "finetune" else "finetune")
        if "language_model" not in getattr(self, stage).trainable:
            unseen.add("lora")
        return self.model_dump(mode="json", exclude=unseen, exclude_defaults=True)


class TrainSelect(Row):
    """What `snakemake train` makes."""

    models: Annotated[list[Name], Once] = Field(description="Rows of train.models to train.")


class TrainConfig(Row):
    """The models that the paper trains."""

    select: TrainSelect = Field(description="What `snakemake train` makes.")
    models: dict[Name, TrainedModel] = Field(
        description="Trained models by name. A row may say `inherits: OTHER` and give only what differs; "
        "a name that begins with `base-` is a template that is never trained."
    )
    checkpoint_root: Place = Field(
        "checkpoints",
        description="Folder for checkpoints of running work, under `results` unless absolute; no rule owns it, so a "
        "failed job never loses it.",
    )
    checkpoint_gb_per_s: float | None = Field(
        None,
        gt=0,
        description="Decimal gigabytes a second at which a job writes to that folder: how long before its time limit a "
        "training is told to save itself follows from it, until a first checkpoint has shown it. null: what was "
        "measured on a RAM disk (`config/measured.yaml`), with a larger margin.",
    )
