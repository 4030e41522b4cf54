"""The samples that the two stages train on, tokenised and with their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.templates import PLAIN, TEMPLATES, V1
from safe_llava.checkpoints.tokenizer import IMAGE_TOKEN, without_image_token
from safe_llava.checkpoints.tower import CLIP_MEAN, CLIP_STD, Tower
from safe_llava.config.train import StageName
from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import Sample, spoken
from safe_llava.train.samples import conversation as chat
from safe_llava.train.samples.images import ImageGeometry, load_image, preprocess

STAGE_GEOMETRY: dict[StageName, ImageGeometry] = {"pretrain": ImageGeometry.CROP, "finetune": ImageGeometry.PAD}
STAGE_TEMPLATE: dict[StageName, str] = {"pretrain": PLAIN.name, "finetune": V1.name}
# Pixels of a set that is small enough to be kept ready, in each loader: such a one is learnt from in many epochs.
KEPT_BYTES = 256 * 2**20


def signed_length(sample: Sample) -> int:
    """Return the whitespace-separated words of all turns, negative for a sample without an image."""
    return sample.words if sample.image is not None else -sample.words


@dataclass(frozen=True)
class ImageFormat:
    """What the vision tower takes and gives: CLIP ViT-L/14-336 by default.

    Attributes:
        size: edge of the square it sees, in pixels.
        tokens: positions that one image takes in the sequence.
        mean, std: of each channel, on the scale 0 to 1.
        geometry: how an image becomes a square; None is the stage's own (pretrain: crop, finetune: pad).
    """

    size: int = 336
    tokens: int = 576
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    geometry: ImageGeometry | None = None

    @classmethod
    def of(cls, tower: Tower, geometry: str) -> ImageFormat:
        """Return how images reach a tower under a stage's geometry ("pad", "crop" or "resize")."""
        return cls(tower.config.image_size, tower.tokens, tower.mean, tower.std, ImageGeometry(geometry))


@dataclass(frozen=True)
class Features:
    """One sample, ready for a batch.

    Attributes:
        input_ids, labels: after the image is expanded and the sequence cut.
        pixel_values: float32 [3, size, size]; None where no position shows the image.
        image_span: first position of the image and the one behind its last, or None. Shorter than the image's
            features where the cut fell into it: its first features belong there.
        words: whitespace-separated words of the conversation.
        would_mismatch: whether the original would have dropped the sample from the loss.
    """

    input_ids: list[int]
    labels: list[int]
    pixel_values: torch.Tensor | None
    sample_id: str
    words: int
    image_span: tuple[int, int] | None = None
    would_mismatch: bool = False


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right to the longest of them.

    Attributes:
        input_ids, labels, attention_mask: int64 [B, T]; the mask is 1 on tokens and 0 on padding.
        image_mask: bool [B, T], true on image positions.
        pixel_values: float32 [N, 3, H, W], the N images of the batch in the order of its samples; None with none.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    image_mask: torch.Tensor
    pixel_values: torch.Tensor | None
    sample_ids: list[str]


class SampleDataset:
    """The samples of one stage by their index, tokenised and with their pixels.

    Args:
        samples: from ``formats.annotations.read_samples``.
        images: the folder that the samples' image paths start from.
        tokenizer: from ``load_tokenizer``; ``<image>`` may have been added to it.
        stage: "pretrain" or "finetune": what template and geometry are where nothing else is said.
        image: what the vision tower takes.
        image_token_id: what stands at image positions (``add_image_token``).
        max_length: where an expanded sequence is cut, in tokens.
        template: name of the template; None is the stage's own ("plain" or "v1").
        pixels: False leaves the images unopened, for looking at ids and labels alone.

    Raises:
        TrainError: the template is unknown, or a sample does not suit the stage (it is named).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        images: Path,
        tokenizer: PreTrainedTokenizerFast,
        stage: StageName,
        *,
        image_token_id: int,
        max_length: int,
        image: ImageFormat | None = None,
        template: str | None = None,
        pixels: bool = True,
    ) -> None:
        template = template or STAGE_TEMPLATE[stage]
        if template not in TEMPLATES:
            raise TrainError(f"no template is called {template!r}", f"choose one of {', '.join(TEMPLATES)}")
        self.samples, self.images, self.pixels = samples, images, pixels
        self.tokenizer = without_image_token(tokenizer)
        self.template = TEMPLATES[template]
        self.image = image or ImageFormat()
        self.geometry = self.image.geometry or STAGE_GEOMETRY[stage]
        self.image_token_id, self.max_length = image_token_id, max_length
        self._kept: dict[int, Features] = {}
        self._keeps = len(samples) * 3 * self.image.size**2 * torch.float32.itemsize <= KEPT_BYTES
        for sample in samples:
            self._check(sample)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Features:
        """Return one sample.

        Raises:
            TrainError: its image is missing or cannot be decoded; the sample and the path are named.
        """
        if index in self._kept:
            return self._kept[index]
        features = self._features(self.samples[index])
        if self._keeps:
            self._kept[index] = features
        return features

    def _features(self, sample: Sample) -> Features:
        shows = sample.image is not None
        encoded = chat.encode(sample.turns, self.template, self.tokenizer, shows, self.max_length, self.image.tokens)
        span = None
        if chat.IMAGE_TOKEN_INDEX in encoded.input_ids:
            begin = encoded.input_ids.index(chat.IMAGE_TOKEN_INDEX)
            span = (begin, min(begin + self.image.tokens, self.max_length))
        encoded = chat.expand(encoded, self.image.tokens, self.image_token_id)
        pixel_values = self._pixels(sample) if self.pixels and span is not None else None
        return Features(
            encoded.input_ids, encoded.labels, pixel_values, sample.id, sample.words, span, encoded.would_mismatch
        )

    @cached_property
    def lengths(self) -> list[int]:
        """Signed length of every sample, for ``modality_length_order``."""
        return [signed_length(sample) for sample in self.samples]

    def _check(self, sample: Sample) -> None:
        """Refuse before the run what would stop it hours later."""
        remedy = "mend or remove the sample in the annotations"
        turns = sample.turns if self.template is PLAIN else spoken(sample.turns)
        asking = [turn.speaker for turn in turns if IMAGE_TOKEN in turn.text]
        if self.template is PLAIN and (sample.image is None or len(turns) != 2 or asking != [turns[0].speaker]):
            raise TrainError(f"sample {sample.id}: pretraining needs one turn with {IMAGE_TOKEN} and a caption", remedy)
        if sample.image is not None and len(asking) > 1:
            raise TrainError(f"sample {sample.id}: {len(asking)} turns ask for its one image", remedy)
        # A placeholder may come to be where one is taken out of a turn: `<ima<image>ge>`.
        if sample.image is not None and any(chat.image_first(turn.text).count(IMAGE_TOKEN) > 1 for turn in turns):
            raise TrainError(f"sample {sample.id}: a turn asks for more than one image", remedy)

    def _pixels(self, sample: Sample) -> torch.Tensor:
        path = self.images / str(sample.image)
        try:
            image = load_image(path)
        except TrainError as error:
            raise TrainError(f"sample {sample.id}: {error.message}", error.remedy) from error
        return preprocess(image, self.geometry, self.image.size, self.image.mean, self.image.std)


def collate(features: Sequence[Features], pad_id: int) -> Batch:
    """Pad samples on the right into one batch; a batch of text alone has no ``pixel_values``."""
    shape = (len(features), max(len(item.input_ids) for item in features))
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    labels = torch.full(shape, chat.IGNORE_INDEX, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    image_mask = torch.zeros(shape, dtype=torch.bool)
    for row, item in enumerate(features):
        length = len(item.input_ids)
        input_ids[row, :length] = torch.tensor(item.input_ids)
        labels[row, :length] = torch.tensor(item.labels)
        # By length, not by the pad token: a text may hold that token itself.
        attention_mask[row, :length] = 1
        if item.image_span is not None:
            image_mask[row, slice(*item.image_span)] = True
    images = [item.pixel_values for item in features if item.pixel_values is not None]
    pixel_values = torch.stack(images) if images else None
    return Batch(input_ids, labels, attention_mask, image_mask, pixel_values, [item.sample_id for item in features])
