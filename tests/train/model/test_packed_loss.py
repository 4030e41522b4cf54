"""Padding-free rows: the same loss, parts and gradients as the plain path's, whatever the back end and the cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import Sample, Turn
from safe_llava.train import run
from safe_llava.train.loop.metrics import read_metrics
from safe_llava.train.model import attention
from safe_llava.train.model import packed_loss as packed
from safe_llava.train.model.build import set_trainable
from safe_llava.train.model.loss import LossModel
from safe_llava.train.model.packed_loss import PackedLossModel
from safe_llava.train.samples.annotated import Features, SampleDataset
from safe_llava.train.samples.batches import MicroBatch, Packing
from safe_llava.train.samples.schedule import MicroBatchBudget, Plan
from train.model.test_loss import CUTS, gradients, load, micro, weighted_loss
from train.tiny import Tiny, make_row

CPU_BACK_ENDS = (attention.BLOCKS, attention.FLEX)


@pytest.fixture
def pair(tiny: Tiny) -> tuple[LossModel, SampleDataset]:
    return load(tiny, make_row(), tiny.root / "projector.safetensors", tiny.root / "finetune.json")


def packing(dataset: SampleDataset) -> Packing:
    return Packing(dataset.image_token_id, dataset.image.tokens, dataset.image.size, torch.float32)


def packed_micro(dataset: SampleDataset, indices: list[int], groups: list[int]) -> MicroBatch:
    return packing(dataset).micro_batch([dataset[k] for k in indices], groups)


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value.double()).norm()
        assert float(error) <= 1e-5 * float(value.double().norm()) + 1e-9, name


def plain_result(model: LossModel, dataset: SampleDataset) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = weighted_loss(model, [micro(dataset, *cut) for cut in CUTS["as groups"]], 2)
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("cut", CUTS)
def test_packed_rows_give_the_plain_loss_and_gradients(pair: Any, cut: str) -> None:
    model, dataset = pair
    expected, expected_gradients = plain_result(model, dataset)
    fast = PackedLossModel(model.llava, model.image_token_id, attention.BLOCKS)
    loss = weighted_loss(fast, [packed_micro(dataset, *part) for part in CUTS[cut]], 2)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=0)
    assert_same_gradients(gradients(fast), expected_gradients)


def test_flex_attention_gives_the_plain_loss(pair: Any) -> None:
    model, dataset = pair
    expected, _ = plain_result(model, dataset)
    fast = PackedLossModel(model.llava, model.image_token_id, attention.FLEX)
    with torch.no_grad():  # PyTorch has no backward pass of it on a CPU
        loss = weighted_loss(fast, [packed_micro(dataset, *part) for part in CUTS["cut"]], 2)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variant", ["compiled", "recomputed", "head in parts", "projector only"])
def test_every_shortcut_gives_the_plain_gradients(pair: Any, variant: str) -> None:
    model, dataset = pair
    row = make_row()
    if variant == "projector only":
        set_trainable(model.llava, row, row.pretrain)
    expected, expected_gradients = plain_result(model, dataset)
    if variant == "recomputed":
        set_trainable(model.llava, row, row.finetune.model_copy(update={"gradient_checkpointing": True}))
    fast = PackedLossModel(model.llava, model.image_token_id, attention.BLOCKS, 3 if "parts" in variant else None)
    if variant == "compiled":
        fast.compile_layers(backend="aot_eager")
    batches = [packed_micro(dataset, *part) for part in CUTS["cut"]]
    loss = weighted_loss(fast, batches, 2)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=0)
    assert_same_gradients(gradients(fast), expected_gradients)


def test_layers_are_compiled_once_for_all_lengths(pair: Any) -> None:
    model, dataset = pair
    fast = PackedLossModel(model.llava, model.image_token_id, attention.BLOCKS)
    torch._dynamo.reset()
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    fast.compile_layers(backend=count)  # type: ignore[arg-type]
    seen = []
    for indices in ([0, 1], [2, 3, 4], [5, 6, 8, 9], [10, 11, 12]):
        weighted_loss(fast, [packed_micro(dataset, indices, [0] * len(indices))], 1).backward()
        seen.append(len(graphs))
    assert seen[-1] == seen[1]


def test_each_sample_has_its_own_part(pair: Any) -> None:
    model, dataset = pair
    weights = torch.tensor([0.5, 0.25, 2.0])
    plain = model(**micro(dataset, [0, 3, 5], [0] * 3).tensors, weights=weights)
    fast = PackedLossModel(model.llava, model.image_token_id, attention.BLOCKS)
    row = fast(**packed_micro(dataset, [0, 3, 5], [0] * 3).tensors, weights=weights)
    torch.testing.assert_close(row[1], plain[1], rtol=1e-5, atol=1e-7)


def test_a_sample_cannot_see_another(pair: Any) -> None:
    model, dataset = pair
    fast = PackedLossModel(model.llava, model.image_token_id, attention.BLOCKS)
    one, other = (
        fast(**packed_micro(dataset, [before, 5], [0, 0]).tensors, weights=torch.ones(2))[1] for before in (0, 2)
    )
    torch.testing.assert_close(one[1], other[1], rtol=1e-6, atol=0)
    assert one[0] != other[0]


def test_a_sample_cut_inside_its_image_takes_the_first_features(pair: Any) -> None:
    _, dataset = pair
    whole = dataset[0]
    begin = whole.image_span[0]
    cut = Features(
        whole.input_ids[: begin + 2], whole.labels[: begin + 2], whole.pixel_values, "cut", 3, (begin, begin + 2)
    )
    row = packing(dataset).micro_batch([cut, dataset[1]], [0, 0])
    assert row.tensors["feature_rows"].tolist() == [0, 1, *range(4, 8)]
    assert row.labelled[0] == 0 and row.images == 2
    assert row.tokens == begin + 2 + len(dataset[1].input_ids)


def test_the_same_attention_for_fewer_heads_of_keys(tmp_path: Any) -> None:
    torch.manual_seed(1)
    bounds = torch.tensor([0, 3, 8], dtype=torch.int32)
    query, key, value = torch.randn(1, 4, 8, 16), torch.randn(1, 2, 8, 16), torch.randn(1, 2, 8, 16)
    found = {}
    attention._load_flex()
    for name in CPU_BACK_ENDS:
        options = attention.layer_arguments(name, bounds, 5, 8)
        found[name] = attention.BACK_ENDS[name](torch.nn.Module(), query, key, value, None, scaling=0.3, **options)[0]
    torch.testing.assert_close(found[attention.FLEX], found[attention.BLOCKS], rtol=1e-5, atol=1e-6)


def test_a_cpu_takes_the_plain_path_unless_told_otherwise() -> None:
    cpu = torch.device("cpu")
    assert attention.choose_backend("auto", cpu) == attention.PADDED
    assert attention.choose_backend(attention.BLOCKS, cpu) == attention.BLOCKS
    for name in (attention.VARLEN, attention.FLASH):
        with pytest.raises(TrainError, match=name):
            attention.choose_backend(name, cpu)


def test_another_kind_of_layer_is_refused(pair: Any) -> None:
    model, _ = pair
    model.llava.model.language_model.config.layer_types = ["sliding_attention"] * 2
    with pytest.raises(TrainError, match="padding-free"):
        packed.PackedLossModel(model.llava, model.image_token_id, attention.BLOCKS)


@pytest.mark.parametrize("own", [{}, {"zero_stage": 3}, {"zero_stage": 1, "offload_optimizer": True}], ids=str)
def test_a_run_on_packed_rows_goes_as_the_plain_one(tiny: Tiny, tmp_path: Any, one_process: None, own: Any) -> None:
    finetune = {"max_steps": 3, "order": "shuffled", "warmup_ratio": 0.0}
    plain = tiny.arguments(tmp_path / "plain", make_row(finetune=finetune), "finetune")
    fast = tiny.arguments(tmp_path / "fast", make_row(finetune={**finetune, **own}), "finetune")
    fast += ["--attention", "blocks", "--micro-tokens", "150"]
    for arguments in (plain, fast):
        assert run.train(run.parser().parse_args(arguments)) == 0
    expected, found = (read_metrics(tmp_path / name / "metrics.csv") for name in ("plain", "fast"))
    assert len(found) == len(expected) == 3
    for one, other in zip(expected, found, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)


def test_shares_are_cut_by_tokens_alike_for_all_processes() -> None:
    stage = make_row(finetune={"global_batch": 16, "reference_group": 4, "order": "shuffled"}).finetune
    samples = [
        Sample(k + 1, str(k), "x.png" if k % 3 else None, (Turn("human", "word " * (1 + 7 * k % 60)),))
        for k in range(32)
    ]
    budget = MicroBatchBudget(400, 50, 128)
    plan = Plan(stage, samples, 7, 3, None, budget)
    for step in range(2):
        shares = [plan.share(step, rank) for rank in range(3)]
        assert len({len(share) for share in shares}) == 1
        slots = [slot for share in shares for part in share for slot in part]
        assert sorted(slot.index for slot in slots) == sorted(plan.step(step))
        for part in (part for share in shares for part in share):
            assert sum(budget.cost(plan._lengths[slot.index]) for slot in part) <= 400
        assert len(shares[0]) < 6  # fewer micro-batches than samples
