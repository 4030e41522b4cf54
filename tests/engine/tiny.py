"""Random checkpoints of every family that fit in a megabyte: the real classes, tokenizer classes and templates.

Those of the families that are converted start from ``tiny_released``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from safe_llava.checkpoints.families import CONVERTED, FAMILIES
from safe_llava.checkpoints.templates import KNOWN
from safe_llava.config.models import EvaluatedModel
from safe_llava.config.train import TrainedModel

QUESTIONS = (
    "How old is the person in this photo?\nAnswer",
    "Describe the scene, please.",
    "Is a ball in it? Say what is on the left, and what the people there wear.",
)
CORPUS = [
    *QUESTIONS,
    "USER: ASSISTANT: system user assistant model You are a helpful assistant.",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.",
    "The person in the picture is young and has blue eyes. I cannot say. red green tree house 0 1 2 3",
]
RANGE = 0.3  # of the weights: large enough for the answers to depend on the question and the image
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": RANGE,
    "tie_word_embeddings": False,
}
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
SQUARE = {"height": 28, "width": 28}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
GRID = [[28, 28], [28, 56], [56, 28], [56, 56], [28, 84], [84, 28]]


def llama_tokenizer(*added: str) -> Any:
    """A Llama tokenizer trained on the spot, ``added`` behind its vocabulary."""
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer(add_bos_token=True).train_new_from_iterator(CORPUS, 330)
    tokenizer.pad_token = "<unk>"
    tokenizer.add_bos_token = True
    tokenizer.update_post_processor()
    tokenizer.add_tokens(list(added), special_tokens=True)
    return tokenizer


def qwen_tokenizer(*added: str) -> Any:
    """A Qwen2 tokenizer trained on the spot."""
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer().train_new_from_iterator(CORPUS, 330)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", *added], special_tokens=True)
    return tokenizer


def gemma_tokenizer() -> Any:
    """A Gemma tokenizer trained on the spot, with the tokens of its turns and images."""
    from transformers import GemmaTokenizer

    tokenizer = GemmaTokenizer().train_new_from_iterator(CORPUS, 330)
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>", *named.values()], special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special_tokens=named)
    return tokenizer


def _ids(tokenizer: Any, end: str | None = None) -> dict[str, Any]:
    ends = tokenizer.eos_token_id if end is None else tokenizer.convert_tokens_to_ids(end)
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}


def _save(model: Any, processor: Any, folder: Path, end: str | None = None) -> None:
    from transformers import GenerationConfig

    tokenizer = processor.tokenizer
    # As published settings do, these ask for sampling: an answer may not depend on it.
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, **_ids(tokenizer, end))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def llava(folder: Path) -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tokenizer = llama_tokenizer("<image>")
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), **_ids(tokenizer)),
        vision_config=CLIPVisionConfig(**TOWER, initializer_range=RANGE),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE, **HALF),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=KNOWN["llava"],
    )
    _save(LlavaForConditionalGeneration(config), processor, folder)


def llava_next(folder: Path) -> None:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tokenizer = llama_tokenizer("<image>")
    config = LlavaNextConfig(
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), **_ids(tokenizer)),
        vision_config=CLIPVisionConfig(**TOWER, initializer_range=RANGE),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
    )
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=GRID, **HALF)
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=KNOWN["llava"],
    )
    _save(LlavaNextForConditionalGeneration(config), processor, folder)


def llava_onevision(folder: Path) -> None:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    from safe_llava.checkpoints.processors import processor_class_of

    tokenizer = qwen_tokenizer("<image>", "<video>")
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**TEXT, vocab_size=len(tokenizer), **_ids(tokenizer)),
        vision_config={"model_type": "siglip_vision_model", **TOWER, "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRID,
        tie_word_embeddings=False,
    )
    processor = processor_class_of("llava_onevision")(
        image_processor=LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=GRID, **HALF),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=KNOWN["llava_onevision"],
    )
    _save(LlavaOnevisionForConditionalGeneration(config), processor, folder, "<|im_end|>")


def gemma3(folder: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = gemma_tokenizer()
    config = Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "vocab_size": len(tokenizer), "sliding_window": 16, **_ids(tokenizer)},
        vision_config={**TOWER, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        initializer_range=RANGE,
        tie_word_embeddings=False,  # tied and random, it would repeat the last token of the prompt
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size=SQUARE, **HALF),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=KNOWN["gemma3"],
    )
    _save(Gemma3ForConditionalGeneration(config), processor, folder, "<end_of_turn>")


def qwen2_5_vl(folder: Path) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from safe_llava.checkpoints.processors import processor_class_of

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = qwen_tokenizer(*marks)
    ids = dict(zip(("start", "end", "image", "video"), tokenizer.convert_tokens_to_ids(list(marks)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            **_ids(tokenizer),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "initializer_range": RANGE,
        },
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
    )
    processor = processor_class_of("qwen2_5_vl")(
        image_processor=Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tokenizer=tokenizer,
        chat_template=KNOWN["qwen2_5_vl"],
    )
    _save(Qwen2_5_VLForConditionalGeneration(config), processor, folder, "<|im_end|>")


def trained(row: TrainedModel, folder: Path) -> None:
    """Write what training exports for a row: its tower's class, its language model's, its template."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, Qwen2Config, SiglipVisionConfig

    from safe_llava.checkpoints.export import Form, write_checkpoint
    from safe_llava.checkpoints.tower import Tower

    siglip, qwen = "siglip" in row.vision_tower, "qwen" in row.language_model
    tokenizer: Any = qwen_tokenizer("<image>") if qwen else llama_tokenizer("<image>")
    vision: Any = (SiglipVisionConfig if siglip else CLIPVisionConfig)(**TOWER)
    text: Any = (Qwen2Config if qwen else LlamaConfig)(**TEXT, vocab_size=len(tokenizer))
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=row.vision_feature_layer,
        vision_feature_select_strategy="full" if siglip else "default",
        tie_word_embeddings=False,
    )
    tower = Tower(folder, vision, 0 if siglip else 1, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    form = Form(row.finetune.template, row.finetune.image_geometry)
    write_checkpoint(config, dict(_random_llava(config)), form, tower, tokenizer, folder)


def _random_llava(config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    from transformers import LlavaForConditionalGeneration

    for name, value in LlavaForConditionalGeneration(config).named_parameters():
        yield name, value.detach()


def internvl(folder: Path) -> None:
    """A checkpoint as the hub's conversions are: the template of transformers' script, without a system message."""
    from checkpoints.tiny_released import released_internvl
    from safe_llava.engine.convert import convert

    source = folder.with_name("released")
    released_internvl(source, "qwen2")
    convert("internvl_chat", source, folder)
    (folder / "chat_template.jinja").write_text(KNOWN["internvl"], encoding="utf-8")


MAKERS: dict[str, Callable[[Path], None]] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "gemma3": gemma3,
    "qwen2_5_vl": qwen2_5_vl,
    "internvl": internvl,
}
assert set(MAKERS) | CONVERTED == set(FAMILIES)


def make(name: str, row: EvaluatedModel, training: TrainedModel | None, folder: Path) -> Path:
    """Write the tiny checkpoint of an evaluated row below ``folder`` and return where it lies."""
    from checkpoints.tiny_released import released_internvl, released_llava_qwen, siglip_tower
    from safe_llava.engine.convert import convert

    torch.manual_seed(3)
    out = folder / "model"
    if training is not None:
        trained(training, out)
    elif row.family == "internvl_chat":
        released_internvl(folder / "released", "internlm2" if "2_5" in name else "qwen2")
        convert("internvl_chat", folder / "released", out)
    elif row.family == "llava_qwen":
        released_llava_qwen(folder / "released")
        siglip_tower(folder / "siglip", weights=False)
        convert("llava_qwen", folder / "released", out, folder / "siglip")
    else:
        MAKERS[row.family](out)
    return out
