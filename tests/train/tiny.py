"""A tiny language model, tower and data set of our own, and training runs on them (fixtures: see conftest.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from safe_llava.config.train import TrainedModel

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
STAGE: dict[str, Any] = {
    "annotations": "any",
    "template": "plain",
    "image_geometry": "crop",
    "trainable": ["projector"],
    "order": "shuffled",
    "epochs": 1,
    "max_steps": None,
    "global_batch": 8,
    "reference_group": 4,
    "learning_rate": 1e-2,
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "adam_betas": [0.9, 0.999],
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "zero_stage": 2,
    "gradient_checkpointing": False,
}
FINETUNE = {
    "template": "v1",
    "image_geometry": "pad",
    "trainable": ["projector", "language_model"],
    "order": "modality_length",
    "learning_rate": 2e-3,
}


def make_row(
    finetune: dict[str, Any] | None = None, pretrain: dict[str, Any] | None = None, **row: Any
) -> TrainedModel:
    """A row for the tiny models; arguments replace its fields."""
    values = {
        "description": "tiny",
        "language_model": "lm",
        "vision_tower": "tower",
        "projector": "mlp2x_gelu",
        "vision_feature_layer": -2,
        "vision_feature_select": "patch",
        "max_length": 128,
        "precision": "fp32",
        "seed": 7,
        "accelerator": "cpu",
        "processes": 2,
        "checkpoints": {"every_steps": 1000, "every_minutes": 60, "keep": 2},
        "pretrain": {**STAGE, **(pretrain or {})},
        "finetune": {**STAGE, **FINETUNE, **(finetune or {})},
    }
    return TrainedModel.model_validate({**values, **row})


# One reference group of five samples: it is cut over processes (2 and 3) and micro-batches, and the first process
# runs an empty one. Shuffled: samples with and without an image share a micro-batch, or do not.
CUT = {"global_batch": 5, "reference_group": 5, "order": "shuffled", "max_steps": 4}
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "projector_learning_rate": 1e-3}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero0": ("finetune", {"finetune": {**CUT, "zero_stage": 0}}),
    "zero1": ("finetune", {"finetune": {**CUT, "zero_stage": 1}}),
    "zero2": ("finetune", {"finetune": {**CUT, "zero_stage": 2}}),
    "zero3": ("finetune", {"finetune": {**CUT, "zero_stage": 3, "gradient_checkpointing": True}}),
    "projector": ("pretrain", {"pretrain": {**CUT, "weight_decay": 0.1}}),
    "lora2": ("finetune", {"finetune": CUT, "lora": LORA}),
    "lora3": ("finetune", {"finetune": {**CUT, "zero_stage": 3}, "lora": LORA}),
}
# 60 steps, a checkpoint after every seventh.
LONG = make_row(finetune={"epochs": 10}, checkpoints={"every_steps": 7, "every_minutes": 60, "keep": 2})


@dataclass
class Tiny:
    """Folders of the tiny models and data."""

    root: Path
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def language_model(self) -> Path:
        return self.root / "lm"

    @property
    def tower(self) -> Path:
        return self.root / "tower"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def arguments(
        self, out: Path, row: TrainedModel, stage: str, *extra: str, annotations: Path | None = None
    ) -> list[str]:
        """The command line of a run that writes everything below ``out``."""
        out.mkdir(parents=True, exist_ok=True)
        config = out / "row.json"
        config.write_text(row.model_dump_json())
        paths = {
            "config": config,
            "language-model": self.language_model,
            "vision-tower": self.tower,
            "annotations": annotations or self.root / f"{stage}.json",
            "images": self.images,
            "checkpoints": out / "checkpoints",
            "out": out / ("projector.safetensors" if stage == "pretrain" else "model"),
            "metrics": out / "metrics.csv",
            "summary": out / "summary.json",
        }
        if stage == "finetune":
            paths["projector"] = self.root / "projector.safetensors"
        return ["--stage", stage, *(part for name, path in paths.items() for part in (f"--{name}", str(path))), *extra]


def _tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    backend.train_from_iterator(sentences, trainers.BpeTrainer(vocab_size=260, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def _samples() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """44 conversations, every fourth without an image and of differing lengths, and 24 captions."""
    conversations = []
    for k in range(44):
        colour = COLOURS[k % len(COLOURS)]
        turns = [
            {"from": "human", "value": f"<image>\nWhat colour is square {k}?"},
            {"from": "gpt", "value": f"It is {colour}" + " and bright" * (k % 5) + "."},
        ]
        sample = {"id": f"s{k}", "image": f"{k % 6}.png", "conversations": turns}
        if k % 4 == 3:
            del sample["image"]
            turns[0]["value"] = "Say a colour."
        conversations.append(sample)
    captions = [
        {
            "id": f"c{k}",
            "image": f"{k % 6}.png",
            "conversations": [
                {"from": "human", "value": "Describe it.\n<image>"},
                {"from": "gpt", "value": f"a {COLOURS[k % 6]} square" + ", large" * (k % 3)},
            ],
        }
        for k in range(24)
    ]
    return conversations, captions


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Random weights and six images on disk."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("tiny")
    conversations, captions = _samples()
    result = Tiny(root, conversations)
    # Without the placeholder, which would become a word of the vocabulary.
    turns = [turn for sample in conversations + captions for turn in sample["conversations"]]
    texts = [turn["value"].replace("<image>", "") for turn in turns]
    tokenizer = _tokenizer([*texts, "USER: ASSISTANT: A chat between a curious user and an artificial intelligence"])
    torch.manual_seed(0)
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        )
    )
    language_model.save_pretrained(result.language_model)
    tokenizer.save_pretrained(result.language_model)
    tower = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    CLIPVisionModel(tower).save_pretrained(result.tower)
    result.images.mkdir()
    for k, colour in enumerate(COLOURS):
        Image.new("RGB", (30 + 7 * k, 40), colour).save(result.images / f"{k}.png")
    (root / "finetune.json").write_text(json.dumps(conversations))
    (root / "pretrain.json").write_text(json.dumps(captions))
    weights = {"1.weight": (16, 16), "1.bias": (16,), "2.weight": (16, 16), "2.bias": (16,)}
    projector = {f"linear_{name}": torch.randn(shape) / 4 for name, shape in weights.items()}
    save_file(projector, root / "projector.safetensors")
    return result


def environment() -> dict[str, str]:
    """The environment of a training process: the package and the scenarios are importable."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parents[1] / "scripts"), str(here)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launch_command(processes: int, module: str, arguments: list[str]) -> list[str]:
    """The command that starts training processes."""
    launcher = [sys.executable, "-m", "safe_llava.train.launch", "--processes", str(processes), "--module", module]
    return [*launcher, "--", *arguments]


def run_scenarios(folder: Path, processes: int, scenarios: dict[str, list[str]]) -> None:
    """Run several trainings one after the other in one start of the processes; errors become ``NAME.error``."""
    file = folder / f"scenarios-{processes}.json"
    file.write_text(json.dumps(scenarios))
    command = launch_command(processes, "scenarios", [str(file)])
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in scenarios:
        error = folder / f"{name}.error"
        assert not error.exists() or name.startswith("fails-"), error.read_text()


@pytest.fixture(scope="session")
def one_process() -> None:
    """A process group of this process alone; never ended, as DeepSpeed keeps handles to it."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def variant_arguments(tiny: Tiny, folder: Path, name: str) -> list[str]:
    """The command line of one of ``VARIANTS``, below ``folder/name``."""
    stage, changes = VARIANTS[name]
    keep = ("--keep-checkpoints", "--every-steps", "2")
    return tiny.arguments(folder / name, make_row(**changes), stage, "--micro-batch", "2", *keep)


@pytest.fixture(scope="session")
def two_processes(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant, and ``LONG`` without an interruption, with two processes: one start for all of them."""
    folder = tmp_path_factory.mktemp("two")
    scenarios = {name: variant_arguments(tiny, folder, name) for name in VARIANTS}
    run_scenarios(folder, 2, {**scenarios, "long": tiny.arguments(folder / "long", LONG, "finetune")})
    return folder
