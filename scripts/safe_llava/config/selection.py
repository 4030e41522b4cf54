"""Which data sets a selection needs: what `snakemake data` fetches, what a plan lists, what a bundle holds.

Cheap, and without any import that is not: the workflow asks it while the rules are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from safe_llava.config.data import ResolvedSet, resolve_set
from safe_llava.config.paper import Comparison
from safe_llava.config.schema import Config
from safe_llava.config.train import StageName

STAGES = get_args(StageName)
# The files of config/: what users change most, then the rows.
FILES = ("config", "datasets", "data.lock", "models", "train", "prism", "benchmarks")
ROOT = Path(__file__).resolve().parents[3]


def config_files(more: Iterable[Path | str] = (), root: Path = ROOT) -> list[Path]:
    """Return the project's configuration files, then those that are laid over them."""
    own = [root / "config" / f"{name}.yaml" for name in FILES]
    return [*own, *(path for path in map(Path, more) if path.resolve() not in own)]


def compared(config: Config, models: Iterable[str]) -> list[Comparison]:
    """Return the pairs of `paper.compare` of which both models are among these."""
    known = set(models)
    return [pair for pair in config.paper.compare if {pair.safe, pair.original} <= known]


def checked_sets(config: Config) -> list[str]:
    """Return the names of the selected data sets whose images are checked before any GPU is reserved, in order."""
    stages = [getattr(config.train.models[name], stage) for name in config.train.select.models for stage in STAGES]
    wanted = {stage.annotations for stage in stages}
    wanted |= {config.prism.editions[name].dataset for name in config.prism.select.editions}
    return [name for name in config.data.sets if name in wanted]


def needed_sets(config: Config) -> list[str]:
    """Return the names of the data sets that the selected models, editions, judges and benchmarks need, in order."""
    data, prism, benchmarks = config.data.sets, config.prism, config.benchmarks
    wanted = set(checked_sets(config))
    for name in config.train.select.models:
        wanted |= {config.train.models[name].language_model, config.train.models[name].vision_tower}
    for name in (*prism.select.models, *benchmarks.select.models):
        wanted |= {config.models[name].weights or "", config.models[name].vision_tower or ""}
    wanted |= {benchmarks.tasks[name].dataset for name in benchmarks.select.tasks}
    if prism.released_models:
        wanted.add(prism.released_dataset)
    if any(prism.judges[name].prompts == "published" for name in prism.select.judges):
        wanted |= {name for name, row in data.items() if row.kind == "prompts"}
    for name in list(wanted):
        wanted |= set(data[name].needs) if name else set()
    if "audit" in (*config.paper.tables, *config.paper.figures):
        wanted |= set(config.data.audit.sets)  # without their images: only the texts are read
    return [name for name in data if name in wanted]


def needed(config: Config) -> list[ResolvedSet]:
    """Return the needed sets, expanded and pinned; of the released answers, those of the models that are asked for."""
    prism = config.prism
    found = []
    for name in needed_sets(config):
        resolved = resolve_set(name, config.data.sets[name], config.data.pins, config.data.revisions)
        if name == prism.released_dataset:
            # The folder of a file is its model, as the workflow takes it.
            files = [file for file in resolved.files if Path(file.path).parent.name in prism.released_models]
            resolved = resolved.model_copy(update={"files": files})
        found.append(resolved)
    return found
