"""Building the model: what is trained, what is refused, adapters and their merge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_llava.checkpoints.tower import read_tower
from safe_llava.core.errors import CheckpointError, TrainError
from safe_llava.train.model.build import build_model, merge_lora, parameter_groups, set_trainable
from train.tiny import Tiny, make_row

LORA = {"rank": 2, "alpha": 6, "dropout": 0.0, "projector_learning_rate": 2e-5}


def build(tiny: Tiny, row: Any, projector: Path | None = None) -> Any:
    return build_model(row, tiny.language_model, read_tower(tiny.tower, row.vision_feature_select), projector, 10_000)


def trainable(model: Any) -> set[str]:
    """First parts of the names of what receives gradients."""
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    return {".".join(name.split(".")[:2]) for name in names}


def test_stages_train_what_they_should(tiny: Tiny) -> None:
    row = make_row()
    llava = build(tiny, row)
    set_trainable(llava, row, row.pretrain)
    assert trainable(llava) == {"model.multi_modal_projector"}
    set_trainable(llava, row, row.finetune)
    assert trainable(llava) == {"model.multi_modal_projector", "model.language_model", "lm_head.weight"}


def test_weights_are_those_of_the_folders(tiny: Tiny) -> None:
    llava = build(tiny, make_row(), tiny.root / "projector.safetensors")
    words = load_file(tiny.language_model / "model.safetensors")
    assert torch.equal(llava.lm_head.weight, words["lm_head.weight"])
    assert torch.equal(llava.get_input_embeddings().weight, words["model.embed_tokens.weight"])
    projector = load_file(tiny.root / "projector.safetensors")
    assert torch.equal(llava.model.multi_modal_projector.linear_2.weight, projector["linear_2.weight"])


def test_a_new_projector_follows_the_seed_and_leaves_the_generator_alone(tiny: Tiny) -> None:
    def linear(seed: int) -> torch.Tensor:
        return build(tiny, make_row(seed=seed)).model.multi_modal_projector.linear_1.weight

    state = torch.get_rng_state()
    first = linear(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, linear(7))
    assert not torch.equal(first, linear(8))


def test_a_linear_projector_is_one_layer(tiny: Tiny) -> None:
    row = make_row(projector="linear")
    llava = build(tiny, row)
    set_trainable(llava, row, row.pretrain)
    names = [name for name, value in llava.named_parameters() if value.requires_grad]
    assert names == [f"model.multi_modal_projector.linear_1.{kind}" for kind in ("weight", "bias")]
    features = torch.randn(3, 16)
    projector = llava.model.multi_modal_projector
    torch.testing.assert_close(projector(features), projector.linear_1(features))


def test_bf16_and_weights_in_a_bin_file(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    shutil.copytree(tiny.language_model, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    row = make_row(precision="bf16")
    llava = build_model(row, folder, read_tower(tiny.tower, row.vision_feature_select), None, 10_000)
    assert {value.dtype for value in llava.parameters()} == {torch.bfloat16}


def test_a_bin_file_with_code_in_it_is_not_run(tiny: Tiny, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "lm"
    shutil.copytree(tiny.language_model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        build_model(make_row(), folder, read_tower(tiny.tower, "patch"), None, 10_000)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fault", ["no weights", "a weight is missing", "no config"])
def test_a_broken_language_model_is_named(fault: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    shutil.copytree(tiny.language_model, folder)
    file = folder / "model.safetensors"
    if fault == "no weights":
        file.unlink()
    elif fault == "no config":
        (folder / "config.json").unlink()
    else:
        weights = load_file(file)
        del weights["model.layers.1.mlp.up_proj.weight"]
        file.unlink()
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        build_model(make_row(), folder, read_tower(tiny.tower, "patch"), None, 10_000)
    assert str(folder) in caught.value.message


def test_a_projector_of_another_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "projector.safetensors"
    save_file({"linear_1.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(TrainError, match="projector"):
        build(tiny, make_row(), file)


def test_siglip_has_no_class_token_to_drop(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    SiglipVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="SigLIP has none"):
        read_tower(tmp_path, "patch")
    row = make_row(vision_feature_select="full", finetune={"image_geometry": "resize"})
    tower = read_tower(tmp_path, row.vision_feature_select)
    assert (tower.tokens, tower.class_tokens, tower.mean) == (4, 0, (0.5, 0.5, 0.5))
    llava = build_model(row, tiny.language_model, tower, None, 10_000)
    features = llava.get_image_features(torch.zeros(1, 3, 28, 28), return_dict=True).pooler_output
    assert features[0].shape == (4, 16)


def test_full_keeps_clips_class_token(tiny: Tiny) -> None:
    assert read_tower(tiny.tower, "full").tokens == 5


def test_a_whole_clip_is_read_for_its_vision_half(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    vision = json.loads((tiny.tower / "config.json").read_text())
    text = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig(**vision).to_dict()))
    clip.save_pretrained(tmp_path)
    tower = read_tower(tmp_path, "patch")
    llava = build_model(make_row(), tiny.language_model, tower, None, 10_000)
    name = "encoder.layers.1.mlp.fc1.weight"
    found = {key: value for key, value in llava.model.vision_tower.state_dict().items() if key.endswith(name)}
    expected = clip.vision_model.state_dict()[name]
    assert [torch.equal(value, expected) for value in found.values()] == [True]


def test_adapters_alone_are_trained_and_merge_to_the_same_answer(tiny: Tiny) -> None:
    row = make_row(lora=LORA)
    llava = build(tiny, row)
    set_trainable(llava, row, row.finetune)
    names = [name for name, value in llava.named_parameters() if value.requires_grad]
    assert all(".lora_" in name or "multi_modal_projector" in name for name in names)
    assert sum(".lora_A." in name for name in names) == 2 * 7
    with torch.no_grad():
        for name, value in llava.named_parameters():
            if ".lora_B." in name:
                value.normal_()
    ids = torch.tensor([[1, 5, 9, 40]])
    adapted = llava.lm_head(llava.model.language_model(ids).last_hidden_state)
    plain = build(tiny, make_row())
    merged = merge_lora(dict(llava.named_parameters()), row)
    assert merged.keys() == dict(plain.named_parameters()).keys()
    before = plain.lm_head(plain.model.language_model(ids).last_hidden_state)
    plain.load_state_dict({**plain.state_dict(), **merged})
    after = plain.lm_head(plain.model.language_model(ids).last_hidden_state)
    torch.testing.assert_close(after, adapted, rtol=0, atol=1e-4)
    assert not torch.allclose(before, adapted, atol=1e-2)


def test_learning_rates_and_decay_by_group(tiny: Tiny) -> None:
    row = make_row(lora=LORA, finetune={"weight_decay": 0.1})
    llava = build(tiny, row)
    set_trainable(llava, row, row.finetune)
    found = parameter_groups(llava, row, row.finetune)
    groups = {(group["peak"], group["weight_decay"]): group["params"] for group in found}
    assert groups.keys() == {(2e-3, 0.1), (2e-5, 0.1), (2e-5, 0.0)}
    assert [value.ndim for value in groups[2e-5, 0.0]] == [1, 1]
    assert len(groups[2e-3, 0.1]) == 2 * 2 * 7
