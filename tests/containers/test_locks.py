"""The locks: every package by its hash, and what the requirements ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LOCKS = {"train-cuda": "train", "train-cpu": "train", "eval-cuda": "eval", "eval-cpu": "eval", "paper": "paper"}
LOCKS |= {"build": "build", "flash-attn": "flash-attn", "compiler": "compiler", "local": "local"}


def locked(root: Path, name: str) -> dict[str, str]:
    """Return the versions of a lock by package."""
    return dict(re.findall(r"^(\S+?)==(\S+)", (root / f"envs/{name}.lock").read_text(), re.MULTILINE))


def requirements(root: Path, name: str) -> list[Requirement]:
    """Return what a file of requirements asks for."""
    lines = (root / f"envs/{name}").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "--"))]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes(name: str, root: Path) -> None:
    packages = re.split(r"^(?=\S)", (root / f"envs/{name}.lock").read_text(), flags=re.MULTILINE)[1:]
    assert packages
    for package in packages:
        form = r"\S+==\S+( ; .+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+\Z"
        assert re.match(form, package), package.split()[0]


@pytest.mark.parametrize(("name", "asked"), LOCKS.items())
def test_a_lock_holds_what_its_requirements_ask_for(name: str, asked: str, root: Path) -> None:
    on_cpu = name.endswith(("-cpu", "local"))
    left_out = {one.name for one in requirements(root, "cpu.txt")} | {"torch"} if on_cpu else set()
    versions = locked(root, name)
    for requirement in requirements(root, f"{asked}.in"):
        if requirement.name not in left_out:
            assert versions[requirement.name] in requirement.specifier, f"{name}: {requirement}"
    assert left_out.isdisjoint(versions)


@pytest.mark.parametrize("image", ["train", "eval"])
def test_a_cpu_image_holds_a_part_of_the_cuda_image(image: str, root: Path) -> None:
    cuda, cpu = locked(root, f"{image}-cuda"), locked(root, f"{image}-cpu")
    assert cpu.items() <= cuda.items()
    assert not [name for name in cpu if name.startswith(("nvidia", "cuda", "flash", "vllm", "triton"))]


def test_the_cpu_build_of_torch_has_the_version_of_the_locks(root: Path) -> None:
    (torch,) = requirements(root, "torch-cpu.txt")
    assert {specifier.version for specifier in torch.specifier} == {f"{locked(root, 'train-cuda')['torch']}+cpu"}


@pytest.mark.parametrize("name", ["train-cuda", "paper"])
def test_the_images_hold_the_versions_that_the_tests_run_with(name: str, root: Path) -> None:
    tested = locked(root, "local")
    held = locked(root, name)
    assert {package: held[package] for package in held.keys() & tested.keys()} == {
        package: tested[package] for package in held.keys() & tested.keys()
    }


def test_the_eval_image_holds_them_but_for_what_vllm_holds_back(root: Path) -> None:
    held, tested = locked(root, "eval-cuda"), locked(root, "local")
    others = {package for package in held.keys() & tested.keys() if held[package] != tested[package]}
    # rich: roc-validator holds it back here, in tests alone. chardet: an older one starts Snakemake in less time.
    assert others == {"numpy", "mistral-common", "rich", "chardet"}


def test_the_files_of_cuda_bindings_are_in_one_package(root: Path) -> None:
    """cuda-python was one wheel with all of them before 13, and has none since: it asks for cuda-bindings."""
    held = locked(root, "eval-cuda")
    assert held["cuda-python"].split(".")[:2] == held["cuda-bindings"].split(".")[:2]
    assert int(held["cuda-python"].split(".")[0]) >= 13


def _uv(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("no uv beside this Python: make env")
    done = subprocess.run(
        [*arguments] if arguments[0].endswith(".sh") else [str(uv), *arguments],
        cwd=root,
        env={**os.environ, "UV": str(uv), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode and "error sending request" in done.stderr and not os.environ.get("CI"):
        pytest.skip("the package index cannot be reached")
    return done


def test_the_locks_are_what_uv_makes_of_their_requirements(root: Path, tmp_path: Path) -> None:
    for name in LOCKS:
        shutil.copy(root / f"envs/{name}.lock", tmp_path)
    done = _uv(root, "envs/make_locks.sh", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name in LOCKS:
        assert (tmp_path / f"{name}.lock").read_bytes() == (root / f"envs/{name}.lock").read_bytes(), name


@pytest.mark.parametrize("image", ["train", "eval"])
def test_the_cuda_packages_can_be_installed_together(image: str, root: Path, tmp_path: Path) -> None:
    done = _uv(
        root,
        *("pip", "install", "--dry-run", "--require-hashes", "--python-version", "3.11"),
        *(
            "--python-platform",
            "x86_64-manylinux_2_36",
            "--target",
            str(tmp_path / "absent"),
            "-r",
            f"envs/{image}-cuda.lock",
        ),
    )
    assert done.returncode == 0, done.stderr
    assert " + torch==" in done.stderr


# Published as source only; plain Python, but for immutables on 3.14 (envs/make_env.sh asks for a compiler there).
SOURCES = ("antlr4-python3-runtime", "connection-pool", "deepspeed", "transformers-stream-generator", "zss")


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_every_python_has_wheels_of_what_make_env_installs(version: str, root: Path, tmp_path: Path) -> None:
    sources = [*SOURCES, *(["immutables"] if version == "3.14" else [])]
    done = _uv(
        root,
        *("pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--python-version", version),
        *("--only-binary", ":all:", *(word for name in sources for word in ("--no-binary", name))),
        *("--target", str(tmp_path / "absent"), "-r", "envs/local.lock"),
    )
    assert done.returncode == 0, done.stderr
