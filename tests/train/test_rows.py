"""Every row of the configuration trains, exports and answers, as a tiny random model of its own architecture."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.tower import read_tower
from safe_llava.config.load import read_yaml, resolve_inheritance
from safe_llava.config.train import TrainedModel
from safe_llava.formats.annotations import read_samples
from safe_llava.train import run
from safe_llava.train.loop.metrics import read_metrics
from safe_llava.train.model.loss import LossModel
from safe_llava.train.samples.annotated import ImageFormat, SampleDataset
from safe_llava.train.samples.conversation import IGNORE_INDEX
from train.tiny import Tiny

ROOT = Path(__file__).parents[2]
ROWS = {
    name: TrainedModel.model_validate(values)
    for name, values in resolve_inheritance(read_yaml(ROOT / "config" / "train.yaml")["train"]["models"], "").items()
    if not name.startswith("base-")
}
ANSWER = 8  # tokens
QUESTIONS = (0, 3, 5)  # samples; the second has no image
SPARE = 21  # rows of the vocabulary behind the tokenizer's, as published Qwen2 has
SMALL = {"global_batch": 4, "reference_group": 2, "max_steps": 3, "learning_rate": 5e-3, "warmup_ratio": 0.0}

pytestmark = pytest.mark.usefixtures("one_process")


def tiny_row(row: TrainedModel) -> TrainedModel:
    """The row with everything of its own but its size and the machine."""
    lora = row.lora.model_copy(update={"rank": 4, "alpha": 8}) if row.lora else None
    stages = {name: getattr(row, name).model_copy(update=SMALL) for name in ("pretrain", "finetune")}
    machine = {"accelerator": "cpu", "precision": "fp32", "processes": 1, "max_length": 192}
    return row.model_copy(update={**machine, **stages, "lora": lora})


def qwen_tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen2's special tokens: no beginning, and an end that no answer is taught."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(sentences, trainer)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[0], pad_token=special[0])


@dataclass
class Folders(Tiny):
    """The tiny data with models of one row's architectures."""

    models: Path = field(default=Path())
    tower_name: str = ""
    words_name: str = ""

    @property
    def language_model(self) -> Path:
        return self.models / self.words_name

    @property
    def tower(self) -> Path:
        return self.models / self.tower_name


@pytest.fixture(scope="module")
def architectures(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named as the rows name their models, one of each kind made and shared."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    root = tmp_path_factory.mktemp("architectures")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    words = PreTrainedTokenizerFast.from_pretrained(tiny.language_model)
    llama = LlamaConfig(vocab_size=len(words), max_position_embeddings=512, initializer_range=0.2, **size)
    LlamaForCausalLM(llama).save_pretrained(root / "vicuna")
    words.save_pretrained(root / "vicuna")
    sentences = [turn["value"].replace("<image>", "") for sample in tiny.samples for turn in sample["conversations"]]
    words = qwen_tokenizer(sentences)
    qwen = Qwen2Config(
        vocab_size=len(words) + SPARE,
        tie_word_embeddings=True,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        **size,
    )
    Qwen2ForCausalLM(qwen).save_pretrained(root / "qwen2")
    words.save_pretrained(root / "qwen2")
    (root / "clip").symlink_to(tiny.tower)
    tower = {**size, "num_hidden_layers": 3, "image_size": 28, "patch_size": 14}
    SiglipVisionModel(SiglipVisionConfig(**tower)).save_pretrained(root / "siglip")
    return root


def folders_of(row: TrainedModel, architectures: Path, tiny: Tiny) -> Folders:
    """The kind of a row's models is the beginning of their names; an unknown one needs a tiny model here."""
    names = {name: name.split("-")[0] for name in (row.language_model, row.vision_tower)}
    for kind in names.values():
        assert (architectures / kind).is_dir(), f"a row has a model of an architecture without a tiny one: {kind}"
    return Folders(tiny.root, tiny.samples, architectures, names[row.vision_tower], names[row.language_model])


def dataset_of(row: TrainedModel, folders: Folders, tokenizer: Any, image_token_id: int) -> SampleDataset:
    return SampleDataset(
        list(read_samples(folders.root / "finetune.json")),
        folders.images,
        tokenizer,
        "finetune",
        image_token_id=image_token_id,
        max_length=row.max_length,
        image=ImageFormat.of(read_tower(folders.tower, row.vision_feature_select), row.finetune.image_geometry),
        template=row.finetune.template,
    )


@torch.no_grad()
def greedy(llava: Any, prompt: list[int], pixels: torch.Tensor | None, image_token_id: int) -> list[int]:
    """What the model in the trainer's hands answers: the training's own forward pass, word by word."""
    model, ids = LossModel(llava, image_token_id), list(prompt)
    images = torch.zeros(1, 3, 28, 28) if pixels is None else pixels[None]
    for _ in range(ANSWER):
        embeddings = model.embed(torch.tensor([ids]), images, torch.zeros(1, dtype=torch.long))
        hidden = llava.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        ids.append(int(llava.lm_head(hidden[0, -1]).argmax()))
    return ids[len(prompt) :]


class Trained:
    """A row's two stages, and what the trainer's model answered before it was written."""

    def __init__(self, row: TrainedModel, folders: Folders, out: Path, patch: pytest.MonkeyPatch) -> None:
        self.row, self.folders, self.out = row, folders, out
        self.prompts: list[list[int]] = []
        self.answers: list[list[int]] = []
        finish = run.finish

        def answer_and_finish(arguments: Any, job: run.Job, *rest: Any) -> Path:
            if arguments.stage == "finetune":
                self._answer(job.llava.eval(), job.tokenizer)
            return finish(arguments, job, *rest)

        patch.setattr(run, "finish", answer_and_finish)
        for stage in ("pretrain", "finetune"):
            arguments = folders.arguments(out / stage, row, stage)
            if stage == "finetune":
                arguments[arguments.index("--projector") + 1] = str(out / "pretrain" / "projector.safetensors")
            assert run.train(run.parser().parse_args(arguments)) == 0

    def _answer(self, llava: Any, tokenizer: Any) -> None:
        image_token_id = llava.config.image_token_id
        self.dataset = dataset_of(self.row, self.folders, tokenizer, image_token_id)
        for index in QUESTIONS:
            features = self.dataset[index]
            first = next(k for k, label in enumerate(features.labels) if label != IGNORE_INDEX)
            self.prompts.append(features.input_ids[:first])
            self.answers.append(greedy(llava, self.prompts[-1], features.pixel_values, image_token_id))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_exports_and_answers_as_the_trainers_model(
    name: str, architectures: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    row = tiny_row(ROWS[name])
    folders = folders_of(row, architectures, tiny)
    trained = Trained(row, folders, tmp_path, monkeypatch)
    for stage in ("pretrain", "finetune"):
        assert len(read_metrics(tmp_path / stage / "metrics.csv")) == 3

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "finetune" / "model").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "finetune" / "model")
    ends = model.generation_config.eos_token_id
    end = {"v1": "</s>", "qwen_1_5": "<|im_end|>"}[row.finetune.template]
    ends = ends if isinstance(ends, list) else [ends]
    assert processor.tokenizer.convert_tokens_to_ids(end) in ends
    for index, prompt, answer in zip(QUESTIONS, trained.prompts, trained.answers, strict=True):
        sample = tiny.samples[index]
        text = sample["conversations"][0]["value"].replace("<image>\n", "")
        picture = [{"type": "image", "image": Image.open(tiny.images / sample["image"])}] if "image" in sample else []
        message = [{"role": "user", "content": [*picture, {"type": "text", "text": text}]}]
        inputs = processor.apply_chat_template(
            message, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        found = inputs["input_ids"][0].tolist()
        # v1's prompt ends before the space that the answer's first token brings along.
        assert found == prompt, f"{name}: sample {index}"
        said = model.generate(**inputs, max_new_tokens=ANSWER)[0, len(found) :].tolist()
        stop = next((k + 1 for k, token in enumerate(answer) if token in ends), len(answer))
        assert said == answer[:stop], f"{name}: sample {index}"
    assert len({tuple(answer) for answer in trained.answers}) > 1, "the questions matter"


def test_a_tied_head_and_spare_rows_stay_so(architectures: Path, tiny: Tiny, tmp_path: Path) -> None:
    from safetensors import safe_open

    row = tiny_row(ROWS["safe-llava-v1.5-0.5b"])
    folders = folders_of(row, architectures, tiny)
    arguments = folders.arguments(tmp_path, row, "pretrain")
    assert run.train(run.parser().parse_args(arguments)) == 0
    arguments = folders.arguments(tmp_path / "finetune", row, "finetune")
    arguments[arguments.index("--projector") + 1] = str(tmp_path / "projector.safetensors")
    assert run.train(run.parser().parse_args(arguments)) == 0
    folder = tmp_path / "finetune" / "model"
    before = json.loads((folders.language_model / "config.json").read_text())["vocab_size"]
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == config["trained_vocab_size"] == before
    assert config["image_token_index"] == before - SPARE
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118
        assert file.get_slice("language_model.model.embed_tokens.weight").get_shape()[0] == before
