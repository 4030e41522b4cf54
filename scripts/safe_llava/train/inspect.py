"""See what a stage trains on: ids and labels of every sample, and on a terminal the text with its labelled parts.

``python -m safe_llava.train.inspect --model DIR --annotations FILE --images DIR --stage finetune --out FILE.jsonl``
writes one line a sample (``id``, ``input_ids`` with the image token's id at image positions, ``labels``). With
``--loss`` each has its ``loss`` too: the mean over its labelled tokens in fp32, null where there are none.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.templates import TEMPLATES
from safe_llava.checkpoints.tokenizer import IMAGE_TOKEN, add_image_token, load_tokenizer
from safe_llava.checkpoints.tower import CLIP_MEAN, CLIP_STD
from safe_llava.config.train import StageName
from safe_llava.core import cli
from safe_llava.core.errors import TrainError
from safe_llava.core.files import read_json, write_jsonl
from safe_llava.core.progress import track
from safe_llava.formats.annotations import read_samples
from safe_llava.train.model.sample_loss import SampleLoss, load_loss
from safe_llava.train.samples.annotated import Features, ImageFormat, SampleDataset
from safe_llava.train.samples.conversation import IGNORE_INDEX

LOG = logging.getLogger(__name__)
SUPERVISED, RESET = "\033[1;32m", "\033[0m"


def model_image_format(model: Path) -> ImageFormat:
    """Read from a model folder what its vision tower takes; LLaVA-1.5's where the folder does not say.

    Read are ``image_seq_length`` and ``vision_config`` of ``config.json`` (or the tower's folder that
    ``mm_vision_tower`` names) and the mean and deviation of ``preprocessor_config.json``.
    """
    config = _json(model / "config.json")
    tower = config.get("vision_config") or {}
    pixels = _json(model / "preprocessor_config.json")
    if named := config.get("mm_vision_tower"):
        tower = tower or _json(model / named / "config.json")
        pixels = pixels or _json(model / named / "preprocessor_config.json")
    tower = tower.get("vision_config", tower)
    default = ImageFormat()
    size = int(tower.get("image_size", default.size))
    tokens = (size // int(tower["patch_size"])) ** 2 if "patch_size" in tower else default.tokens
    tokens = int(config.get("image_seq_length", tokens))
    mean, std = pixels.get("image_mean", CLIP_MEAN), pixels.get("image_std", CLIP_STD)
    return ImageFormat(size, tokens, tuple(mean), tuple(std))


def marked(features: Features, tokenizer: PreTrainedTokenizerFast, image_token_id: int) -> str:
    """Return the text of a sample, its labelled parts in green and its image as a count of positions."""
    parts = []
    positions = zip(features.input_ids, features.labels, strict=True)
    for (image, supervised), run in groupby(positions, lambda at: (at[0] == image_token_id, at[1] != IGNORE_INDEX)):
        ids = [token for token, _ in run]
        text = f"{IMAGE_TOKEN} × {len(ids)}" if image else tokenizer.decode(ids)
        parts.append(f"{SUPERVISED}{text}{RESET}" if supervised else text)
    return "".join(parts)


def _json(file: Path) -> dict[str, Any]:
    value = read_json(file) if file.is_file() else {}
    return value if isinstance(value, dict) else {}


def _rows(
    dataset: SampleDataset, tokenizer: PreTrainedTokenizerFast, show: int, loss: SampleLoss | None
) -> Iterator[dict[str, Any]]:
    counts: Counter[str] = Counter()
    for index in track(range(len(dataset)), "inspect", unit="samples"):
        item = dataset[index]
        if index < show:
            print(f"--- {item.sample_id}\n{marked(item, tokenizer, dataset.image_token_id)}")
        counts["without an image"] += item.image_span is None
        counts[f"cut at {dataset.max_length}"] += len(item.input_ids) >= dataset.max_length
        counts["without a supervised token"] += all(label == IGNORE_INDEX for label in item.labels)
        counts["that the original would drop (tokenization mismatch)"] += item.would_mismatch
        row = {"id": item.sample_id, "input_ids": item.input_ids, "labels": item.labels}
        yield row if loss is None else {**row, "loss": loss(item)}
    for name, count in counts.items():
        LOG.info("samples %s: %s of %s", name, f"{count:,}", f"{len(dataset):,}")


def parser() -> argparse.ArgumentParser:
    """Return the command line of this step."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.train.inspect", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with the tokenizer of the language model")
    parser.add_argument("--annotations", type=Path, required=True, help="JSON list of samples, or .jsonl")
    parser.add_argument("--images", type=Path, help="image folder; without it no image is opened")
    parser.add_argument("--stage", choices=get_args(StageName), required=True)
    parser.add_argument("--template", choices=list(TEMPLATES), help="default: plain or v1, by the stage")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens after the image is expanded")
    parser.add_argument("--image-tokens", type=int, help="positions of an image; default: what the model folder says")
    parser.add_argument("--loss", action="store_true", help="mean loss of each sample in fp32, by the folder's weights")
    parser.add_argument("--vision-tower", type=Path, help="tower of an original's checkpoint; default: as it names it")
    parser.add_argument("--show", type=int, default=5, help="samples to print when standard output is a terminal")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Write the ids and labels of every sample, and count what is unusual."""
    arguments = parser().parse_args(argv)
    if arguments.max_length < 1 or (arguments.image_tokens or 1) < 1:
        raise TrainError("--max-length and --image-tokens count tokens", "give whole numbers above 0")
    if arguments.loss and arguments.images is None:
        raise TrainError("--loss without --images", "name the image folder")
    tokenizer = load_tokenizer(arguments.model, arguments.max_length)
    image_token_id = add_image_token(tokenizer)
    loss = load_loss(arguments.model, arguments.vision_tower, image_token_id) if arguments.loss else None
    image = model_image_format(arguments.model)
    if arguments.image_tokens:
        image = ImageFormat(image.size, arguments.image_tokens, image.mean, image.std)
    dataset = SampleDataset(
        list(read_samples(arguments.annotations)),
        arguments.images or Path(),
        tokenizer,
        arguments.stage,
        image_token_id=image_token_id,
        max_length=arguments.max_length,
        image=image,
        template=arguments.template,
        pixels=arguments.images is not None,
    )
    show = arguments.show if sys.stdout.isatty() else 0
    write_jsonl(arguments.out, _rows(dataset, tokenizer, show, loss))
    return None


if __name__ == "__main__":
    cli.run(main)
