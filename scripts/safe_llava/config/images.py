"""The Apptainer images: which are used, and how they are built."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Place, PlaceOrAddress, Row

REGISTRY = r"^[a-z][a-z0-9+.-]*://[^/\s]+\S*$"


class Images(Row):
    """Apptainer images by environment; used where Snakemake runs with `--sdm apptainer` (docs/images.md)."""

    folder: Place = Field("containers/images", description="Folder of the images that `snakemake images` makes.")
    wheels: Literal["cuda", "cpu"] = Field("cuda", description="The packages of the train and eval images.")
    flash_attn: bool = Field(
        False,
        description="Compile flash-attn into the train image, which takes hours on a few cores; without it training "
        "takes torch's own attention, which is as fast.",
    )
    base: str | None = Field(
        None,
        description="Base of the images: `docker://NAME@sha256:…`, or a folder or .sif file here; "
        "null: that of containers/base.yaml.",
    )
    registry: str | None = Field(
        None,
        pattern=REGISTRY,
        description="Where the images are pulled from instead of being built, such as `oras://HOST/FOLDER`: "
        "the image of a name has its tag there.",
    )
    train: PlaceOrAddress | None = Field(
        None, description="An image of your own for the train stage; null: that of `folder`."
    )
    eval: PlaceOrAddress | None = Field(None, description="An image of your own for the prism and benchmarks stages.")
    paper: PlaceOrAddress | None = Field(None, description="An image of your own for the data and paper stages.")

    @model_validator(mode="after")
    def _flash_attn_is_for_gpus(self) -> Self:
        if self.flash_attn and self.wheels == "cpu":
            raise ValueError("`flash_attn: true` goes with `wheels: cuda` alone; leave it out")
        return self
