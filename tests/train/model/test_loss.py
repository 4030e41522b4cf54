"""The loss and its gradient, against transformers' own loss and against the original's values."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
from safe_llava.checkpoints.tower import read_tower
from safe_llava.core.files import read_jsonl
from safe_llava.formats.annotations import read_samples
from safe_llava.train.model.build import build_model, set_trainable
from safe_llava.train.model.loss import LossModel, sample_weights
from safe_llava.train.samples.annotated import Features, ImageFormat, SampleDataset
from safe_llava.train.samples.batches import MicroBatch, count_labelled, make_micro_batch
from train.tiny import Tiny, make_row


def load(tiny: Tiny, row: Any, projector: Path, annotations: Path) -> tuple[LossModel, SampleDataset]:
    tokenizer = load_tokenizer(tiny.language_model, row.max_length)
    image_token_id = add_image_token(tokenizer)
    tower = read_tower(tiny.tower, row.vision_feature_select)
    llava = build_model(row, tiny.language_model, tower, projector, image_token_id)
    set_trainable(llava, row, row.finetune)
    dataset = SampleDataset(
        list(read_samples(annotations)),
        tiny.images,
        tokenizer,
        "finetune",
        image_token_id=image_token_id,
        max_length=row.max_length,
        image=ImageFormat.of(tower, "pad"),
    )
    return LossModel(llava, image_token_id), dataset


def weighted_loss(model: LossModel, batches: list[MicroBatch], groups: int) -> torch.Tensor:
    tokens = torch.zeros(groups, dtype=torch.long)
    for batch in batches:
        mine = batch.groups >= 0
        tokens.index_add_(0, batch.groups[mine], batch.labelled[mine])
    losses = [model(**batch.tensors, weights=sample_weights(batch.groups, tokens))[0] for batch in batches]
    return torch.stack(losses).sum()


def gradients(model: LossModel) -> dict[str, torch.Tensor]:
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


def micro(dataset: SampleDataset, indices: list[int], groups: list[int]) -> MicroBatch:
    return make_micro_batch([dataset[k] for k in indices], groups, 0, dataset.image.size)


# Samples 0-3 are one group, 4-7 the other; 3 and 7 have no image.
CUTS = {
    "as groups": [([0, 1, 2, 3], [0] * 4), ([4, 5, 6, 7], [1] * 4)],
    "one batch": [([0, 1, 2, 3, 4, 5, 6, 7], [0] * 4 + [1] * 4)],
    "cut": [([0, 1, 2], [0] * 3), ([3], [0]), ([], []), ([4, 5, 6, 7], [1] * 4)],
    "one by one": [([k], [k // 4]) for k in range(8)],
}


@pytest.mark.parametrize("cut", CUTS)
def test_the_loss_is_the_mean_of_the_groups_token_means(tiny: Tiny, cut: str) -> None:
    model, dataset = load(tiny, make_row(), tiny.root / "projector.safetensors", tiny.root / "finetune.json")
    # A vocabulary that holds the image token, for transformers' own forward; its logit must not count.
    expected = torch.zeros(())
    vocabulary = model.llava.config.text_config.vocab_size
    for begin in (0, 4):
        batch = micro(dataset, list(range(begin, begin + 4)), [0] * 4).tensors
        embeddings = model.embed(batch["input_ids"], batch["pixel_values"], batch["image_rows"])
        output = model.llava(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], labels=batch["labels"])
        assert output.logits.shape[-1] == vocabulary
        expected = expected + output.loss / 2
    expected.backward()
    reference = gradients(model)

    loss = weighted_loss(model, [micro(dataset, *item) for item in CUTS[cut]], groups=2)
    loss.backward()

    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    found = gradients(model)
    assert found.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_embedding_puts_image_features_where_the_image_is(tiny: Tiny) -> None:
    model, dataset = load(tiny, make_row(), tiny.root / "projector.safetensors", tiny.root / "finetune.json")
    batch = micro(dataset, [3, 0], [0, 0]).tensors
    embeddings = model.embed(batch["input_ids"], batch["pixel_values"], batch["image_rows"])
    features = model.llava.get_image_features(batch["pixel_values"], return_dict=True).pooler_output[0]
    is_image = batch["input_ids"] == model.image_token_id
    assert is_image.sum(dim=1).tolist() == [0, 4]
    torch.testing.assert_close(embeddings[is_image], features)
    words = model.llava.get_input_embeddings()(batch["input_ids"][~is_image])
    torch.testing.assert_close(embeddings[~is_image], words)


def test_an_image_cut_by_the_length_limit_gives_its_first_features(tiny: Tiny) -> None:
    model, dataset = load(tiny, make_row(), tiny.root / "projector.safetensors", tiny.root / "finetune.json")
    whole, image = dataset[0], model.image_token_id
    begin = whole.input_ids.index(image)
    end = begin + 2
    cut = Features(whole.input_ids[:end], whole.labels[:end], whole.pixel_values, "cut", 0, (begin, end))
    batch = make_micro_batch([cut, dataset[1]], [0, 0], 0, dataset.image.size).tensors
    embeddings = model.embed(batch["input_ids"], batch["pixel_values"], batch["image_rows"])
    features = model.llava.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    torch.testing.assert_close(embeddings[0, begin : begin + 2], features[0][:2])
    torch.testing.assert_close(embeddings[1, begin : begin + 4], features[1])


def test_counts_leave_out_the_first_position_and_the_untaught() -> None:
    labels = torch.tensor([[5, -100, 6, 7], [-100, -100, -100, -100]])
    assert count_labelled(labels).tolist() == [2, 0]


def test_weights_of_groups_fillers_and_groups_without_a_label() -> None:
    weights = sample_weights(torch.tensor([0, 1, -1, 2]), torch.tensor([4, 0, 2]))
    assert weights.tolist() == pytest.approx([1 / 12, 0, 0, 1 / 6])


ORIGINAL_NAMES = {
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.": "model.language_model.",
}


@pytest.fixture(scope="module")
def original(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The original's tiny checkpoint as folders of language model, tower and projector."""
    golden, root = shared / "golden" / "tiny_llava", tmp_path_factory.mktemp("original")
    folders = Tiny(root)
    (root / "images").symlink_to(golden / "images")
    (root / "tower").symlink_to(golden / "vision_tower")
    folders.language_model.mkdir()
    weights = load_file(golden / "checkpoint" / "model.safetensors")
    words = {
        name: value for name, value in weights.items() if not {"mm_projector", "vision_tower"} & set(name.split("."))
    }
    save_file(words, folders.language_model / "model.safetensors", metadata={"format": "pt"})
    names = {"0": "linear_1", "2": "linear_2"}
    projector = {
        f"{names[layer]}.{kind}": weights[f"model.mm_projector.{layer}.{kind}"]
        for layer in names
        for kind in ("weight", "bias")
    }
    save_file(projector, root / "projector.safetensors")
    config = json.loads((golden / "checkpoint" / "config.json").read_text())
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folders.language_model / "config.json").write_text(json.dumps(config))
    model = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
    (folders.language_model / "tokenizer.model").symlink_to(model)
    return folders


def cases(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / "tiny_llava" / "losses.json").read_text())


def test_losses_and_gradient_norms_are_the_originals(original: Tiny, shared: Path) -> None:
    wanted = cases(shared)
    assert len(wanted) == 4
    for name, case in wanted.items():
        stage = "pretrain" if case["geometry"] == "crop" else "finetune"
        row = make_row(max_length=2048)
        rows = {item["id"]: item for item in read_jsonl(shared / "golden" / f"{stage}_samples.jsonl")}
        annotations = original.root / f"{name}.json"
        annotations.write_text(json.dumps([rows[identity] for identity in case["ids"]]))
        model, dataset = load(original, row, original.root / "projector.safetensors", annotations)
        if stage == "pretrain":
            image = ImageFormat.of(read_tower(original.tower, row.vision_feature_select), "crop")
            dataset = SampleDataset(
                dataset.samples,
                original.images,
                dataset.tokenizer,
                "pretrain",
                image_token_id=dataset.image_token_id,
                max_length=2048,
                image=image,
            )
        half = len(case["ids"]) // 2
        indices = list(range(len(case["ids"])))
        batches = [micro(dataset, part, [0] * len(part)) for part in (indices[:half], indices[half:])]
        loss = weighted_loss(model, batches, groups=1)
        assert loss.item() == pytest.approx(case["loss"], abs=1e-5), name
        loss.backward()
        for parameter, norm in case["grad_norms"].items():
            old, new = next(((o, n) for o, n in ORIGINAL_NAMES.items() if parameter.startswith(o)), ("", ""))
            value = model.llava.get_parameter(new + parameter.removeprefix(old))
            assert value.grad is not None, parameter
            assert value.grad.double().norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-5), f"{name}: {parameter}"
