"""A random LLaVA that fits in a megabyte, with a processor like the real one's."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from safe_llava.config.models import EvaluatedModel

SYSTEM = "A chat between a curious user and an artificial intelligence assistant ."
# The shape of Vicuna's template: system sentence, role words, the image on a line of its own.
TEMPLATE = (
    "{{ '" + SYSTEM + " ' }}{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
WORDS = (
    f"{SYSTEM} USER: ASSISTANT: what is the age of person in picture ? describe scene please a longer one Answer "
    "yes no ball box tree house car star cup red blue green old young man woman child sorry cannot say left right"
).split()


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<image>"]
    vocab = {word: number for number, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the checkpoint: hidden size 32, two layers, images of 28 x 28 in patches of 7 (16 positions)."""
    folder = tmp_path_factory.mktemp("tiny-llava")
    tokenizer = _tokenizer()
    torch.manual_seed(7)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,  # large enough for the answers to depend on the question
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=3, image_seq_length=16, vision_feature_layer=-2
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=LlavaImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_pad=True
        ),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def row() -> EvaluatedModel:
    """How the tiny model is asked."""
    return EvaluatedModel.model_validate(
        {
            "description": "A random model.",
            "train": "tiny",
            "family": "llava",
            "new_tokens": {"refusal_soft": 6, "refusal_hard": 6, "implicit_leakage": 9},
            "batch_size": 4,
        }
    )


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Six images of different colours and shapes."""
    paths = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        image = PIL.Image.new("RGB", (20 + 9 * number, 50 - 6 * number), (40 * number, 255 - 40 * number, 90))
        image.save(path)
        paths.append(path)
    return paths
