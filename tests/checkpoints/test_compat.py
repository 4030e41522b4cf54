"""An exported checkpoint answers alike in the versions of transformers that others have (`make test-compat`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safe_llava.checkpoints.export import Form, write_checkpoint
from safe_llava.checkpoints.templates import V1
from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
from safe_llava.checkpoints.tower import CLIP_MEAN, CLIP_STD, Tower
from safe_llava.formats.annotations import Turn
from safe_llava.train.samples.conversation import encode, expand

pytestmark = pytest.mark.compat
SCRIPT = Path(__file__).with_name("read_elsewhere.py")
MODEL = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
VERSIONS = {
    "4.51": ("transformers==4.51.3", "tokenizers==0.21.4", "huggingface-hub==0.36.2"),
    "4.57": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2"),
    "5.24": ("transformers==5.24.0", "tokenizers==0.23.3", "huggingface-hub==2.4.0"),
}


def tiny_export(folder: Path, legacy: bool) -> None:
    """Write a random LLaVA whose rotary base is 1e6, as training does."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    words = folder.with_name(f"{folder.name}-words")
    words.mkdir()
    (words / "tokenizer.model").write_bytes(MODEL.read_bytes())
    (words / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
    tokenizer = load_tokenizer(words, 2048)
    image_id = add_image_token(tokenizer)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=image_id,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=image_id, image_seq_length=4, vision_feature_layer=-2
    )
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # large enough that a wrong rotary base changes what is answered
        for parameter in llava.model.language_model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    state = {name: value.detach() for name, value in llava.named_parameters()}
    tower = Tower(folder, vision, 1, 4, CLIP_MEAN, CLIP_STD)
    write_checkpoint(config, state, Form("v1", "pad"), tower, tokenizer, folder)


def ask(folder: Path, image: Path, environment: Path | None = None) -> dict[str, Any]:
    """Run the script with the transformers of an environment, or with this one's."""
    path = {"PYTHONPATH": str(environment)} if environment else {}
    command = [sys.executable, str(SCRIPT), str(folder), str(image)]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **path}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "picture.png"
    Image.effect_noise((50, 31), 80).convert("RGB").save(path)
    return path


@pytest.fixture(scope="session", params=VERSIONS)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a version of transformers in front of everything else that is installed."""
    folder = tmp_path_factory.mktemp("environment")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "-q", "--no-deps", "--target", str(folder), *VERSIONS[request.param]]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not legacy"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image: Path) -> Any:
    folder = tmp_path_factory.mktemp("exported") / "model"
    tiny_export(folder, request.param)
    return folder, ask(folder, image)


def test_another_version_answers_alike(environment: Path, exported: Any, image: Path) -> None:
    folder, here = exported
    there = ask(folder, image, environment)
    assert there["version"] != here["version"]
    assert there["several_turns"] == here["several_turns"]
    for ours, theirs in zip(here["answers"], there["answers"], strict=True):
        assert theirs["names"] == ours["names"]
        assert theirs["ids"] == ours["ids"]
        assert theirs["tokens"] == ours["tokens"]
        assert theirs["pixels"] == pytest.approx(ours["pixels"], abs=1e-5)
        assert theirs["logits"] == pytest.approx(ours["logits"], abs=1e-3)


def test_prompts_have_the_ids_of_training(exported: Any) -> None:
    folder, here = exported
    tokenizer = load_tokenizer(folder.with_name(f"{folder.name}-words"), 2048)
    conversation = ["Hi.", "Hello.", "Bye?", ""]
    turns = tuple(Turn(("human", "gpt")[n % 2], text) for n, text in enumerate(conversation))
    assert here["several_turns"] == encode(turns, V1, tokenizer, False, 2048, 4).input_ids
    from checkpoints.read_elsewhere import QUESTIONS

    for question, found in zip(QUESTIONS, here["answers"], strict=True):
        turns = (Turn("human", f"<image>\n{question}"), Turn("gpt", ""))
        trained = expand(encode(turns, V1, tokenizer, True, 2048, 4), 4, 32000)
        assert found["ids"] == trained.input_ids, question
