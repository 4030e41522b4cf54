"""Turn checkpoints of the original LLaVA code into Hugging Face checkpoints, and the other way round.

``python -m safe_llava.train.convert --to huggingface --model LLAVA --vision-tower CLIP --out DIR`` reads the original's
folder and writes one that ``AutoModelForImageTextToText`` and vLLM load; ``--to original --model DIR --out LLAVA``
writes the original's folder, its tower below it in ``vision_tower``. With ``--projector FILE`` and without
``--model`` a projector alone is converted: ``mm_projector.bin`` to ``projector.safetensors``, or back.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from safe_llava.checkpoints import llava as original
from safe_llava.checkpoints.export import write_checkpoint
from safe_llava.checkpoints.folder import settings_of, whole_folder
from safe_llava.checkpoints.processors import read_pixels
from safe_llava.checkpoints.tokenizer import add_image_token, is_legacy, load_tokenizer, without_image_token
from safe_llava.checkpoints.weights import read_file, read_tensors
from safe_llava.checkpoints.whole import check_folder
from safe_llava.core import cli
from safe_llava.core.errors import CheckpointError
from safe_llava.core.files import atomic_path, read_json, write_json
from safe_llava.core.imports import light_transformers

LOG = logging.getLogger(__name__)
MAX_LENGTH = 2048
TOWER_FOLDER = "vision_tower"
MODEL_TYPES = {text: theirs for theirs, text in original.TEXT_TYPES.items() if theirs != "llava"}
ARCHITECTURES = {"llama": "LlavaLlamaForCausalLM", "qwen2": "LlavaQwenForCausalLM"}
# What transformers' configurations say beside the model.
NOT_OF_THE_MODEL = (
    *("_name_or_path", "dtype", "architectures", "model_type", "transformers_version", "problem_type", "return_dict"),
    *("output_attentions", "output_hidden_states", "is_encoder_decoder", "chunk_size_feed_forward"),
    *("id2label", "label2id"),
)


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.train.convert", description=__doc__.split("\n")[0])
    parser.add_argument("--to", choices=("huggingface", "original"), required=True, help="format to write")
    parser.add_argument("--model", type=Path, help="checkpoint folder of the other format")
    parser.add_argument("--projector", type=Path, help="a projector's file: alone, or in place of the checkpoint's own")
    parser.add_argument("--vision-tower", type=Path, help="tower's folder; default: what config.json names")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer files; default: the checkpoint's")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder, or the projector's file")
    return parser


def to_huggingface(
    model: Path, out: Path, vision_tower: Path | None, tokenizer: Path | None, projector: Path | None
) -> None:
    """Write a checkpoint of the original as one of Hugging Face, with processor and chat template."""
    with settings_of(model):
        read = original.read_original(model, vision_tower, projector)
        values = read_json(model / "config.json")
        words = load_tokenizer(tokenizer or model, int(values.get("tokenizer_model_max_length") or MAX_LENGTH))
    read.config.image_token_id = add_image_token(words)
    write_checkpoint(read.config, read.state, read.form, read.tower, words, out)


def to_original(model: Path, out: Path, tokenizer: Path | None) -> None:
    """Write a Hugging Face checkpoint as one of the original, its tower apart."""
    from transformers import LlavaConfig

    check_folder(model)
    values = read_json(model / "config.json")
    if values.get("model_type") != "llava":
        raise CheckpointError(f"{model}: not a Hugging Face LLaVA checkpoint", "give one that this project exported")
    pixels = read_pixels(model)
    config = LlavaConfig.from_pretrained(model, local_files_only=True)
    theirs = original.original_weights(dict(read_tensors(model)), values)
    with whole_folder(out) as partial:
        write_json(partial / "config.json", _original_config(config, pixels, theirs))
        save_torch_state_dict(theirs, partial)
        _write_tower(config, pixels, theirs, partial / TOWER_FOLDER)
        _write_tokenizer(tokenizer or model, partial)


def _original_config(config: Any, pixels: Mapping[str, Any], theirs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    text = config.text_config.to_dict()
    rope = text.pop("rope_parameters", None) or {}
    kind = config.text_config.model_type
    patch = config.vision_feature_select_strategy == "default"
    siglip = config.vision_config.model_type.startswith("siglip")
    return {
        **{key: value for key, value in text.items() if key not in NOT_OF_THE_MODEL},
        "model_type": MODEL_TYPES[kind],
        "architectures": [ARCHITECTURES[kind]],
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": None,
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "vocab_size": len(theirs["model.embed_tokens.weight"]),
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "mm_vision_tower": TOWER_FOLDER,
        "mm_projector_type": original.projector_kind(theirs),
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        # The original's SigLIP tower has no class token, and "patch" keeps all of it.
        "mm_vision_select_feature": "patch" if patch or siglip else "cls_patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad" if pixels.get("do_pad") else "square",
        "tokenizer_model_max_length": MAX_LENGTH,
        "tokenizer_padding_side": "right",
    }


def _write_tower(config: Any, pixels: Mapping[str, Any], theirs: Mapping[str, torch.Tensor], folder: Path) -> None:
    folder.mkdir()
    siglip = config.vision_config.model_type.startswith("siglip")
    size = config.vision_config.image_size
    square = {"height": size, "width": size}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_center_crop": not siglip,
            "crop_size": square,
            "size": square if siglip else {"shortest_edge": size},
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": pixels["image_mean"],
            "image_std": pixels["image_std"],
        },
    )
    config.vision_config.save_pretrained(folder)
    prefix = original.THEIR_TOWER.removesuffix("vision_model.")
    tower = {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}
    save_torch_state_dict(tower, folder)


def _write_tokenizer(source: Path, folder: Path) -> None:
    tokenizer = without_image_token(load_tokenizer(source, MAX_LENGTH))
    model = source / "tokenizer.model" if source.is_dir() else source
    if not (model.is_file() and model.name == "tokenizer.model"):
        LOG.warning("%s has no tokenizer.model, which the original reads for Llama: tokenizer.json is written", source)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(folder)
        return
    shutil.copyfile(model, folder / model.name)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": is_legacy(tokenizer)}
    settings |= {"add_bos_token": True, "add_eos_token": False, "padding_side": "right", "model_max_length": MAX_LENGTH}
    write_json(folder / "tokenizer_config.json", settings | {name: getattr(tokenizer, name) for name in names})


def convert_projector(file: Path, out: Path, to: str) -> None:
    """Convert a projector alone."""
    weights = dict(read_file(file))
    if to == "huggingface":
        with atomic_path(out) as temporary:
            save_file(original.read_projector(weights), temporary, metadata={"format": "pt"})
        return
    if missing := {"linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"} - weights.keys():
        raise CheckpointError(f"{file}: no {sorted(missing)[0]} in it", "give a projector.safetensors of this project")
    original.write_pickle(original.original_projector(weights, "mlp2x_gelu"), out)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Convert a checkpoint or a projector."""
    arguments = parser().parse_args(argv)
    for name in ("model", "projector", "vision_tower", "tokenizer"):
        path = getattr(arguments, name)
        if path is not None and not path.exists():
            raise CheckpointError(f"--{name.replace('_', '-')} {path}: no such file or folder", "check the path")
    light_transformers()
    if arguments.model is None:
        if arguments.projector is None:
            raise CheckpointError("neither --model nor --projector", "name what is to be converted")
        convert_projector(arguments.projector, arguments.out, arguments.to)
    elif arguments.to == "huggingface":
        paths = (arguments.vision_tower, arguments.tokenizer, arguments.projector)
        to_huggingface(arguments.model, arguments.out, *paths)
    else:
        to_original(arguments.model, arguments.out, arguments.tokenizer)
    LOG.info("wrote %s", arguments.out)
    return None


if __name__ == "__main__":
    cli.run(main)
