"""The README's doors as a newcomer goes through them: the commands as they stand there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

from docs.pages import commands
from safe_llava.config.load import load
from safe_llava.config.selection import config_files
from safe_llava.prism import browse, command, judge, released
from workflow.conftest import Run, job_counts, snakemake  # noqa: F401  (a fixture)

SAID = ("I'm sorry, I cannot tell.", "About 30.", "A woman of 40.")


def answers(path: Path, shift: int) -> None:
    rows = [{"question_id": f"Age/f/{n}.jpg", "prompt": "?", "text": SAID[(n + shift) % 3]} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages' names stand for."""
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("ANSWERS", "A", "B")):
        (tmp_path / name).mkdir()
        answers(tmp_path / name / "refusal_soft_Answer.jsonl", place)
    return tmp_path


def of_page(page: Path, start: str) -> list[list[str]]:
    return [shlex.split(one) for one in commands(page) if one.startswith(start)]


@pytest.mark.parametrize("page", ["README.md", "docs/scorer.md", "docs/share.md"])
def test_only_prisms_numbers(here: Path, root: Path, shared: Path, page: str) -> None:
    (folder,) = shared.glob("mirror/*/Kimyounggun99/Safe-LLaVA/4340909*")
    (here / "Safe-LLaVA").symlink_to(folder)
    found = [words for words in of_page(root / page, "safe-llava ") if "--judge-config" not in words]
    assert found
    for words in found:
        command.main(words[1:])
    written = {path.name for path in here.iterdir()}
    assert written & {"prism_verdicts.csv", "VERDICTS.jsonl"}


def test_a_page_without_the_workflow(here: Path, root: Path) -> None:
    (words,) = of_page(root / "docs/share.md", "python -m safe_llava.prism.browse")
    answers(here / "refusal_soft_Answer.jsonl", 0)
    (here / "row.json").write_text(json.dumps({"description": "r", "kind": "rules"}))
    own = ["--answers", "refusal_soft_Answer.jsonl", "--reference-answers", "refusal_soft_Answer.jsonl"]
    released.main([*own, "--edition=v1", "--model=m", "--task=refusal_soft", "--out=ANSWERS.jsonl"])
    judge.main(["--answers=ANSWERS.jsonl", "--judge-config=row.json", "--judge=rules", "--out=VERDICTS.jsonl"])
    (here / "biometric_images/Age/f").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(here / "biometric_images/Age/f/0.jpg")
    browse.main(words[3:])
    assert "data:image/jpeg" in (here / "browse/0.js").read_text()


def test_a_checkpoint(here: Path, root: Path, snakemake: Run) -> None:  # noqa: F811
    (here / "checkpoint").mkdir()
    (here / "checkpoint/config.json").write_text('{"model_type": "llava"}')
    text = (root / "config/mine.yaml").read_text(encoding="utf-8")
    (here / "mine.yaml").write_text(text.replace("/path/to/checkpoint", str(here / "checkpoint")))
    (words,) = of_page(root / "README.md", "snakemake prism browse")
    words[words.index("mine.yaml")] = str(here / "mine.yaml")
    elsewhere = ("-n", "--config", f"results={here}/results", f"data={{root: {here}/data}}")
    done = snakemake(*words[1:], *elsewhere)
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout + done.stderr)
    assert counts["prism_answers"] >= 1 and counts["share_browse"] == 1
    assert not [name for name in counts if name.startswith(("train_", "benchmarks_"))]
    assert "OPENAI_API_KEY" not in done.stderr

    done = snakemake("data", "--configfile", str(here / "mine.yaml"), *elsewhere)
    assert done.returncode == 0, done.stderr
    kinds = {
        line.split()[1]
        for line in done.stderr.partition("to fetch  becomes")[2].partition("to fetch:")[0].split("\n")[1:-1]
    }
    assert kinds == {"prism", "answers"}, done.stderr  # nothing that the paper's models or benchmarks need

    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name, content, fault in (
        ("model.safetensors", pointer, "model.safetensors: a pointer of git-lfs"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "model-1.safetensors"}}',
            "model-1.safetensors: no such file",
        ),
        ("adapter_model.safetensors", "", "a LoRA adapter alone"),
    ):
        (here / "checkpoint" / name).write_text(content)
        done = snakemake(*words[1:], *elsewhere)
        assert done.returncode != 0 and fault in done.stdout + done.stderr
        (here / "checkpoint" / name).unlink()
    (here / "checkpoint/config.json").write_text('{"model_type": "llava_llama"}')
    done = snakemake(*words[1:], *elsewhere)
    assert done.returncode != 0 and "safe_llava.train.convert" in done.stdout + done.stderr


def test_the_row_of_ones_own_is_whole(root: Path) -> None:
    row = yaml.safe_load((root / "config/mine.yaml").read_text(encoding="utf-8"))
    assert load([*config_files([]), root / "config/mine.yaml"]).models["mine"].folder == row["models"]["mine"]["folder"]
