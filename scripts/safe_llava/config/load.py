"""Read configuration files, resolve inheritance, check every name, and say clearly what is wrong."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from safe_llava.config.base import NAME
from safe_llava.config.data import HUB
from safe_llava.config.images import REGISTRY
from safe_llava.config.models import REPOSITORY, SOURCES
from safe_llava.config.schema import Config
from safe_llava.config.selection import config_files
from safe_llava.core.errors import ConfigError
from safe_llava.core.yaml_text import parse_yaml

BASE_PREFIX = "base-"
# What is fetched of a model's repository: no pickled weights.
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
# What pydantic says of a pattern, in words.
PATTERNS = {
    NAME: "not the name of a row: letters, digits, `.`, `_` and `-`, the first a letter or a digit",
    REPOSITORY: "not a repository as `organisation/name`, without an address around it",
    REGISTRY: "not an address as `oras://HOST/FOLDER`",
}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it, mapping by mapping; everything else is replaced whole.

    The same rule as Snakemake's for several configuration files.
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def resolve_inheritance(rows: Mapping[str, Any], where: str, exclusive: Sequence[str] = ()) -> dict[str, Any]:
    """Replace every row's ``inherits: NAME`` by that row's fields, its own laid over them.

    Args:
        rows: rows by name.
        where: where they stand, for errors.
        exclusive: keys of which a row has one: whoever gives one of them does not inherit the others.

    Raises:
        ConfigError: a parent does not exist, or rows inherit from each other in a circle.
    """
    resolved: dict[str, Any] = {}

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            circle = " -> ".join((*trail, name))
            raise ConfigError(f"{where}: rows inherit in a circle: {circle}", "let one of them name no parent")
        if name not in resolved:
            if not isinstance(rows[name], Mapping | None):
                remedy = f"write `{name}: {{inherits: …}}`"
                raise ConfigError(f"{where}.{name}: not a mapping of keys to values", remedy)
            row = dict(rows[name] or {})
            parent = row.pop("inherits", None)
            if not isinstance(parent, str | None):
                raise ConfigError(f"{where}.{name}.inherits: not the name of a row", "name one row, without brackets")
            if parent is None:
                resolved[name] = row
            elif parent not in rows:
                raise ConfigError(f"{where}.{name}.inherits: no row `{parent}`", _known(parent, rows))
            else:
                inherited = dict(resolve(parent, (*trail, name)))
                if not row.keys().isdisjoint(exclusive):
                    inherited = {key: value for key, value in inherited.items() if key not in exclusive}
                resolved[name] = merge(inherited, row)
        return resolved[name]

    return {name: copy.deepcopy(resolve(name, ())) for name in rows}


def parse(raw: Mapping[str, Any], files: Sequence[Path | str] = ()) -> Config:
    """Turn the merged configuration into its typed tree.

    Args:
        raw: the merged mapping, as Snakemake gives it.
        files: the files that it came from, in order; errors name the one that holds the key.

    Raises:
        ConfigError: naming file, key and remedy, for the first faults found.
    """
    for path in files:
        # Snakemake has read it, and takes the last of two equal keys; the project's own are read by `read_yaml` alone.
        if Path(path).is_file() and Path(path).suffix != ".json" and Path(path) not in config_files():
            read_yaml(path)
    try:
        return _parse(raw, files)
    except ConfigError as error:
        holder = _holder_of(error.message, files)
        raise ConfigError(f"{holder}: {error.message}", error.remedy) if holder else error from error.__cause__


def _parse(raw: Mapping[str, Any], files: Sequence[Path | str]) -> Config:
    merged = spelled_out(copy.deepcopy(dict(raw)), files)
    for section, where, exclusive in ((merged.get("train"), "train.models", ()), (merged, "models", SOURCES)):
        if isinstance(section, dict) and isinstance(section.get("models"), Mapping):
            section["models"] = resolve_inheritance(section["models"], where, exclusive)
    add_hub_models(merged)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, merged, files) from error
    for place in _switches(merged, config):
        raise ConfigError(f"{place}: true or false where a number is needed", "write the number, or null for none")
    check_references(config)
    return config


def _switches(raw: Any, parsed: Any, place: str = "") -> Iterator[str]:
    """Yield the places of numbers that are given as true or false, which Python takes for 1 and 0."""
    if isinstance(raw, bool) and not isinstance(parsed, bool):
        yield place
    elif isinstance(raw, Mapping):
        for key, value in raw.items():
            inner = parsed[key] if isinstance(parsed, Mapping) else getattr(parsed, key)
            yield from _switches(value, inner, f"{place}.{key}".lstrip("."))
    elif isinstance(raw, list):
        for number, (value, inner) in enumerate(zip(raw, parsed, strict=True)):
            yield from _switches(value, inner, f"{place}.{number}")


def spelled_out(merged: Mapping[str, Any], files: Sequence[Path | str] = ()) -> dict[str, Any]:
    """Put what is given under a joined name, such as ``benchmarks-limit``, in its place.

    Snakemake's ``--config`` takes no dot in a key. Where two places have one joined name (the row ``a-b``, and the key
    ``b`` of the row ``a``), the longest name of a row or key that fits comes first.

    Raises:
        ConfigError: there is no such place.
    """
    tree = {str(key): value for key, value in merged.items() if "-" not in str(key)}
    joined = {key: value for key, value in merged.items() if key not in tree and "-" in str(key)}
    if not joined:
        return tree
    known = {"-".join(place): place for place in sorted(_places(tree), key=lambda place: [len(part) for part in place])}
    for name, value in joined.items():
        if name not in known:
            holder = _holder([name], files)
            near = difflib.get_close_matches(name, known, n=3)
            remedy = f"did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else "see docs/configuration.md"
            raise ConfigError(f"{f'{holder}: ' if holder else ''}{name}: no such key", remedy)
        for part in reversed(known[name]):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def _places(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the place of every key that the configuration holds or the schema knows."""
    if tree is None or isinstance(tree, Mapping):
        for key in dict.fromkeys([*(tree or {}), *_fields_at(above)]):
            place = (*above, str(key))
            yield place
            yield from _places((tree or {}).get(key), place)


def add_hub_models(merged: dict[str, Any]) -> None:
    """Give every model that names a repository of the hub a data set row, and name that in the model's row.

    Args:
        merged: the configuration without inheritance; it is changed in place.
    """
    models, data = merged.get("models"), merged.get("data")
    sets = data.get("sets") if isinstance(data, dict) else None
    if not isinstance(models, dict) or not isinstance(sets, dict):
        return  # the schema says what is wrong
    known = {_snapshot_path(one): name for name, one in reversed(sets.items())}
    for name, row in models.items():
        if not isinstance(row, dict) or not re.fullmatch(REPOSITORY, str(row.get("hub"))) or "weights" in row:
            continue  # the schema says what is wrong
        repo, revision = row.pop("hub"), row.pop("revision", None)
        folder = f"hub/models/{repo}" + (f"@{revision}" if revision else "")
        snapshot = {"repo": repo, "repo_type": "model", "allow": list(HUB_FILES), "path": folder}
        row["weights"] = known.get(folder, f"model-{name}")
        if folder not in known:
            known[folder] = row["weights"]
            sets[row["weights"]] = {
                "title": str(row.get("description", name)),
                "kind": "weights",
                "homepage": f"{HUB}/{repo}",
                "snapshot": snapshot | ({"revision": revision} if revision else {}),
            }


def _snapshot_path(row: Any) -> str | None:
    snapshot = row.get("snapshot") if isinstance(row, Mapping) else None
    path = snapshot.get("path") if isinstance(snapshot, Mapping) else None
    return path if isinstance(path, str) else None


def over_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's configuration files with a configuration, such as Snakemake's, laid over them."""
    merged: dict[str, Any] = {}
    for path in config_files():
        merged = merge(merged, read_yaml(path))
    return merge(merged, raw)


def load(paths: Iterable[Path | str]) -> Config:
    """Read YAML files, each laid over the ones before it, into the typed tree."""
    files = [Path(path) for path in paths]
    merged: dict[str, Any] = {}
    for path in files:
        merged = merge(merged, read_yaml(path))
    return parse(merged, files)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        value = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", "give the path of a configuration file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}", "correct the line that it names") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a mapping of keys to values", "see docs/configuration.md")
    return value


def check_references(config: Config) -> None:
    """Check that every name that a row mentions is the name of a row, and that what is selected can be run.

    Raises:
        ConfigError: naming the key, and the nearest names that exist or why the row cannot be run.
    """
    for where, names, rows in _references(config):
        for name in names:
            if name is not None and name not in rows:
                raise ConfigError(f"{where}: no row `{name}`", _known(name, rows))
    # Refused here, before anything is fetched: the step would refuse it.
    benchmarks, judges = config.benchmarks, config.prism.judges
    for name in benchmarks.select.tasks:
        judge = benchmarks.judge_of(name)
        if benchmarks.tasks[name].judged and (judge is None or judges[judge].kind == "rules" or judges[judge].batch):
            raise ConfigError(
                f"benchmarks.select.tasks: `{name}` is read by a judge that answers at once, and none is named",
                "set `benchmarks.judge` to a row of prism.judges behind an API (not `rules`, not `batch`), or take "
                f"`{name}` out of benchmarks.select.tasks",
            )


def _references(config: Config) -> Iterator[tuple[str, Iterable[str | None], Collection[str]]]:
    """Yield every key that names rows, the names (None: left out), and the rows that there are."""
    sets, models, prism, benchmarks = config.data.sets, config.models, config.prism, config.benchmarks
    trained = [name for name in config.train.models if not name.startswith(BASE_PREFIX)]
    for name, row in config.train.models.items():
        yield f"train.models.{name}.language_model", [row.language_model], sets
        yield f"train.models.{name}.vision_tower", [row.vision_tower], sets
        yield f"train.models.{name}.pretrain.annotations", [row.pretrain.annotations], sets
        yield f"train.models.{name}.finetune.annotations", [row.finetune.annotations], sets
    yield "train.select.models", config.train.select.models, trained
    for name, model in models.items():
        yield f"models.{name}.train", [model.train], trained
        yield f"models.{name}.weights", [model.weights], sets
        yield f"models.{name}.vision_tower", [model.vision_tower], sets
        yield f"models.{name}.new_tokens_by_edition", model.new_tokens_by_edition, prism.editions
    for name, dataset in sets.items():
        yield f"data.sets.{name}.needs", dataset.needs, sets
    annotated = [name for name, dataset in sets.items() if dataset.kind == "annotations"]
    yield "data.audit.pairs", config.data.audit.sets, annotated
    for name, edition in prism.editions.items():
        yield f"prism.editions.{name}.dataset", [edition.dataset], sets
    yield "prism.released_dataset", [prism.released_dataset], sets
    yield "prism.select.models", prism.select.models, models
    yield "prism.select.editions", prism.select.editions, prism.editions
    yield "prism.select.judges", prism.select.judges, prism.judges
    for name, task in benchmarks.tasks.items():
        yield f"benchmarks.tasks.{name}.dataset", [task.dataset], sets
        yield f"benchmarks.tasks.{name}.judge", [task.judge], prism.judges
    if benchmarks.released:
        yield "benchmarks.released.dataset", [benchmarks.released.dataset], sets
    yield "benchmarks.select.models", benchmarks.select.models, models
    yield "benchmarks.select.tasks", benchmarks.select.tasks, benchmarks.tasks
    yield "benchmarks.compare", benchmarks.compare or [], models
    yield "benchmarks.judge", [benchmarks.judge], prism.judges
    yield "paper.compare", [name for pair in config.paper.compare for name in (pair.safe, pair.original)], models
    if config.demo:
        yield "demo", [config.demo.safe, config.demo.original], models
        yield "demo.benchmark", [config.demo.benchmark], benchmarks.tasks


def _known(name: str, rows: Iterable[str]) -> str:
    names = sorted(rows)
    near = [one for one in names if one.lower() == name.lower()] or difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"use one of: {', '.join(names)}"


def _explain(error: ValidationError, merged: Any, files: Sequence[Path | str]) -> ConfigError:
    lines, remedies = [], []
    for fault in error.errors()[:5]:
        key = ".".join(_keys(fault["loc"], merged))
        holder = _holder(fault["loc"], files)
        place = f"{holder}: " if holder else ""
        if fault["type"] == "extra_forbidden":
            lines.append(f"{place}{key}: no such key")
            remedies.append(_known(str(fault["loc"][-1]), _fields_at(fault["loc"][:-1])))
        elif fault["loc"][-1:] == ("[key]",):
            lines.append(f"{place}{key}: not a name: letters, digits, `.`, `_` and `-`, the first a letter or a digit")
            remedies.append("give the row another name")
        elif fault["type"] == "missing":
            lines.append(f"{place}{key}: this key is missing")
            remedies.append(f"set {key}; docs/configuration.md says what it means")
        else:
            # An address may hold a password.
            shown = isinstance(fault["input"], str | int | float | bool) and "@" not in str(fault["input"])
            given = f" (given: {fault['input']!r})" if shown else ""
            said = PATTERNS.get(fault.get("ctx", {}).get("pattern", ""), fault["msg"].removeprefix("Value error, "))
            lines.append(f"{place}{key}: {said}{given}")
            remedies.append(f"docs/configuration.md says what {key} may be")
    more = error.error_count() - len(lines)
    if more > 0:
        lines.append(f"and {more} more")
    return ConfigError("the configuration is wrong\n  " + "\n  ".join(lines), "\n  ".join(dict.fromkeys(remedies)))


def _keys(location: Sequence[int | str], tree: Any) -> Iterator[str]:
    """Yield the keys of a fault's place, without what pydantic says of the type that it tried."""
    for part in location:
        held = isinstance(tree, Mapping | list) and (isinstance(tree, Mapping) or isinstance(part, int))
        if not held or part == "[key]":
            return
        yield str(part)
        tree = (tree if isinstance(tree, Mapping) else dict(enumerate(tree))).get(part)


def _holder_of(message: str, files: Sequence[Path | str]) -> str | None:
    """Return the last file that holds the key that a message begins with, or its nearest parent."""

    def depth(tree: Any, rest: str) -> int:
        inner = tree.items() if isinstance(tree, Mapping) else ()
        fits = [(str(key), value) for key, value in inner if re.match(rf"{re.escape(str(key))}[.:]", rest)]
        return max((len(key) + 1 + depth(value, rest[len(key) + 1 :]) for key, value in fits), default=0)

    depths = [(depth(read_yaml(path), message), k, str(path)) for k, path in enumerate(files) if Path(path).is_file()]
    deepest = max(depths, default=(0, 0, ""))
    return deepest[2] if deepest[0] else None


def _holder(location: Sequence[int | str], files: Sequence[Path | str]) -> str | None:
    """Return the last file that holds the key, or its nearest parent that any file holds."""
    trees = []
    for path in files:
        try:
            trees.append((str(path), read_yaml(path)))
        except ConfigError:
            continue
    for depth in range(len(location), 0, -1):
        for path, tree in reversed(trees):
            node: Any = tree
            for part in location[:depth]:
                if not isinstance(node, Mapping) or part not in node:
                    break
                node = node[part]
            else:
                return path
    return None


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Return the keys that the schema knows at a place in the tree."""
    node: Any = Config
    for part in location:
        if isinstance(node, type) and issubclass(node, BaseModel):
            field = node.model_fields.get(str(part))
            node = field.annotation if field else None
        elif get_origin(node) in (dict, list):
            node = get_args(node)[-1]
        for option in get_args(node):
            if isinstance(option, type) and issubclass(option, BaseModel) and get_origin(node) not in (dict, list):
                node = option
    if isinstance(node, type) and issubclass(node, BaseModel):
        return list(node.model_fields)
    return []
