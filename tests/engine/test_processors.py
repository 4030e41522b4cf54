"""Processors as other exporters write them: templates in other places, keys that are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from safe_llava.checkpoints.processors import load_processor
from safe_llava.core.errors import CheckpointError


def change(file: Path, **keys: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    values = json.loads(file.read_text(encoding="utf-8")) | keys
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


@pytest.fixture
def folder(tiny_llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llava, tmp_path / "model"))


def load(folder: Path) -> Any:
    return load_processor(folder, local_files_only=True)


@pytest.mark.parametrize("named", [False, True])
def test_a_template_in_the_tokenizers_settings_is_used(named: bool, folder: Path) -> None:
    whole = load(folder).chat_template
    (folder / "chat_template.jinja").unlink()
    template = [{"name": "default", "template": whole}, {"name": "tool_use", "template": "x"}] if named else whole
    change(folder / "tokenizer_config.json", chat_template=template)
    processor = load(folder)
    assert processor.chat_template == whole
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]}
    assert "what ?" in processor.apply_chat_template([message], add_generation_prompt=True)


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
