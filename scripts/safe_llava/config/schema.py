"""The whole configuration as one typed tree."""

from __future__ import annotations

from pydantic import Field

from safe_llava.config.base import MirrorRoot, Name, Place, Row
from safe_llava.config.benchmarks import BenchmarksConfig
from safe_llava.config.costs import CostsConfig
from safe_llava.config.data import DataConfig
from safe_llava.config.demo import DemoConfig
from safe_llava.config.images import Images
from safe_llava.config.models import EvaluatedModel
from safe_llava.config.paper import PaperConfig
from safe_llava.config.prism import PrismConfig
from safe_llava.config.train import TrainConfig


class Config(Row):
    """Every setting of a run of the workflow."""

    results: Place = Field(description="Folder of all results, relative to the working directory.")
    mirrors: list[MirrorRoot] = Field(
        [],
        description="Folders or addresses, laid out as `<host>/<path>`, that are asked before a file's origin; "
        "the environment variable SAFE_LLAVA_MIRRORS adds to them.",
    )
    images: Images = Field(Images(), description="Apptainer images by environment (docs/images.md).")
    models: dict[Name, EvaluatedModel] = Field(description="Models that PRISM and the benchmarks evaluate, by name.")
    data: DataConfig = Field(description="The data stage.")
    train: TrainConfig = Field(description="The train stage.")
    prism: PrismConfig = Field(description="The prism stage.")
    benchmarks: BenchmarksConfig = Field(description="The benchmarks stage.")
    paper: PaperConfig = Field(description="The paper stage.")
    costs: CostsConfig = Field(CostsConfig(), description="What `snakemake costs` needs to know to speak of money.")
    demo: DemoConfig | None = Field(None, description="Checks of the experiment in small; null outside the demo.")
