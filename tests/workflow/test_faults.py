"""Faults as a user meets them: what Snakemake says, and that nothing was begun."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from workflow.conftest import Run

JUDGE = "{select: {judges: [gpt-v1]}}"


def said(done: object) -> str:
    return str(getattr(done, "stdout", "")) + str(getattr(done, "stderr", ""))


def test_a_typo_in_the_configuration(snakemake: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("prism:\n  released_modles: [LLaVA]\n")
    done = snakemake("-n", "--configfile", str(file))
    assert done.returncode != 0
    assert f"{file}: prism.released_modles: no such key" in said(done)
    assert "did you mean `released_models`" in said(done)
    assert "Traceback" not in said(done)


def test_a_model_whose_answers_were_not_released(snakemake: Run) -> None:
    done = snakemake("-n", "results/tables/prism_released.csv", "--config", "prism={released_models: [GPT-Vision]}")
    assert done.returncode != 0
    assert "no answers of `GPT-Vision` were released" in said(done)
    assert "remedy" in said(done)


def test_a_dry_run_needs_no_key(snakemake: Run) -> None:
    assert snakemake("-n", "prism", "--config", f"prism={JUDGE}").returncode == 0


def test_a_real_run_says_which_key_is_missing_before_it_starts(snakemake: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = snakemake("prism", "--cores", "1", "--config", f"prism={JUDGE}", f"results={results}")
    assert done.returncode != 0
    assert "judge `gpt-v1` needs the environment variable OPENAI_API_KEY" in said(done)
    assert not results.exists() or not any(path.is_file() for path in results.rglob("*"))


@pytest.fixture()
def one_model(tmp_path: Path) -> tuple[str, ...]:
    """The released answers of one model, everything below a folder of the test's own."""
    prism = "prism={released_models: [LLaVA]}"
    data = f"data={{root: {tmp_path}/data, retries: 0, connect_timeout_s: 2}}"
    table = f"{tmp_path}/results/tables/prism_released.csv"
    return (table, "--cores", "2", "--config", prism, data, f"results={tmp_path}/results")


def test_answers_that_cannot_be_had_are_an_error_that_names_them(
    snakemake: Run, tmp_path: Path, one_model: tuple[str, ...]
) -> None:
    empty = tmp_path / "mirror"
    empty.mkdir()
    done = snakemake(*one_model, env={"SAFE_LLAVA_MIRRORS": str(empty)})
    assert done.returncode != 0
    assert "eval/PRISM/released/LLaVA/refusal_soft_Answer.jsonl (set prism-released) could not be fetched" in said(done)
    assert f"{empty}/raw.githubusercontent.com" in said(done)
    assert "SAFE_LLAVA_MIRRORS" in said(done)
    assert not Path(one_model[0]).exists()


def test_a_mirror_that_does_not_exist(snakemake: Run, tmp_path: Path, one_model: tuple[str, ...]) -> None:
    done = snakemake(*one_model, env={"SAFE_LLAVA_MIRRORS": str(tmp_path / "nowhere")})
    assert done.returncode != 0
    assert "names this folder as a mirror, and it does not exist" in said(done)


def test_released_answers_that_were_altered(snakemake: Run, tmp_path: Path, one_model: tuple[str, ...]) -> None:
    folder = tmp_path / "mirror/raw.githubusercontent.com/Kimyounggun99/Safe-LLaVA"
    folder = folder / "434090925077e7af85b2b820935b9c31ddcf76ee/PRISM_evaluation/answers/LLaVA"
    folder.mkdir(parents=True)
    for task in ("refusal_soft", "refusal_hard", "implicit_leakage"):
        row = {"question_id": "Age/a/1.jpg", "prompt": "?", "text": "Old", "answer_id": "1", "model_id": "LLaVA"}
        (folder / f"{task}_Answer.jsonl").write_text(json.dumps(row) + "\n")
    done = snakemake(*one_model, env={"SAFE_LLAVA_MIRRORS": str(tmp_path / "mirror")})
    assert done.returncode != 0
    assert "sha256" in said(done)
    assert not Path(one_model[0]).exists()


def test_another_clone_s_environment_submits_nothing(snakemake: Run, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    site = [f"--slurm-steady-{key}=x" for key in ("account", "partition", "gpu-partition")]
    target = f"{tmp_path}/results/tables/prism_released.csv"
    other = {"PYTHONPATH": str(tmp_path / "scripts")}
    done = snakemake(target, "--profile", "slurm", *site, "--config", f"results={tmp_path}/results", env=other)
    assert done.returncode != 0
    assert "the environment is that of another clone" in said(done)
    assert not (tmp_path / "results/data").exists()
    # A dry run says so too, and what the profile lacks.
    done = snakemake("-n", target, "--profile", "slurm", "--config", f"results={tmp_path}/results", env=other)
    assert done.returncode == 0
    assert f"it runs the code of {tmp_path}" in said(done)
    assert "a run needs slurm-steady-account" in said(done)
