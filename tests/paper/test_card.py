"""The model card: what it is made of, what it scored, and metadata that the hub reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from safe_llava.config.load import load
from safe_llava.config.schema import Config
from safe_llava.config.selection import config_files
from safe_llava.core.errors import PaperError
from safe_llava.core.files import write_text
from safe_llava.paper.card import main, model_card

NAME = "safe-llava-v1.5-7b"


@pytest.fixture(scope="module")
def config() -> Config:
    """The configuration of the paper."""
    return load(config_files())


def test_a_card_has_origins_figures_and_metadata(config: Config, golden: Path, tmp_path: Path) -> None:
    for name in ("prism", "benchmarks"):
        text = (golden / f"{name}.csv").read_text().replace("tiny-safe", NAME).replace("\nSafe-7B", f"\n{NAME}")
        write_text(tmp_path / f"{name}.csv", text)
    write_text(tmp_path / "config.json", config.model_dump_json(exclude_defaults=True))
    out = tmp_path / "README.md"
    files = [f"--{name}={tmp_path}/{name}.csv" for name in ("prism", "benchmarks")]
    main([f"--config={tmp_path}/config.json", f"--model={NAME}", *files, f"--out={out}"])
    card = ModelCard.load(out)
    assert card.data.base_model == ["lmsys/vicuna-7b-v1.5", "openai/clip-vit-large-patch14-336"]
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.license is None, "that of the weights follows from several"
    lines = card.text.splitlines()
    assert [line.split("|")[-2].strip() for line in lines if "Vicuna 7B" in line] == ["unknown"]
    assert any("bigscience-openrail-m" in line for line in lines)
    assert any("soft refusal" in line and "Macro" in line for line in lines)
    assert any("85.04 [84.30, 85.78]" in line for line in lines)
    assert f"snakemake {config.results}/train/{NAME}/model" in card.text
    assert "86.12" not in card.text, "other models' figures stay out"


def test_without_figures_the_card_says_so(config: Config) -> None:
    text = model_card(config, NAME, None, None)
    assert "It was not evaluated on PRISM." in text
    assert "General benchmarks" not in text


def test_an_unknown_model_is_refused(config: Config) -> None:
    with pytest.raises(PaperError, match="mine: no row"):
        model_card(config, "mine", None, None)
