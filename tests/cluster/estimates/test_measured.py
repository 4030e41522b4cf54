"""The figures that plans are estimated from are those of the raw logs and pages that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from safe_llava.cluster.estimates.measured import Measured, read_measured
from safe_llava.config.load import load
from safe_llava.config.selection import config_files
from safe_llava.core.errors import ConfigError
from safe_llava.formats.prism import Task


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_training_speeds_are_the_means_of_their_logs(root: Path, measured: Measured, stage: str) -> None:
    first, *_, last = lines(root / measured.train[stage].source)
    assert measured.train[stage].samples_per_s == last["samples_per_s_per_device"]
    assert (first["arguments"]["stage"], first["arguments"]["size"]) == (stage, "7b")
    assert first["device"] == measured.device


@pytest.mark.parametrize("backend", ["vllm", "transformers"])
def test_answering_speeds_are_those_of_their_logs(root: Path, measured: Measured, backend: str) -> None:
    found = {line["kind"]: line for line in lines(root / measured.answering[backend].source)}
    noted = measured.answering[backend]
    assert (noted.answers, noted.seconds) == (found["edition"]["answers"], found["edition"]["seconds"])
    assert noted.start_s == found.get("start", {}).get("seconds")
    assert found["conditions"]["device"] == measured.device


def test_phases_are_those_of_the_log(root: Path, measured: Measured) -> None:
    found = {line["kind"]: line for line in lines(root / measured.phases.source)}
    seconds, tokens = found["edition"]["phases"], found["edition"]["tokens"]
    noted = measured.phases
    assert (noted.pictures.amount, noted.pictures.seconds) == (
        found["conditions"]["arguments"]["pictures"],
        seconds["prefix"],
    )
    assert (noted.tokens_read.amount, noted.tokens_read.seconds) == (tokens["questions"], seconds["questions"])
    assert (noted.tokens_decoded.amount, noted.tokens_decoded.seconds) == (tokens["decode"], seconds["decode"])
    assert measured.question_tokens == pytest.approx(tokens["questions"] / found["edition"]["answers"], abs=0.06)


def test_answers_are_as_long_as_the_released_ones(root: Path, measured: Measured) -> None:
    released = json.loads((root / "scripts/safe_llava/speed/prism_lengths.json").read_text())["tokens"]
    for task in Task:
        counts = {int(length): count for length, count in released[task].items()}
        mean = sum(length * count for length, count in counts.items()) / sum(counts.values())
        assert getattr(measured.answer_tokens, task) == pytest.approx(mean, abs=0.06)


def test_the_selected_benchmarks_are_estimated(measured: Measured) -> None:
    assert set(measured.benchmarks) == set(load(config_files()).benchmarks.select.tasks)
    minutes = {name: noted.seconds(measured.phases) / 60 for name, noted in measured.benchmarks.items()}
    assert minutes["vqav2"] == pytest.approx(18.7, abs=0.06)
    assert sum(minutes.values()) == pytest.approx(35.6, abs=0.06)


def test_editions_have_the_published_number_of_questions(measured: Measured) -> None:
    editions = {name: [getattr(row, task) for task in Task] for name, row in measured.editions.items()}
    assert editions["v2"] == [2200 * 5, 2200 * 5, 2200 * 3]
    assert editions["v1"] == [248, 248, 248 * 3]
    assert sum(editions["v2"]) == measured.answering["vllm"].answers


@pytest.mark.parametrize(("name", "inner"), [("vicuna-7b-v1.5", 11008), ("vicuna-13b-v1.5", 13824)])
def test_language_models_weigh_what_transformers_counts(measured: Measured, name: str, inner: int) -> None:
    noted = measured.language_models[name]
    shape = LlamaConfig(
        vocab_size=noted.vocabulary,
        hidden_size=noted.width,
        intermediate_size=inner,
        num_hidden_layers=noted.layers,
        num_attention_heads=noted.width // 128,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(shape)
    assert sum(value.numel() for value in model.parameters()) == noted.parameters


def test_the_tower_weighs_what_transformers_counts(measured: Measured) -> None:
    noted = measured.vision_towers["clip-vit-large-patch14-336"]
    shape = CLIPVisionConfig(
        hidden_size=noted.width,
        intermediate_size=4 * noted.width,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with torch.device("meta"):
        model = CLIPVisionModel(shape)
    assert sum(value.numel() for value in model.parameters()) == noted.parameters


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "measured.yaml"
    file.write_text("device: H200\n")
    with pytest.raises(ConfigError, match=r"measured\.yaml"):
        read_measured(file)
