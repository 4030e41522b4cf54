"""pyproject.toml names what the code imports, and the pinned environments satisfy it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Parts of what is declared under another name (pydantic brings its core, at a version of its own), or stubs; vLLM and
# flash-attn are of the GPU images alone (envs/).
ELSEWHERE = {"_typeshed", "pydantic_core", "vllm", "flash_attn"}
OF_SNAKEMAKE = ("snakemake_interface_", "snakemake_executor_plugin_slurm")


def project(root: Path) -> dict[str, Any]:
    return dict(tomllib.loads((root / "pyproject.toml").read_text())["project"])


def declared(root: Path) -> list[Requirement]:
    table = project(root)
    lines = [*table["dependencies"], *(line for lines in table["optional-dependencies"].values() for line in lines)]
    return [Requirement(line) for line in lines if not line.startswith("safe-llava")]


def imported(root: Path, folder: str = "scripts") -> dict[str, str]:
    """Each top-level module that is imported, with one file that does."""
    found = {}
    for path in (root / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            found |= {name.split(".")[0]: str(path) for name in names}
    own = {"safe_llava", "snakemake_executor_plugin_slurm_steady"}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | own | ELSEWHERE}


def test_every_import_is_declared(root: Path) -> None:
    names = {canonicalize_name(one.name) for one in declared(root)}
    of_module = packages_distributions()
    missing = {
        module: path
        for module, path in imported(root).items()
        if not module.startswith(OF_SNAKEMAKE)
        and not names & {canonicalize_name(one) for one in of_module.get(module, [module])}
    }
    assert not missing, f"imported, and in no list of pyproject.toml: {missing}"


def test_the_pinned_versions_satisfy_what_is_declared(root: Path) -> None:
    pins = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s\\;]+)", _lock(root), re.MULTILINE))
    wrong = [
        str(one)
        for one in declared(root)
        if canonicalize_name(one.name) != "torch" and not one.specifier.contains(pins[canonicalize_name(one.name)])
    ]
    assert not wrong, f"the versions of envs/local.lock are others: {wrong}"


def _lock(root: Path) -> str:
    return (root / "envs/local.lock").read_text()


# Used without being imported: by libraries when they are there, or as commands.
NOT_IMPORTED = {
    "accelerate": "transformers places weights on a GPU with it",
    "tensorboard": "torch writes curves with it",
    "snakemake": "runs the rules",
    "chardet": "an older one, which requests imports in less time",
    "cuda-python": "holds a package of vLLM at a version with one copy of its files",
    "cuda-toolkit": "flash-attn is compiled with it",
    "einops": "flash-attn needs it, and is installed without what it needs",
    "wheel": "flash-attn is built with it",
    "vllm": "imported in the eval image alone",
    "pytest-xdist": "make test",
    "ruff": "make lint",
    "mypy": "make lint",
    "snakefmt": "make lint",
    "types-pyyaml": "make lint",
}


@pytest.mark.parametrize("name", ["local", "paper", "train", "eval"])
def test_whatever_is_pinned_is_used(name: str, root: Path) -> None:
    used = {module for folder in ("scripts", "tests") for module in imported(root, folder)}
    of_module = packages_distributions()
    packages = {canonicalize_name(one) for module in used for one in of_module.get(module, [module])}
    lines = (root / f"envs/{name}.in").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    assert pinned - packages - NOT_IMPORTED.keys() == set()


def test_the_core_needs_two_packages(root: Path) -> None:
    assert {Requirement(line).name for line in project(root)["dependencies"]} == {"numpy", "pydantic"}
