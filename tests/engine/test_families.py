"""Every evaluated row is asked, as a tiny random model of its own class with its real template."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, get_args

import PIL.Image
import pytest
import transformers

from engine import tiny
from safe_llava.checkpoints.families import CONVERTED, FAMILIES
from safe_llava.checkpoints.templates import KNOWN
from safe_llava.config.load import load
from safe_llava.config.models import EvaluatedModel
from safe_llava.config.schema import Config
from safe_llava.config.selection import config_files
from safe_llava.core.errors import CheckpointError, EngineError
from safe_llava.engine.base import Request
from safe_llava.engine.prompts import EXAMPLES, template_facts
from safe_llava.engine.transformers.engine import TransformersEngine
from safe_llava.train import convert

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "prompts"
CONFIG: Config = load(config_files())
# And a family that no row has: InternVL in transformers' own format, as the hub has it too.
MODELS = {**CONFIG.models, "internvl-hf": CONFIG.models["InternVLC3"].model_copy(update={"family": "internvl"})}
ROWS = sorted(MODELS)


class Zoo:
    """Checkpoints and engines of rows, made when they are first asked for; rows that are alike share one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def engine(self, name: str, **changes: Any) -> TransformersEngine:
        row = MODELS[name]
        training = CONFIG.train.models[row.train] if row.train else None
        parts = (
            (training.vision_tower, training.language_model, training.finetune.template) if training else (row.family,)
        )
        kind = "-".join([*parts, "internlm2" if "2_5" in name else ""])
        if kind not in self._made:
            self._made[kind] = tiny.make(name, row, training, self._folder / kind)
        size = {"image_size": (56, 28)} if row.image_size else {}
        small = row.model_copy(update={"batch_size": 4, **size, **changes})
        return TransformersEngine(self._made[kind], small, device="cpu", threads=1)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Two questions about each of three images that differ in shape, and one without an image."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number, size in enumerate([(40, 40), (90, 30), (25, 60)]):
        path = folder / f"{number}.png"
        PIL.Image.radial_gradient("L").resize(size).convert("RGB").point(lambda v, n=number: (v * (n + 1)) % 256).save(
            path
        )
        made += [Request(f"{number}/{k}", tiny.QUESTIONS[(number + k) % 3], (path,), 3) for k in range(2)]
    return made


@pytest.mark.parametrize("name", ROWS)
def test_a_row_answers_in_batches_as_alone(zoo: Zoo, requests: list[Request], name: str) -> None:
    engine = zoo.engine(name)
    together = {reply.key: reply for reply in engine.generate(requests)}
    assert {reply.status for reply in together.values()} == {"ok"}, [reply.reason for reply in together.values()]
    alone = {reply.key: reply for request in requests for reply in engine.generate([request])}
    assert together == alone
    assert len({reply.text for reply in together.values()}) > 1, "questions and images are to be told apart"
    tensors = engine.adapter.tensors(requests, [engine.adapter.prompt(request) for request in requests])
    mask, ids = tensors["attention_mask"], tensors["input_ids"]
    assert mask[:, -1].tolist() == [1] * len(requests), "padded on the left"
    assert mask[:, 0].min() == 0
    start = engine.adapter.tokenizer.bos_token_id
    if start is not None:
        assert (ids == start).sum(dim=1).tolist() == [1] * len(requests), "one start token"


@pytest.mark.parametrize("name", ROWS)
def test_prompts_are_golden(zoo: Zoo, name: str) -> None:
    facts = template_facts(zoo.engine(name).adapter)
    assert MODELS[name].train is not None or facts["is_known"] is True
    for task, prompt in facts["prompts"].items():
        golden = GOLDEN / name / f"{task}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(prompt, encoding="utf-8")
        assert golden.read_text(encoding="utf-8") == prompt
        assert EXAMPLES[task] in prompt


def test_golden_prompts_are_those_of_the_rows() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == ROWS


def test_every_family_of_the_schema_is_known_and_made() -> None:
    named = set(get_args(EvaluatedModel.model_fields["family"].annotation))
    assert named == set(FAMILIES) == {row.family for row in MODELS.values()}
    assert {family.template for family in FAMILIES.values()} == set(KNOWN)


@pytest.mark.parametrize("family", sorted(CONVERTED))
def test_an_original_format_names_its_conversion(tmp_path: Path, family: str) -> None:
    row = next(row for row in CONFIG.models.values() if row.family == family)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(CheckpointError, match="original format") as caught:
        TransformersEngine(tmp_path, row, device="cpu")
    assert f"safe_llava.engine.convert --family {family} --source {tmp_path}" in caught.value.remedy


def test_the_format_of_llava_itself_names_its_conversion(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava_llama"}')
    with pytest.raises(CheckpointError, match="original format, `llava_llama`") as caught:
        TransformersEngine(tmp_path, CONFIG.models["LLaVA"], device="cpu")
    command = caught.value.remedy.split(",")[0].split()[3:]
    assert convert.parser().parse_args(command).model == tmp_path


def test_another_template_than_the_known_one_is_refused_or_recorded(zoo: Zoo, tmp_path: Path) -> None:
    model = Path(zoo.engine("LLaVA").adapter.tokenizer.name_or_path)
    other = tmp_path / "model"
    shutil.copytree(model, other)
    (other / "chat_template.jinja").write_text(KNOWN["llava"].replace("ASSISTANT:", "BOT:"), encoding="utf-8")
    row = CONFIG.models["LLaVA"]
    with pytest.raises(EngineError, match="BOT:") as caught:
        TransformersEngine(other, row, device="cpu")
    assert "template: recorded" in caught.value.remedy
    recorded = row.model_copy(update={"template": "recorded"})
    facts = template_facts(TransformersEngine(other, recorded, device="cpu").adapter, {"refusal_soft": "Who?"})
    assert facts["prompts"] == {"refusal_soft": "USER: <image>\nWho? BOT:"}
    assert (facts["is_known"], facts["template"], facts["family"]) == (False, "recorded", "llava")
    known = template_facts(zoo.engine("LLaVA").adapter)
    assert facts["template_sha256"] != known["template_sha256"]
    # A model that was trained here brings the template that it was trained with.
    trained = row.model_copy(update={"train": "any", "weights": None})
    assert TransformersEngine(other, trained, device="cpu").adapter.row.template == "known"


SEEN = {
    # Jinja of published checkpoints as others quote it, brought down to what one question needs.
    "llava": "USER: <image>\n{} ASSISTANT:",
    "gemma3": "<bos><start_of_turn>user\nYou are a helpful assistant.\n\n<start_of_image>{}<end_of_turn>\n"
    "<start_of_turn>model\n",
    "qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n",
    "qwen_1_5": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\n{}<|im_end|>\n"
    "<|im_start|>assistant\n",
}


@pytest.mark.parametrize("name", ["LLaVA", "LLaVA-Next", "Gemma", "Qwen25", "Safe-LLaVA-7B"])
def test_prompts_are_the_strings_that_were_published(zoo: Zoo, name: str) -> None:
    prompts = template_facts(zoo.engine(name).adapter)["prompts"]
    expected = SEEN[FAMILIES[CONFIG.models[name].family].template]
    assert prompts == {task: expected.format(question) for task, question in EXAMPLES.items()}


def test_pictures_are_read_without_torchvision_and_videos(zoo: Zoo) -> None:
    for name in ("LLaVA-Onevision", "Qwen25", "InternVLC3"):
        processor = zoo.engine(name).adapter.processor
        assert not hasattr(processor, "video_processor")
        assert type(processor.image_processor).__name__.endswith("Pil")
    # Others want to know of a converted checkpoint's video processor all the same.
    for name, kind in (("Safe-LLaVA-7B", "LlavaOnevisionVideoProcessor"), ("InternVLC2_5", "InternVLVideoProcessor")):
        folder = Path(zoo.engine(name).adapter.tokenizer.name_or_path)
        settings = json.loads((folder / "video_preprocessor_config.json").read_text())
        assert settings["video_processor_type"] == kind
        assert hasattr(transformers, kind)
        assert settings["size"] == {"height": 28, "width": 28}


def test_a_forced_size_is_what_the_tower_sees(zoo: Zoo, requests: list[Request]) -> None:
    free, forced = zoo.engine("Qwen25", image_size=None).adapter, zoo.engine("Qwen25").adapter
    prompts = [free.prompt(request) for request in requests]
    grids = [adapter.tensors(requests, prompts)["image_grid_thw"].unique(dim=0).tolist() for adapter in (free, forced)]
    assert len(grids[0]) == 3
    assert len(grids[1]) == 1
