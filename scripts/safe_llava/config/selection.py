"""Which data sets a selection needs: what `snakemake data` fetches, what a plan lists, what a bundle holds.

Cheap, and without any import that is not: the workflow asks it while the rules are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safe_llava.config.data import ResolvedSet, resolve_set
from safe_llava.config.schema import Config

# The files of config/ that the Snakefile names, in its order.
FILES = ("config", "datasets", "data.lock", "models", "train", "prism", "benchmarks")
ROOT = Path(__file__).resolve().parents[3]


def config_files(more: Iterable[Path | str] = (), root: Path = ROOT) -> list[Path]:
    """Return the project's configuration files, then those that are laid over them."""
    return [*(root / "config" / f"{name}.yaml" for name in FILES), *map(Path, more)]


def needed_sets(config: Config) -> list[str]:
    """Return the names of the data sets that the selected models, editions, judges and benchmarks need, in order."""
    data, prism, benchmarks = config.data.sets, config.prism, config.benchmarks
    wanted: set[str] = set()
    for name in config.train.select.models:
        row = config.train.models[name]
        wanted |= {row.pretrain.annotations, row.finetune.annotations, row.language_model, row.vision_tower}
    wanted |= {prism.editions[name].dataset for name in prism.select.editions}
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
