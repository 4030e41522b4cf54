"""The ``costs`` section: prices that only the user knows."""

from __future__ import annotations

from pydantic import Field

from safe_llava.config.base import Row


class CostsConfig(Row):
    """What `snakemake costs` needs to know to speak of money."""

    gpu_hour: float | None = Field(
        None, ge=0, description="US dollars for an hour of one GPU; null: not known, and no money is said for GPUs."
    )
