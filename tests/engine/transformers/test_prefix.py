"""An image read once for all its questions: the same answers as without, faults that stay where they are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import pytest
import torch
import yaml
from transformers import DynamicCache

from engine import tiny
from safe_llava.config.models import EvaluatedModel
from safe_llava.engine.base import Reply, Request
from safe_llava.engine.images import open_image
from safe_llava.engine.transformers import prefix
from safe_llava.engine.transformers.asked import NotSharedError, SharedImage, by_image, prepared
from safe_llava.engine.transformers.engine import TransformersEngine

FAMILIES = {
    "llava": "LLaVA",
    "llava_next": "LLaVA-Next",
    "llava_onevision": "LLaVA-Onevision",
    "internvl": "InternVLC3",
    "qwen2_5_vl": "Qwen25",
}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every class of models that shares."""
    models = yaml.safe_load((ROOT / "config" / "models.yaml").read_text(encoding="utf-8"))["models"]
    made = {}
    for family, name in FAMILIES.items():
        torch.manual_seed(3)
        row = EvaluatedModel.model_validate(models[name])
        made[family] = tiny.make(name, row, None, tmp_path_factory.mktemp(family) / "checkpoint")
    return made


def test_every_class_that_shares_is_compared_here() -> None:
    assert set(FAMILIES) == prefix.SHARED


def engines(folder: Path, row: EvaluatedModel, family: str, **changes: Any) -> TransformersEngine:
    family = "internvl_chat" if family == "internvl" else family
    changed = row.model_copy(update={"family": family, "batch_size": 64 if row.batch_size == 4 else row.batch_size})
    return TransformersEngine(folder, changed, device="cpu", threads=1, **changes)


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    """Questions about images of four shapes, one of them asked once, with budgets of 1 to 40; no order."""
    made = []
    for number, size in enumerate([(40, 40), (90, 30), (25, 60), (90, 30), (60, 61)]):
        path = tmp_path / f"{number}.png"
        image = PIL.Image.radial_gradient("L").resize(size).convert("RGB")
        image.point(lambda v, n=number: (v * (n + 1)) % 256).save(path)
        for place in range(1 if number == 2 else 5):
            text = tiny.QUESTIONS[place % 3] * (1 + place // 3)
            made.append(Request(f"{number}/{place}", text, (path,), (40, 3, 1, 9, 40)[place]))
    random.Random(5).shuffle(made)
    return made


class Answer(NamedTuple):
    key: str
    tokens: list[int]


def _with_tokens(engine: TransformersEngine, requests: Sequence[Request]) -> list[Answer]:
    """Answer, and return the tokens."""
    found, reply = [], engine.reply

    def keeping(request: Request, prompt: str, tokens: list[int]) -> Reply:
        found.append(Answer(request.key, tokens))
        return reply(request, prompt, tokens)

    engine.reply = keeping  # type: ignore[method-assign]
    list(engine.generate(requests))
    engine.reply = reply  # type: ignore[method-assign]
    return found


def by_key(replies: Sequence[Reply]) -> dict[str, Reply]:
    found = {reply.key: reply for reply in replies}
    assert len(found) == len(replies), "one reply each"
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_plain_path_and_of_single_questions(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request], family: str
) -> None:
    engine = engines(checkpoints[family], row, family)
    plain = engines(checkpoints[family], row, family, share=False)
    assert (engine.describe()["reads_an_image_once"], plain.describe()["reads_an_image_once"]) == (True, False)
    expected = by_key(list(plain.generate(requests)))
    assert expected == by_key([reply for request in requests for reply in plain.generate([request])])
    engine._generate = lambda *_: pytest.fail("the plain path was taken")  # type: ignore[method-assign]
    assert by_key(list(engine.generate(requests))) == expected
    assert by_key([reply for request in requests for reply in engine.generate([request])]) == expected
    assert {reply.status for reply in expected.values()} == {"ok"}
    assert len({reply.text for reply in expected.values()}) > 5


def test_an_image_is_read_once(checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]) -> None:
    """And its questions behind it; every further token of an answer is one token of one pass."""
    engine = engines(checkpoints["llava"], row, "llava")
    assert engine.decoder is not None
    answers = _with_tokens(engine, requests)
    adapter = engine.adapter
    images, tokens = len({request.images for request in requests}), Counter[str]()
    for request in requests:
        tokens["all"] += len(adapter.tensors([request], [adapter.prompt(request)])["input_ids"][0])
    read = engine.decoder.tokens
    assert read["prefix"] % images == 0
    assert read["questions"] == tokens["all"] - len(requests) * read["prefix"] // images
    assert read["decode"] == sum(len(answer.tokens) - 1 for answer in answers)
    assert read["steps"] == max(len(answer.tokens) for answer in answers) - 1, "all in one block"


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_leave_with_the_end_of_their_answers(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request], family: str, monkeypatch: Any
) -> None:
    """Each of several end tokens stops answers at other places; what is left goes on as it would have."""
    engine = engines(checkpoints[family], row, family)
    plain = engines(checkpoints[family], row, family, share=False)
    long = [
        Request(request.key, request.text, request.images, 40 if request.key[0] in "01" else 20) for request in requests
    ]
    answers = [reply.tokens for reply in _with_tokens(plain, long)]
    # Tokens that end a part of the answers only, and those at different places.
    share = {token: sum(token in answer for answer in answers) for answer in answers for token in answer}
    ends = {token for token, count in share.items() if 1 <= count <= len(answers) // 4}
    ends = set(sorted(ends, key=lambda token: (-share[token], token))[:4])
    dropped: list[int] = []
    select = DynamicCache.batch_select_indices
    monkeypatch.setattr(
        DynamicCache, "batch_select_indices", lambda self, left: (dropped.append(len(left)), select(self, left))[1]
    )
    for one in (engine, plain):
        one._ends |= ends
        one.model.generation_config.eos_token_id = sorted(one._ends)
    expected = by_key(list(plain.generate(long)))
    assert by_key(list(engine.generate(long))) == expected
    assert {reply.truncated for reply in expected.values()} == {True, False}
    assert len({reply.n_tokens for reply in expected.values()}) > 2
    assert len(set(dropped)) > 3


@pytest.mark.parametrize("tokens", [1, 24, 100])
def test_images_go_through_in_pieces(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request], tokens: int, monkeypatch: Any
) -> None:
    expected = by_key(list(engines(checkpoints["llava"], row, "llava").generate(requests)))
    monkeypatch.setattr(prefix, "PASS_TOKENS", tokens)
    assert by_key(list(engines(checkpoints["llava"], row, "llava").generate(requests))) == expected


def test_blocks_are_bounded(checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]) -> None:
    engine = engines(checkpoints["llava"], row.model_copy(update={"batch_size": 7}), "llava")
    assert engine.decoder is not None
    answers, sizes = engine.decoder.answers, []

    def counting(block: Sequence[SharedImage]) -> Iterator[Any]:
        sizes.append([len(asked.pairs) for asked in block])
        return answers(block)

    engine.decoder.answers = counting  # type: ignore[method-assign]
    assert len(by_key(list(engine.generate(requests)))) == len(requests)
    assert all(sum(size) <= 7 for size in sizes)
    assert sum(sum(size) for size in sizes) == len(requests)
    assert max(map(len, sizes)) == 2, "a question asked alone shares a block"


def test_a_broken_image_fails_only_its_own_questions(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request], tmp_path: Path
) -> None:
    engine = engines(checkpoints["llava"], row, "llava")
    expected = by_key(list(engine.generate(requests)))
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    broken = [Request(f"broken/{place}", tiny.QUESTIONS[place % 3], (path,), 9) for place in range(13)]
    replies = by_key(list(engine.generate([*broken[:6], *requests, *broken[6:]])))
    failed = {key for key, reply in replies.items() if reply.status == "failed"}
    assert failed == {request.key for request in broken}
    assert all("broken.jpg: unreadable image" in (replies[key].reason or "") for key in failed)
    assert all(replies[key].text is None for key in failed)
    assert {key: replies[key] for key in expected} == expected


def test_a_row_that_overflows_is_asked_alone(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]
) -> None:
    """A token of one question makes its scores infinite: that question fails, and no other."""
    engine = engines(checkpoints["llava"], row, "llava")
    expected = by_key(list(engine.generate(requests)))
    engine.adapter.tokenizer.add_tokens(["@@bad@@"], special_tokens=True)
    bad = engine.adapter.tokenizer.convert_tokens_to_ids("@@bad@@")
    engine.model.resize_token_embeddings(bad + 1, mean_resizing=False)
    with torch.no_grad():
        engine.model.get_input_embeddings().weight[bad] = float("inf")
        engine.model.lm_head.weight[bad] = 0.0
    worst = Request("worst", "@@bad@@", requests[0].images, 9)
    plain, asked = engine._generate, []
    engine._generate = lambda batch, made: (asked.append(len(batch)), plain(batch, made))[1]  # type: ignore[method-assign]
    replies = by_key(list(engine.generate([*requests, worst])))
    assert replies["worst"].status == "failed"
    assert "not finite" in (replies["worst"].reason or "")
    assert asked == [1], "nothing else was asked again"
    del replies["worst"]
    assert replies == expected


def test_a_block_that_fails_is_halved(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]
) -> None:
    """Too large a block is halved; an image that fails alone is asked plainly; answers that came stay."""
    engine = engines(checkpoints["llava"], row, "llava")
    expected = by_key(list(engine.generate(requests)))
    assert engine.decoder is not None
    answers, sizes = engine.decoder.answers, []

    def failing(block: Sequence[SharedImage]) -> Iterator[Any]:
        sizes.append(len(block))
        for place, answer in enumerate(answers(block)):
            if len(block) > 2 and place > 3:
                raise torch.OutOfMemoryError("too much")
            if len(block) == 1:
                raise RuntimeError("never")
            yield answer

    engine.decoder.answers = failing  # type: ignore[method-assign]
    assert by_key(list(engine.generate(requests))) == expected
    assert sizes[0] == 5
    assert {1, 2} <= set(sizes[1:])


def test_what_shares_nothing_is_asked_plainly(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]
) -> None:
    engine = engines(checkpoints["llava"], row, "llava")
    two = (requests[0].images[0], requests[1].images[0])
    others = [Request("two", "who ?", two, 4), Request("text", "who ?", (), 4)]
    memory = PIL.Image.new("RGB", (30, 20), (9, 90, 200))
    in_memory = [Request(f"memory/{place}", text, (memory,), 4) for place, text in enumerate(tiny.QUESTIONS)]
    everything = [*others, *requests, *in_memory]
    plain = engines(checkpoints["llava"], row, "llava", share=False)
    assert by_key(list(engine.generate(everything))) == by_key(list(plain.generate(everything)))
    assert all(reply.status == "ok" for reply in engine.generate(others))


def test_a_placeholder_in_a_question_fails_alone(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]
) -> None:
    engine = engines(checkpoints["llava"], row, "llava")
    odd = Request("odd", "what is <image> ?", requests[0].images, 4)
    for asked in ([*requests, odd], [odd, *requests]):
        replies = by_key(list(engine.generate(asked)))
        assert [key for key, reply in replies.items() if reply.status == "failed"] == ["odd"]


def test_prefixes_end_with_the_picture(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]
) -> None:
    """Prefix and suffix are together what the processor makes of each question by itself."""
    for family in FAMILIES:
        engine = engines(checkpoints[family], row, family)
        adapter, marker = engine.adapter, engine.model.config.image_token_id
        for group in by_image([(request, adapter.prompt(request)) for request in requests]):
            asked = prepared(group, open_image(group[0][0].images[0]), adapter, marker)
            for (request, prompt), suffix in zip(asked.pairs, asked.suffixes, strict=True):
                whole = adapter.tensors([request], [prompt])["input_ids"][0].tolist()
                assert [*asked.prefix, *suffix] == whole
                assert marker not in suffix


def test_an_image_behind_the_question_is_not_shared(
    checkpoints: dict[str, Path], row: EvaluatedModel, requests: list[Request]
) -> None:
    adapter = engines(checkpoints["llava"], row, "llava").adapter
    pairs = [(request, f"{request.text} <image>") for request in requests if request.key.startswith("1/")]
    marker = adapter.tokenizer.convert_tokens_to_ids("<image>")
    with pytest.raises(NotSharedError):
        prepared(pairs, open_image(pairs[0][0].images[0]), adapter, marker)


def test_models_with_other_layers_do_not_share(tmp_path: Path, row: EvaluatedModel) -> None:
    tiny.gemma3(tmp_path)
    engine = engines(tmp_path, row, "gemma3")
    assert engine.describe()["reads_an_image_once"] is False
    changed = engine.model.config.get_text_config()
    engine.model.config.model_type, changed.model_type = "llava", "llama"
    assert prefix.can_share(engine.model) is False, "its layers do not read everything"


def test_planned_memory_shrinks_with_what_was_seen(
    checkpoints: dict[str, Path], row: EvaluatedModel, monkeypatch: Any
) -> None:
    engine = engines(checkpoints["llava"], row, "llava")
    assert engine.decoder is not None
    engine.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    engine.decoder.answers = lambda block: (_ for _ in ()).throw(torch.OutOfMemoryError())  # type: ignore[method-assign]
    assert engine._limit() == 800
    image = PIL.Image.new("RGB", (9, 9))
    pairs = [(Request(str(n), "who ?", (image.copy(),), 2), "USER: <image>\nwho ? ASSISTANT:") for n in range(2)]
    block = [prepared([pair], image, engine.adapter, engine.model.config.image_token_id) for pair in pairs]
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    prefix_tokens = len(block[0].prefix)
    assert engine.decoder.cost(block[0]) == (2 * prefix_tokens + len(block[0].suffixes[0]) + 32) * token
    monkeypatch.setattr(engine, "plain", lambda pairs: iter([Reply(pairs[0][0].key, "", "ok")]))
    assert [reply.status for reply in engine._answer_block(engine.decoder, block)] == ["ok", "ok"]
    assert engine._limit() == 400
