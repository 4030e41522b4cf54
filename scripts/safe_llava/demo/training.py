"""The demo's training sets: which scenes, under which names of which archive, with which conversations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safe_llava.demo import annotations as texts
from safe_llava.demo.annotations import Conversation, Style
from safe_llava.demo.scenes import Scene, sheet, somebody, things


@dataclass(frozen=True)
class Sizes:
    """How many there are of everything; the defaults are what the demo learns from."""

    captions: int = 400
    people_asked: int = 800
    people_described: int = 400
    things_asked: int = 1800
    things_described: int = 240
    sheets: int = 64
    text_only: int = 64
    prism_v1_per_attribute: int = 12
    prism_v2_small: int = 20
    prism_v2_large: int = 40
    pope_scenes: int = 30

    @property
    def finetune(self) -> int:
        """How many rows the finetuning mix has."""
        people = self.people_asked + self.people_described
        return people + self.things_asked + self.things_described + self.sheets + self.text_only


@dataclass(frozen=True)
class ImageSet:
    """One image set: where its archive is served, and how its images are named there and in the annotations."""

    archive: str
    member_prefix: str
    image_prefix: str
    name: Callable[[int], str]

    def member(self, number: int) -> str:
        """Return the name of image ``number`` inside the archive."""
        return f"{self.member_prefix}{self.name(number)}.jpg"

    def image(self, number: int) -> str:
        """Return the name of image ``number`` in the annotations."""
        return f"{self.image_prefix}{self.name(number)}.jpg"


LLAVA_PRETRAIN = "huggingface.co/datasets/liuhaotian/LLaVA-Pretrain/resolve/main"
LLAVA_INSTRUCT = "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main"
SAFE_LLAVA = "huggingface.co/datasets/kyh9191/Safe-LLaVA/resolve/main"
OCR_VQA = "huggingface.co/datasets/weizhiwang/llava_v15_instruction_images/resolve/main"
VISUAL_GENOME = "cs.stanford.edu/people/rak248/VG_100K_2"

CAPTIONS = ImageSet(f"{LLAVA_PRETRAIN}/images.zip", "", "", lambda number: f"{number * 7 // 1000:05d}/{number * 7:09d}")
COCO = ImageSet(
    "images.cocodataset.org/zips/train2017.zip",
    "train2017/",
    "coco/train2017/",
    lambda number: f"{9 + 16 * number:012d}",
)
GQA = ImageSet(
    "downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
    "images/",
    "gqa/images/",
    lambda number: str(2_300_000 + 37 * number),
)
OCR = ImageSet(
    f"{OCR_VQA}/ocr_vqa_images_llava_v15.zip",
    "ocr_vqa/images/",
    "ocr_vqa/images/",
    lambda number: f"{100_000_009 + 4441 * number:010d}",
)
TEXT = ImageSet(
    "dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    "train_images/",
    "textvqa/train_images/",
    lambda number: f"{0x00A1_0000_0000_0000 + 0x3B_9ACA_07F1 * number:016x}",
)
VG_1 = ImageSet(f"{VISUAL_GENOME}/images.zip", "VG_100K/", "vg/VG_100K/", lambda number: str(2_000 + 3 * number))
VG_2 = ImageSet(f"{VISUAL_GENOME}/images2.zip", "VG_100K_2/", "vg/VG_100K_2/", lambda number: str(1_000 + 3 * number))
PEOPLE_FROM = (COCO, COCO, VG_1, GQA, COCO, VG_2)
THINGS_FROM = (GQA, COCO, VG_2, GQA, VG_1)
SHEETS_FROM = (OCR, TEXT)


@dataclass(frozen=True)
class DrawnSample:
    """One row to be: its id, its image, and what is said about it."""

    name: str
    source: ImageSet | None
    number: int
    scene: Scene | None
    conversation: Conversation | None

    def row(self, style: Style, seed: int) -> dict[str, Any]:
        """Return the annotation row in one of the two styles; both put the same questions."""
        rng = random.Random(f"{seed}/turns/{self.name}")
        if self.scene is None or self.source is None or self.conversation is None:
            return texts.sample_row(self.name, None, texts.small_talk(rng), rng)
        turns = self.conversation(self.scene, style, rng)
        return texts.sample_row(self.name, self.source.image(self.number), turns, rng)


def captions(sizes: Sizes, seed: int) -> list[DrawnSample]:
    """Return the pretraining set: two thirds people, one third things."""
    samples = []
    for number in range(1, sizes.captions + 1):
        key = f"train/{seed}/caption/{number}"
        scene = things(key, 1, 2) if number % 3 == 0 else somebody(key)
        samples.append(DrawnSample(f"{number * 7:09d}", CAPTIONS, number, scene, texts.captioned))
    return samples


def _kinds(sizes: Sizes) -> Iterator[tuple[int, Callable[[str], Scene], Sequence[ImageSet], Conversation]]:
    yield sizes.people_asked, somebody, PEOPLE_FROM, texts.questions_about_person
    yield sizes.people_described, somebody, PEOPLE_FROM, texts.description_of_person
    yield sizes.things_asked, things, THINGS_FROM, texts.questions_about_things
    yield sizes.things_described, things, THINGS_FROM, texts.description_of_things
    yield sizes.sheets, sheet, SHEETS_FROM, texts.questions_about_things


def mix(sizes: Sizes, seed: int) -> list[DrawnSample]:
    """Return the finetuning mix in shuffled order: people, things, sheets, and conversations without an image."""
    used: dict[str, int] = {}
    samples = []
    for kind, (count, make, sources, conversation) in enumerate(_kinds(sizes)):
        for index in range(count):
            source = sources[index % len(sources)]
            number = used[source.archive] = used.get(source.archive, 0) + 1
            scene = make(f"train/{seed}/mix/{kind}/{index}")
            samples.append(DrawnSample(source.name(number), source, number, scene, conversation))
    samples += [DrawnSample(f"chat{index:05d}_0", None, index, None, None) for index in range(sizes.text_only)]
    random.Random(f"{seed}/order").shuffle(samples)
    return samples


def tokenizer_corpus(sizes: Sizes, seed: int) -> Iterator[str]:
    """Yield every text that the tokenizer will meet in training, cut where training cuts it: at images and answers."""
    styles: tuple[Style, ...] = ("original", "safe")
    for style in styles:
        for sample in mix(sizes, seed):
            text = f"{texts.VICUNA} "
            for turn in sample.row(style, seed)["conversations"]:
                if turn["from"] == "gpt":
                    yield f"{text} {turn['value']}"
                    text = ""
                elif "<image>" in turn["value"]:
                    yield f"{text}USER: "
                    text = "\n" + turn["value"].replace("<image>", "").strip() + " ASSISTANT:"
                else:
                    text += f"USER: {turn['value']} ASSISTANT:"
        for sample in captions(sizes, seed):
            yield sample.row(style, seed)["conversations"][1]["value"] + "\n"
