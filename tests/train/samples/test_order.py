"""The order of samples: the original's, and the properties it is made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import Sample, Turn
from safe_llava.train.samples.annotated import signed_length
from safe_llava.train.samples.order import modality_length_order, shuffled_order


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_lengths(images: int, texts: int) -> list[int]:
    drawn = torch.randint(1, 400, (images + texts,), generator=seeded(5)).tolist()
    signs = torch.randperm(images + texts, generator=seeded(6)).tolist()
    return [length if sign < images else -length for length, sign in zip(drawn, signs, strict=True)]


@pytest.mark.parametrize("case", range(3))
def test_equals_the_original(case: int, shared: Path) -> None:
    golden = json.loads((shared / "golden" / "sampler.json").read_text(encoding="utf-8"))[case]
    arguments = golden["lengths"], golden["per_device_batch"], golden["devices"]
    torch.manual_seed(golden["global_seed"])
    assert modality_length_order(*arguments, seeded(golden["generator_seed"])) == golden["indices"]
    own = modality_length_order(*arguments, seeded(golden["generator_seed"]), seeded(golden["global_seed"]))
    assert own == golden["indices"]


@pytest.mark.parametrize(("images", "texts"), [(70, 30), (64, 16), (5, 95), (100, 0), (0, 100), (1, 1)])
def test_every_sample_comes_once(images: int, texts: int) -> None:
    lengths = random_lengths(images, texts)
    order = modality_length_order(lengths, 4, 2, seeded(1), seeded(2))
    assert sorted(order) == list(range(images + texts))


def test_no_batch_but_the_last_mixes_modalities() -> None:
    lengths = random_lengths(163, 61)
    order = modality_length_order(lengths, 4, 2, seeded(1), seeded(2))
    whole = 163 // 8 + 61 // 8
    signs = [{lengths[index] > 0 for index in order[8 * k : 8 * k + 8]} for k in range(whole)]
    assert [len(sign) for sign in signs] == [1] * whole
    assert {True} in signs
    assert {False} in signs
    rest = order[8 * whole :]
    assert rest == sorted(rest)
    assert {lengths[index] > 0 for index in rest} == {True, False}


def test_the_longest_of_a_mega_batch_open_the_devices_shares() -> None:
    lengths = random_lengths(64, 0)
    order = modality_length_order(lengths, 4, 2, seeded(1))
    for begin in range(0, 64, 8):
        mega = [lengths[index] for index in order[begin : begin + 8]]
        assert sorted([mega[0], mega[4]]) == sorted(mega)[-2:]
        for share in (mega[:4], mega[4:]):
            assert share == sorted(share, reverse=True)


def test_seeds_decide_the_order() -> None:
    lengths = random_lengths(60, 40)
    first = modality_length_order(lengths, 4, 2, seeded(1), seeded(2))
    assert modality_length_order(lengths, 4, 2, seeded(1), seeded(2)) == first
    assert modality_length_order(lengths, 4, 2, seeded(3), seeded(2)) != first
    assert modality_length_order(lengths, 4, 2, seeded(1), seeded(3)) != first


def test_a_sample_without_words_is_refused() -> None:
    with pytest.raises(TrainError, match="sample 2"):
        modality_length_order([5, -3, 0], 1, 1, seeded(0))


def test_signed_length_counts_the_words_of_all_turns() -> None:
    turns = (Turn("human", "<image>\n What  is it?"), Turn("gpt", "A cat."))
    assert signed_length(Sample(1, "a", "a.png", turns)) == 6
    assert signed_length(Sample(1, "a", None, turns)) == -6


def test_shuffled_order_is_that_of_torchs_random_sampler() -> None:
    from_torch = torch.utils.data.RandomSampler(range(50), generator=seeded(42))
    ours = seeded(42)
    for _ in range(3):  # epochs
        assert shuffled_order(50, ours) == list(from_torch)
