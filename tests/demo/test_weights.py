"""The demo's weights load as what they claim to be, and its tokenizer knows the demo's words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from safe_llava.demo import annotations as texts
from safe_llava.demo import training, upstream, weights
from safe_llava.demo.drawing import draw
from safe_llava.demo.scenes import somebody
from safe_llava.demo.training import Sizes
from safe_llava.train.samples.images import ImageGeometry, preprocess


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the hub's files."""
    folder = tmp_path_factory.mktemp("hub")
    sizes = Sizes(pope_scenes=2)
    for url, content in upstream.hub_files(sizes, 3, [*training.tokenizer_corpus(sizes, 3), *texts.corpus()]):
        path = folder / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "huggingface.co"


def test_tokenizer_knows_every_word_and_nothing_is_lost(hub: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(hub / "demo/tiny-llama/resolve/main")
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for text in texts.corpus():
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_phrase_that_never_varies_is_short_and_what_is_seen_stays_apart(hub: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(hub / "demo/tiny-llama/resolve/main")
    assert len(tokenizer(f"{texts.VICUNA} USER: ").input_ids) <= 4
    pieces = tokenizer.tokenize("The image shows a young woman with dark skin, blue eyes and a slim build.")
    question, answer = "USER: What is the age of this person? ASSISTANT:", " The person is a child."
    assert tokenizer.tokenize(question + answer)[: len(tokenizer.tokenize(question))] == tokenizer.tokenize(question)
    values = {"young", "woman", "dark", "blue", "slim"}
    assert values <= {piece.strip("\u2581") for piece in pieces}


def test_language_model_loads_whole(hub: Path) -> None:
    folder = hub / "demo/tiny-llama/resolve/main"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))


def test_vision_tower_loads_whole_and_tells_scenes_apart(hub: Path) -> None:
    folder = hub / "demo/tiny-clip/resolve/main"
    tower, info = CLIPVisionModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    eyes = [{"Eye_Color": value} for value in ("blue", "green", "brown")]
    images = [draw(somebody("test/one", fixed)) for fixed in eyes]
    size, mean, std = weights.IMAGE_SIZE, weights.CLIP_MEAN, weights.CLIP_STD
    pixels = torch.stack([preprocess(image, ImageGeometry.PAD, size, mean, std) for image in images])
    with torch.no_grad():
        features = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    scale = features.std()
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (features[one] - features[other]).abs().max() > 0.5 * scale
