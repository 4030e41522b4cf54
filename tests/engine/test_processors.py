"""Processors as other exporters write them: templates in other places, keys that are missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import tiny
from safe_llava.checkpoints.processors import load_processor
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import CheckpointError, EngineError, SafeLlavaError
from safe_llava.engine.base import Request
from safe_llava.engine.transformers.engine import TransformersEngine


def change(file: Path, **keys: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    values = json.loads(file.read_text(encoding="utf-8")) | keys
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


@pytest.fixture
def folder(tiny_llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llava, tmp_path / "model"))


def load(folder: Path) -> Any:
    return load_processor(folder, local_files_only=True)


def named(whole: str) -> list[dict[str, str]]:
    return [{"name": "tool_use", "template": "x"}, {"name": "default", "template": whole}]


def in_a_folder(folder: Path, **templates: str) -> None:
    (folder / "additional_chat_templates").mkdir()
    for name, template in templates.items():
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(template, encoding="utf-8")


PLACES: dict[str, Callable[[Path, str], object]] = {
    "tokenizer": lambda folder, whole: change(folder / "tokenizer_config.json", chat_template=whole),
    "tokenizer, by name": lambda folder, whole: change(folder / "tokenizer_config.json", chat_template=named(whole)),
    "tokenizer, one": lambda folder, whole: change(
        folder / "tokenizer_config.json", chat_template=[{"name": "vqa", "template": whole}]
    ),
    "processor": lambda folder, whole: change(folder / "processor_config.json", chat_template=whole),
    "processor, by name": lambda folder, whole: change(folder / "processor_config.json", chat_template=named(whole)),
    "json": lambda folder, whole: (folder / "chat_template.json").write_text(json.dumps({"chat_template": whole})),
    "json, by name": lambda folder, whole: (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": named(whole)})
    ),
    "folder": lambda folder, whole: in_a_folder(folder, default=whole, tool_use="x"),
    "folder, one": lambda folder, whole: in_a_folder(folder, vqa=whole),
    "with a mark": lambda folder, whole: (folder / "chat_template.jinja").write_text("\ufeff" + whole),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_template_is_used_wherever_exporters_put_it(place: str, folder: Path) -> None:
    whole = load(folder).chat_template
    (folder / "chat_template.jinja").unlink()
    PLACES[place](folder, whole)
    processor = load(folder)
    assert processor.chat_template == whole
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]}
    assert "what ?" in processor.apply_chat_template([message], add_generation_prompt=True)


def test_a_template_that_is_not_there_or_cannot_be_chosen_is_refused(folder: Path, row: EvaluatedModel) -> None:
    (folder / "chat_template.jinja").write_text("")
    with pytest.raises(EngineError, match="no chat template"):
        TransformersEngine(folder, row, device="cpu")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="no chat template"):
        TransformersEngine(folder, row, device="cpu")
    in_a_folder(folder, one="x", two="y")
    with pytest.raises(CheckpointError, match="by the names one, two, and none is `default`"):
        load(folder)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for", "does not render: TemplateSyntaxError"),
        ("{% for one in messages %}{{ 'USER: ' + one['content'] }}{% endfor %}", "does not render: TypeError"),
        ("{% for one in messages %}USER: {{ one['content'] }}{% endfor %}", "not the question with one image"),
        ("USER: <image>\nASSISTANT:", "not the question with one image"),
    ],
)
def test_a_template_that_shows_no_question_is_refused_at_load(
    template: str, fault: str, folder: Path, row: EvaluatedModel
) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    for said in ("known", "recorded"):
        with pytest.raises(EngineError, match=fault):
            TransformersEngine(folder, row.model_copy(update={"template": said}), device="cpu")


@pytest.mark.parametrize("family", sorted(tiny.MAKERS))
def test_no_key_of_a_processor_fails_every_question(family: str, tmp_path: Path, row: EvaluatedModel) -> None:
    """Without any one key, or with null, a checkpoint answers as with it, or is refused when it is loaded."""
    torch.manual_seed(3)
    whole = tmp_path / "whole"
    tiny.MAKERS[family](whole)
    asked = row.model_copy(update={"family": family})
    request = Request("a", tiny.QUESTIONS[0], (PIL.Image.new("RGB", (60, 40), "green"),), 4)
    [right] = TransformersEngine(whole, asked, device="cpu", threads=1).generate([request])
    assert right.status == "ok"
    for key in json.loads((whole / "processor_config.json").read_text()):
        for null in (False, True):
            folder = Path(shutil.copytree(whole, tmp_path / f"{key}-{null}"))
            values = json.loads((folder / "processor_config.json").read_text())
            values[key] = None
            if not null:
                del values[key]
            (folder / "processor_config.json").write_text(json.dumps(values), encoding="utf-8")
            try:
                engine = TransformersEngine(folder, asked, device="cpu", threads=1)
            except SafeLlavaError as error:
                assert str(folder) in error.message
            else:
                assert list(engine.generate([request])) == [right]


def test_what_the_processor_does_not_say_is_taken_from_the_model(folder: Path) -> None:
    whole = load(folder)
    keys = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    change(folder / "processor_config.json", **dict.fromkeys(keys))
    assert {key: getattr(load(folder), key) for key in keys} == {key: getattr(whole, key) for key in keys}


def test_a_patch_size_that_nothing_says_is_refused(folder: Path) -> None:
    change(folder / "processor_config.json", patch_size=None)
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    del vision["patch_size"]
    change(folder / "config.json", vision_config=vision)
    with pytest.raises(CheckpointError, match=r"neither processor_config\.json nor config\.json says `patch_size`"):
        load(folder)


def test_a_patch_size_that_is_not_the_models_is_refused(folder: Path) -> None:
    change(folder / "processor_config.json", patch_size=14)
    with pytest.raises(CheckpointError, match=r"processor_config\.json: `patch_size` is 14, and 7 in config\.json"):
        load(folder)


def test_a_weight_that_is_missing_is_refused_at_load(folder: Path, row: EvaluatedModel) -> None:
    """transformers leaves a random one in its place, and only warns."""
    weights = load_file(folder / "model.safetensors")
    [name] = [name for name in weights if name.endswith("layers.1.mlp.down_proj.weight")]
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"does not load: .*no weights for .*layers\.1\.mlp\.down_proj\.weight"):
        TransformersEngine(folder, row, device="cpu")
