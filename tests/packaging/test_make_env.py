"""envs/make_env.sh: which Python it takes and which torch; the programs that it calls only write down their words."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

# Stands for python3, for the environment's own python, and for uv; what fails is given by a word of its command line.
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "$COMMANDS"
for word in $FAILS; do [[ " $* " != *" $word "* ]] || exit 1; done
case "$*" in
    "-m venv "*) folder=${!#}; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python"; cp "$0" "$folder/bin/uv";;
    venv*) folder=${!#}; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python"; cp "$0" "$folder/bin/uv";;
    *"pip index versions"*) echo "$INDEX_HAS";;
esac
"""


@dataclass
class Made:
    """How an environment was made."""

    code: int
    said: str
    commands: list[str]


@pytest.fixture
def made(root: Path, tmp_path: Path):
    """Make an environment with the fakes, in which the commands that hold one of some words fail."""

    def run(fails: str = "", index_has: str = "", **env: str) -> Made:
        programs, log = tmp_path / "programs", tmp_path / "commands"
        programs.mkdir()
        for name in ("python3", "uv"):
            (programs / name).write_text(FAKE)
            (programs / name).chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "TORCH_INDEX")}
        done = subprocess.run(
            [str(root / "envs/make_env.sh"), str(tmp_path / "env")],
            env={**kept, "PATH": f"{programs}:{os.environ['PATH']}", "COMMANDS": str(log), "FAILS": fails}
            | {"INDEX_HAS": index_has, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        return Made(done.returncode, done.stdout + done.stderr, log.read_text().splitlines())

    return run


def torch_from(made: Made) -> list[str]:
    return [line for line in made.commands if "torch" in line and "import torch" not in line]


def test_a_folder_of_wheels_is_enough_and_no_index_is_asked(made) -> None:
    done = made()
    assert done.code == 0, done.said
    (only,) = torch_from(done)
    assert "--no-index" in only and only.endswith("+cpu")


def test_torchs_own_index_is_taken_where_it_answers(made) -> None:
    done = made("--no-index", "Available versions: 2.13.0+cpu")
    assert done.code == 0, done.said
    assert "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu" in torch_from(done)[-1]
    assert "does not answer" not in done.said


def test_where_it_does_not_answer_it_is_said_and_cudas_is_taken_as_locked(made) -> None:
    done = made("--no-index")
    assert done.code == 0, done.said
    assert "does not answer: torch comes with CUDA's libraries, from the package index" in done.said
    assert torch_from(done)[-1].startswith("uv pip install")
    assert "--constraint envs/train-cuda.lock" in torch_from(done)[-1]


def test_cudas_is_taken_where_it_is_asked_for(made) -> None:
    (only,) = torch_from(made(TORCH_INDEX=""))
    assert only.startswith("uv pip install") and "+cpu" not in only


def test_where_the_python_does_not_fit_uv_brings_one(made) -> None:
    done = made("-")  # `python3 -` looks at its version
    assert done.code == 0, done.said
    assert "uv looks for another" in done.said
    assert any(line.startswith("uv venv -q --seed --python >=3.11,<3.14 ") for line in done.commands)


def test_what_uv_cannot_bring_ends_with_a_remedy(made) -> None:
    done = made("- venv")
    assert done.code == 1
    assert "error: no Python fits, and uv could not download one" in done.said
    assert "make env PYTHON=/path/to/python3" in done.said and "UV_PYTHON_INSTALL_MIRROR" in done.said


def test_a_python_that_was_asked_for_and_does_not_fit_is_an_error(made) -> None:
    done = made("-", PYTHON="python3")
    assert done.code == 1
    assert "error: python3 is not Python 3.11 to 3.14" in done.said
    assert not any("venv" in line for line in done.commands)


def test_the_version_of_torch_is_that_of_the_locks(root: Path) -> None:
    version = "version=2.13.0"
    assert version in (root / "envs/make_env.sh").read_text()
    assert version.replace("version=", "torch==") in (root / "envs/train-cuda.lock").read_text()
