"""The engine: batches, padding, ends of answers, faults."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
import torch

from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import CheckpointError, EngineError
from safe_llava.engine.base import ENGINE_VERSION, Reply, Request, device_type, precision
from safe_llava.engine.transformers.engine import TransformersEngine, choose_device

QUESTIONS = [
    "what is the age of the person in the picture ?",
    "describe the scene please",
    "is a ball in the picture ?",
    "a longer question please describe what the old man in the red car is like in one picture",
]
GOLDEN_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant . "
    "USER: <image>\nis a ball in the picture ? ASSISTANT:"
)


@pytest.fixture
def engine(tiny_llava: Path, row: EvaluatedModel) -> TransformersEngine:
    return TransformersEngine(tiny_llava, row, device="cpu", threads=1)


@pytest.mark.parametrize(
    ("accelerator", "device", "kind", "dtype"),
    [
        ("cpu", "auto", "cpu", "float32"),
        ("gpu", "cpu", "cpu", "float32"),
        ("gpu", "auto", "cuda", "float16"),
        ("cpu", "cuda:1", "cuda", "float16"),
    ],
)
def test_device_and_precision_are_known_beforehand(
    row: EvaluatedModel, accelerator: str, device: str, kind: str, dtype: str
) -> None:
    changed = row.model_copy(update={"accelerator": accelerator, "dtype": "float16"})
    assert device_type(changed, device) == kind
    assert precision(changed, kind) == dtype


def test_what_was_known_beforehand_is_what_is_used(engine: TransformersEngine, row: EvaluatedModel) -> None:
    described = engine.describe()
    kind = device_type(row, "cpu")
    assert (described["device"], described["dtype"]) == (kind, precision(row, kind))
    assert (described["decoding"], described["version"]) == ("greedy", ENGINE_VERSION)
    assert next(engine.model.parameters()).dtype == torch.float32


def asked(images: list[Path], budget: int = 8) -> list[Request]:
    requests = [
        Request(f"{image.stem}/{number}", text, (image,), budget)
        for image in images
        for number, text in enumerate(QUESTIONS)
    ]
    return [*requests, Request("text", "describe the scene", (), budget)]


def by_key(replies: list[Reply]) -> dict[str, Reply]:
    return {reply.key: reply for reply in replies}


def test_batches_answer_as_single_questions_do(engine: TransformersEngine, images: list[Path]) -> None:
    requests = asked(images)
    together = list(engine.generate(requests))
    alone = [reply for request in requests for reply in engine.generate([request])]
    assert by_key(together) == by_key(alone)
    assert len(together) == len(requests)
    texts = {reply.text for reply in together}
    assert len(texts) > 10, "the tiny model has to tell its questions and images apart"


def test_equals_plain_greedy_search(engine: TransformersEngine, images: list[Path]) -> None:
    request = Request("one", QUESTIONS[0], (images[2],), 8)
    inputs = engine.adapter.processor(
        images=PIL.Image.open(images[2]), text=engine.adapter.prompt(request), return_tensors="pt"
    )
    ids = inputs["input_ids"]
    generated: list[int] = []
    with torch.inference_mode():
        while len(generated) < 8 and 2 not in generated:
            logits = engine.model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
            generated.append(int(logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([generated[-1:]])], dim=1)
    (reply,) = engine.generate([request])
    assert reply.text == engine.adapter.tokenizer.decode(generated, skip_special_tokens=True).strip()


def test_pads_on_the_left(engine: TransformersEngine, images: list[Path]) -> None:
    requests = asked(images)[:4]
    prompts = [engine.adapter.prompt(request) for request in requests]
    tensors = engine.adapter.tensors(requests, prompts)
    assert tensors["attention_mask"][:, -1].tolist() == [1, 1, 1, 1]
    assert tensors["attention_mask"][:, 0].tolist().count(0) == 3
    assert (tensors["input_ids"] == 3).sum(dim=1).tolist() == [16] * 4
    assert (tensors["input_ids"] == 1).sum(dim=1).tolist() == [1] * 4, "one start token"
    assert tensors["pixel_values"].shape == (4, 3, 28, 28)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pixels_are_made_in_the_precision_of_a_gpu(
    engine: TransformersEngine, row: EvaluatedModel, images: list[Path], dtype: torch.dtype
) -> None:
    """On a CPU a model runs in fp32; what a GPU gets is made here all the same."""
    adapter = type(engine.adapter)(engine.adapter.processor, row, dtype)
    requests = asked(images)[:4]
    prompts = [adapter.prompt(request) for request in requests]
    made, exact = adapter.tensors(requests, prompts), engine.adapter.tensors(requests, prompts)
    assert made["pixel_values"].dtype == dtype
    assert torch.equal(made["pixel_values"], exact["pixel_values"].to(dtype))
    assert torch.equal(made["input_ids"], exact["input_ids"])


def test_prompt_is_golden(engine: TransformersEngine, images: list[Path]) -> None:
    (reply,) = engine.generate([Request("one", QUESTIONS[2], (images[0],), 1)])
    assert reply.prompt == GOLDEN_PROMPT


def test_system_message_comes_first(tiny_llava: Path, row: EvaluatedModel, images: list[Path]) -> None:
    content = "{% for p in m['content'] %}{{ p.get('text', '<image>') }}{% endfor %}"
    template = "{% for m in messages %}[{{ m['role'] }}]" + content + "{% endfor %}"
    engine = TransformersEngine(tiny_llava, row.model_copy(update={"system": "be kind"}), device="cpu")
    engine.adapter.processor.chat_template = template
    prompt = engine.adapter.prompt(Request("one", "who ?", (images[0],), 1))
    assert prompt == "[system]be kind[user]<image>who ?"


def test_ends_and_budgets(engine: TransformersEngine, images: list[Path]) -> None:
    requests = asked(images, budget=9)
    whole = by_key(list(engine.generate(requests)))
    full = next(reply for reply in whole.values() if reply.n_tokens == 9)
    assert full.truncated is True
    ids = engine.adapter.tokenizer(full.text, add_special_tokens=False)["input_ids"]
    end = next(token for place, token in enumerate(ids) if place >= 2 and token not in ids[:place])
    engine._ends |= {end}
    engine.model.generation_config.eos_token_id = sorted(engine._ends)
    again = by_key(list(engine.generate(requests)))[full.key]
    assert again.truncated is False
    assert again.n_tokens == ids.index(end)
    assert again.text == engine.adapter.tokenizer.decode(ids[: ids.index(end)])
    assert {reply.n_tokens for reply in engine.generate(asked(images, budget=3))} <= {0, 1, 2, 3}


def test_cuts_at_the_first_line_break(engine: TransformersEngine, images: list[Path]) -> None:
    request = Request("one", QUESTIONS[0], (images[0],), 4)
    engine.adapter.tokenizer.decode = lambda ids, **_: " first line \nsecond line"  # type: ignore[method-assign]
    assert engine.reply(request, "", [9, 9]).text == "first line \nsecond line"
    engine.row = engine.row.model_copy(update={"cut_at_newline": True})
    cut = engine.reply(request, "", [9, 9])
    assert (cut.text, cut.truncated, cut.n_tokens) == ("first line", False, 2)
    # The budget ran out behind the line break: the line is whole all the same.
    engine.adapter.tokenizer.decode = lambda ids, **_: "\n first line\n"  # type: ignore[method-assign]
    cut = engine.reply(request, "", [9, 9])
    assert (cut.text, cut.truncated) == ("first line", False)
    engine.adapter.tokenizer.decode = lambda ids, **_: "first li"  # type: ignore[method-assign]
    assert engine.reply(request, "", [9, 9]).truncated is True


def test_unreadable_images_fail_alone(engine: TransformersEngine, images: list[Path], tmp_path: Path) -> None:
    broken, absent = tmp_path / "broken.jpg", tmp_path / "absent.jpg"
    broken.write_bytes(b"no image")
    requests = [*asked(images), Request("broken", "who ?", (broken,), 8), Request("absent", "who ?", (absent,), 8)]
    replies = by_key(list(engine.generate(requests)))
    assert len(replies) == len(requests)
    assert sorted(key for key, reply in replies.items() if reply.status == "failed") == ["absent", "broken"]
    assert "broken.jpg: unreadable image" in (replies["broken"].reason or "")
    assert replies["broken"].text is None
    assert replies["broken"].prompt.endswith("who ? ASSISTANT:")


def test_a_batch_too_large_is_halved(tiny_llava: Path, row: EvaluatedModel, images: list[Path]) -> None:
    engine = TransformersEngine(tiny_llava, row, device="cpu", threads=1, share=False)
    requests = asked(images)
    expected = by_key(list(engine.generate(requests)))
    plain, sizes = engine._generate, []

    def small_memory(batch: list[tuple[Request, str]], made: dict[str, torch.Tensor]) -> list[Reply]:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too much")
        return plain(batch, made)

    engine._generate = small_memory  # type: ignore[method-assign]
    assert by_key(list(engine.generate(requests))) == expected
    assert max(sizes) == 4


def test_scores_that_overflow_are_a_fault(engine: TransformersEngine, images: list[Path]) -> None:
    with torch.no_grad():
        engine.model.lm_head.weight[5] = float("inf")
    (reply,) = engine.generate([Request("one", QUESTIONS[0], (images[0],), 4)])
    assert reply.status == "failed"
    assert "not finite" in (reply.reason or "")


def test_a_picture_is_prepared_once(engine: TransformersEngine, images: list[Path]) -> None:
    seen = []
    plain = engine.adapter.processor.image_processor

    def counting(images: list[PIL.Image.Image], return_tensors: str) -> object:
        seen.append(images)
        return plain(images=images, return_tensors=return_tensors)

    engine.adapter.processor.image_processor = counting
    list(engine.generate(asked(images)))
    assert len(seen) == len(images)


def test_images_are_forced_to_their_size(tiny_llava: Path, row: EvaluatedModel, images: list[Path]) -> None:
    forced = TransformersEngine(tiny_llava, row.model_copy(update={"image_size": (40, 10)}), device="cpu")
    seen = []
    plain = forced.adapter.processor.image_processor
    forced.adapter.processor.image_processor = lambda images, return_tensors: (
        seen.extend(image.size for image in images),
        plain(images=images, return_tensors=return_tensors),
    )[1]
    list(forced.generate([Request("one", "who ?", (images[0],), 1)]))
    assert seen == [(40, 10)]


def test_the_general_adapter_agrees(engine: TransformersEngine, images: list[Path]) -> None:
    from safe_llava.engine.adapters import ChatTemplateAdapter

    requests = asked(images)
    expected = by_key(list(engine.generate(requests)))
    engine.adapter = ChatTemplateAdapter(engine.adapter.processor, engine.row, engine.dtype)
    assert by_key(list(engine.generate(requests))) == expected


def test_a_placeholder_in_the_question_fails(engine: TransformersEngine, images: list[Path]) -> None:
    (reply,) = engine.generate([Request("one", "what is <image> ?", (images[0],), 4)])
    assert reply.status == "failed"
    assert "2 image placeholders for 1 images" in (reply.reason or "")


def test_the_row_says_what_answering_runs_on(row: EvaluatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device(row.model_copy(update={"accelerator": "cpu"})) == "cpu"
        if there:
            assert choose_device(row) == "cuda"
        else:
            with pytest.raises(EngineError, match="no GPU is visible"):
                choose_device(row)


def test_keys_are_told_apart(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError, match="share the key"):
        list(engine.generate([Request("a", "who ?", (), 1), Request("a", "what ?", (), 1)]))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "not the configuration"), ("{", "not the configuration"), ('{"model_type": "gemma3"}', "`gemma3`")],
)
def test_a_folder_that_is_no_such_checkpoint(
    tmp_path: Path, row: EvaluatedModel, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        TransformersEngine(tmp_path, row, device="cpu")


def test_a_checkpoint_without_weights(tmp_path: Path, tiny_llava: Path, row: EvaluatedModel) -> None:
    for path in tiny_llava.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(EngineError, match="does not load"):
        TransformersEngine(tmp_path, row, device="cpu")


def test_sampling_settings_of_a_checkpoint_are_left_out(
    tmp_path: Path, tiny_llava: Path, row: EvaluatedModel, engine: TransformersEngine, images: list[Path]
) -> None:
    for path in tiny_llava.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = {"do_sample": True, "temperature": 3.0, "top_k": 50, "repetition_penalty": 9.0, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    sampling = TransformersEngine(tmp_path, row, device="cpu")
    requests = asked(images)
    assert by_key(list(sampling.generate(requests))) == by_key(list(engine.generate(requests)))
