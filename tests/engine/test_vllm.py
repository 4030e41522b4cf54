"""The vLLM back end: what it sends, what it makes of the outcome; once with the real vLLM where there is one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

from engine.fake_vllm import Completion, fake_modules
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import CheckpointError, EngineError
from safe_llava.engine import vllm as vllm_engine
from safe_llava.engine.base import ENGINE_VERSION, Reply, Request
from safe_llava.engine.transformers.engine import TransformersEngine
from safe_llava.engine.vllm import VllmEngine

QUESTIONS = ["what is the age ?", "is a ball in the picture ?", "describe the scene please"]
GOLDEN_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant . "
    "USER: <image>\nis a ball in the picture ? ASSISTANT:"
)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in vllm_engine.ENVIRONMENT:
        monkeypatch.setenv(name, "")  # whatever a test sets is taken back
        monkeypatch.delenv(name)


@pytest.fixture
def engine(tiny_llava: Path, row: EvaluatedModel) -> VllmEngine:
    return VllmEngine(tiny_llava, row, device="cpu")


def asked(images: list[Path], budget: int = 6) -> list[Request]:
    """Task by task, as an edition is: the questions of an image lie far from one another."""
    by_task = [
        Request(f"{image.stem}/{number}", text, (image,), budget)
        for number, text in enumerate(QUESTIONS)
        for image in images
    ]
    return [*by_task, Request("text", "describe the scene", (), budget)]


def by_key(replies: list[Reply]) -> dict[str, Reply]:
    found = {reply.key: reply for reply in replies}
    assert len(found) == len(replies), "one reply a request"
    return found


def sent(engine: VllmEngine) -> Any:
    return engine._llm.llm_engine


def test_prompts_are_those_of_the_other_back_end(
    engine: VllmEngine, tiny_llava: Path, row: EvaluatedModel, images: list[Path]
) -> None:
    requests = asked(images)
    replies = by_key(list(engine.generate(requests)))
    other = TransformersEngine(tiny_llava, row, device="cpu", threads=1).adapter
    for request in requests:
        prompt = other.prompt(request)
        assert replies[request.key].prompt == prompt
        (ids,) = [given["prompt_token_ids"] for key, given, _ in sent(engine).asked if key == request.key]
        tensors = other.tensors([request], [prompt])
        # vLLM writes the one placeholder as many times as the image has positions.
        place = ids.index(3) if 3 in ids else len(ids)
        assert ids[:place] + [3] * 16 * len(request.images) + ids[place + 1 :] == tensors["input_ids"][0].tolist()
        assert ids.count(1) == 1, "one start token"
    assert replies["0/1"].prompt == GOLDEN_PROMPT


def test_questions_of_a_picture_follow_one_another(engine: VllmEngine, images: list[Path]) -> None:
    requests = asked(images)
    requests[6] = Request("longest", "describe", requests[6].images, 9)
    list(engine.generate(requests))
    order = [key for key, _, _ in sent(engine).asked]
    assert order[:6] == ["longest", "0/0", "0/2", "1/0", "1/1", "1/2"]
    assert set(order) == {request.key for request in requests}


def test_a_picture_is_opened_once_and_known_by_its_content(
    engine: VllmEngine, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    plain = vllm_engine.open_with_digest
    monkeypatch.setattr(vllm_engine, "open_with_digest", lambda *given: (opened.append(given[0]), plain(*given))[1])
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[2].read_bytes())
    memory = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    more = [Request(name, "who ?", (image,), 4) for name, image in (("copy", copy), ("memory", memory))]
    list(engine.generate([*asked(images), *more]))
    assert sorted(map(str, opened)) == sorted(map(str, [*images, copy, memory]))
    digests = {key: given["multi_modal_uuids"]["image"] for key, given, _ in sent(engine).asked if key != "text"}
    assert digests["2/0"] == digests["2/2"] == digests["copy"]
    assert len({digest for (digest,) in digests.values()}) == len(images) + 1
    assert "multi_modal_data" not in next(given for key, given, _ in sent(engine).asked if key == "text")


def test_images_are_forced_to_their_size(tiny_llava: Path, row: EvaluatedModel, images: list[Path]) -> None:
    requests = [Request("one", "who ?", (images[0],), 4)]
    digests = []
    for size in ((40, 10), (10, 40)):
        engine = VllmEngine(tiny_llava, row.model_copy(update={"image_size": size}), device="cpu")
        list(engine.generate(requests))
        ((_, given, _),) = sent(engine).asked
        assert [image.size for image in given["multi_modal_data"]["image"]] == [size]
        digests += given["multi_modal_uuids"]["image"]
    assert digests[0] != digests[1], "the same file in another size is another picture"


def test_greedy_with_ends_of_our_own(engine: VllmEngine, images: list[Path]) -> None:
    list(engine.generate(asked(images, budget=7)))
    for _, _, params in sent(engine).asked:
        assert (params.temperature, params.max_tokens) == (0.0, 7)
        assert (params.ignore_eos, params.stop_token_ids) == (True, [2])


def test_ends_budgets_and_lines(tiny_llava: Path, row: EvaluatedModel, images: list[Path]) -> None:
    engine = VllmEngine(tiny_llava, row.model_copy(update={"cut_at_newline": True}), device="cpu")
    texts = {(5, 6): " one line \nanother", (7, 8, 9): "all"}
    engine.adapter.tokenizer.decode = lambda ids, skip_special_tokens: texts[tuple(ids)]
    sent(engine).answers = {
        "ended": Completion([5, 6, 2], "stop"),
        "cut": Completion([5, 6], "length"),
        "full": Completion([7, 8, 9], "length"),
    }
    budgets = {"ended": 4, "cut": 2, "full": 3}
    replies = by_key(list(engine.generate([Request(key, "who ?", (), n) for key, n in budgets.items()])))
    found = {key: (reply.text, reply.n_tokens, reply.truncated) for key, reply in replies.items()}
    assert found == {"ended": ("one line", 2, False), "cut": ("one line", 2, False), "full": ("all", 3, True)}


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (Completion([5, 6], "length", float("nan")), "not finite"),
        (Completion([5, 6], "abort"), "vLLM ended it: abort"),
        (Completion([5], "length"), "`max_model_len`"),
    ],
)
def test_what_is_no_answer_is_a_failure(
    engine: VllmEngine, images: list[Path], completion: Completion, reason: str
) -> None:
    sent(engine).answers = {"1/1": completion}
    replies = by_key(list(engine.generate(asked(images, budget=2))))
    assert [key for key, reply in replies.items() if reply.status == "failed"] == ["1/1"]
    assert reason in (replies["1/1"].reason or "")
    assert replies["1/1"].text is None


def test_what_cannot_be_asked_fails_alone(engine: VllmEngine, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    bad = {
        "broken/0": ("who ?", (broken,), "broken.jpg: unreadable image"),
        "broken/1": ("what ?", (broken,), "broken.jpg: unreadable image"),
        "absent": ("who ?", (tmp_path / "absent.jpg",), "absent.jpg: unreadable image"),
        "marker": ("what is <image> ?", (images[0],), "placeholder <image>"),
        "long": ("what is the age " * 90, (images[1],), "ValueError: the prompt is longer"),
        "many": ("who ?", tuple(images[:5]), "5 images"),
    }
    requests = [Request(key, text, images, 6) for key, (text, images, _) in bad.items()]
    replies = by_key(list(engine.generate([*asked(images), *requests])))
    assert {key for key, reply in replies.items() if reply.status == "failed"} == set(bad)
    for key, (_, _, reason) in bad.items():
        assert reason in (replies[key].reason or "")
    assert replies["broken/0"].prompt.endswith("who ? ASSISTANT:")


def test_replies_come_while_questions_wait(
    engine: VllmEngine, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "WINDOW", 6)
    requests = asked(images)
    replies = engine.generate(requests)
    first = next(replies)
    assert first.status == "ok"
    assert len(sent(engine).asked) < len(requests)
    assert len(by_key([first, *replies])) == len(requests)
    assert sent(engine).most < 6 + len(QUESTIONS)


def test_whoever_leaves_leaves_nothing_behind(
    engine: VllmEngine, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "WINDOW", 6)
    replies = engine.generate(asked(images))
    next(replies)
    replies.close()
    assert sent(engine).aborted
    assert not sent(engine).running
    assert len(list(engine.generate(asked(images)))) == len(asked(images))


def test_a_core_that_dies_fails_what_it_had_and_what_follows(
    engine: VllmEngine, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "WINDOW", 6)
    sent(engine).dies_at = 2
    requests = asked(images)
    replies = by_key(list(engine.generate(requests)))
    assert len(replies) == len(requests)
    assert sum(reply.status == "ok" for reply in replies.values()) == sent(engine).at_once
    assert {reply.reason for reply in replies.values()} == {None, "vLLM stopped: RuntimeError: the core is gone"}


def test_what_vllm_is_told(engine: VllmEngine, tiny_llava: Path, row: EvaluatedModel) -> None:
    options = engine._llm.arguments
    assert (options["dtype"], options["trust_remote_code"], options["max_model_len"]) == ("float32", False, None)
    assert (options["enable_prefix_caching"], options["generation_config"]) == (True, "vllm")
    assert options["mm_processor_kwargs"] == {"use_fast": False}
    changed = row.model_copy(update={"trust_remote_code": True, "max_model_len": 99, "gpu_memory": 0.5})
    options = VllmEngine(tiny_llava, changed, device="cpu")._llm.arguments
    assert (options["trust_remote_code"], options["max_model_len"], options["gpu_memory_utilization"]) == (
        True,
        99,
        0.5,
    )
    assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_describe(engine: VllmEngine) -> None:
    assert engine.describe() == {
        "backend": "vllm",
        "backend_version": "0.0.fake",
        "device": "cpu",
        "dtype": "float32",
        "decoding": "greedy",
        "version": ENGINE_VERSION,
    }


def test_faults_at_the_start_name_a_remedy(
    tiny_llava: Path, row: EvaluatedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"does not load it: ValueError: no room[\s\S]*gpu_memory"):
        VllmEngine(tiny_llava, row.model_copy(update={"gpu_memory": 0.001}), device="cpu")
    with pytest.raises(EngineError, match="this vLLM runs on a CPU, the model is asked on cuda"):
        VllmEngine(tiny_llava, row, device="cuda")
    with pytest.raises(CheckpointError, match="not the configuration of a model"):
        VllmEngine(tmp_path, row, device="cpu")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"does not import[\s\S]*backend: transformers"):
        VllmEngine(tiny_llava, row, device="cpu")


@pytest.mark.parametrize(
    ("shown", "device", "chosen"), [("", "cuda:1", "1"), ("4,7", "cuda:1", "7"), ("4", "cuda", "4")]
)
def test_the_gpu_that_is_named_is_the_one_shown(
    monkeypatch: pytest.MonkeyPatch, shown: str, device: str, chosen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    vllm_engine._choose_gpu(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen


def test_keys_are_told_apart(engine: VllmEngine) -> None:
    with pytest.raises(EngineError, match="share the key"):
        list(engine.generate([Request("a", "who ?", (), 1), Request("a", "what ?", (), 1)]))


@pytest.fixture
def wide_llava(tiny_llava: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with heads as wide as real kernels want them, and with the published names of its weights."""
    folder = tmp_path / "wide"
    shutil.copytree(tiny_llava, folder)
    config = LlavaConfig.from_pretrained(folder)
    config.text_config.update({"hidden_size": 128, "head_dim": 64})
    config.vision_config.update({"hidden_size": 64})
    torch.manual_seed(7)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    inner = "vision_tower.vision_model."
    named = {
        name if inner in name else name.replace("vision_tower.", inner): weight for name, weight in weights.items()
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (it is optional)")
def test_the_real_vllm_answers_as_transformers_does(
    wide_llava: Path, row: EvaluatedModel, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in fake_modules():
        monkeypatch.delitem(sys.modules, name)
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    asked_as = row.model_copy(update={"dtype": "float16", "max_model_len": 256, "gpu_memory": 0.3})
    engine = VllmEngine(wide_llava, asked_as, kind, {"enforce_eager": True})
    other = TransformersEngine(wide_llava, asked_as, kind)
    requests = asked(images, budget=8)
    replies, expected = by_key(list(engine.generate(requests))), by_key(list(other.generate(requests)))
    same = [key for key in expected if replies[key] == expected[key]]
    # In half precision the kernels of a GPU round differently, and random weights leave tokens close to each other.
    assert len(same) >= (len(requests) if kind == "cpu" else 0.7 * len(requests))
    assert len({reply.text for reply in expected.values()}) > 10
