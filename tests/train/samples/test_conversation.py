"""Ids and labels of a conversation: the original's, and what its structure says."""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.templates import PLAIN, QWEN_1_5, TEMPLATES, V1, VICUNA_SYSTEM, Template
from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer
from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import Turn
from safe_llava.train.samples.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Encoded, encode, expand

MODEL = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
IMAGE_ID = 32000


@pytest.fixture(scope="module")
def llama() -> PreTrainedTokenizerFast:
    return load_tokenizer(MODEL, 2048)


@pytest.fixture(scope="module")
def llama_with_image_token() -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(MODEL, 2048)
    assert add_image_token(tokenizer) == IMAGE_ID
    return tokenizer


@pytest.fixture(scope="module")
def pieces() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


@pytest.fixture(scope="module")
def qwen() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of Qwen's kind, which joins runs of newlines into one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["user\nassistant\nsystem\n", "\n\n", "\n\n\n", "a cat on a mat\n\n"] * 20, trainer)
    special = [AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def turns(*texts: str, first: str = "human") -> tuple[Turn, ...]:
    """A conversation of these texts, the speakers in turn."""
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return tuple(Turn(speakers[number % 2], text) for number, text in enumerate(texts))


def turns_of(row: dict[str, Any]) -> tuple[Turn, ...]:
    """The turns of a row of annotations."""
    return tuple(Turn(turn["from"], turn["value"]) for turn in row["conversations"])


def v1(tokenizer: PreTrainedTokenizerFast, *texts: str, image: bool = False, cut: int = 2048) -> Encoded:
    return encode(turns(*texts), V1, tokenizer, image, cut, 576)


def supervised_text(encoded: Encoded, tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX])


def vicuna(folder: Path, legacy: bool | None) -> PreTrainedTokenizerFast:
    """A language model's folder whose ``tokenizer_config.json`` says ``legacy`` or nothing."""
    (folder / "tokenizer.model").write_bytes(MODEL.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({} if legacy is None else {"legacy": legacy}))
    return load_tokenizer(folder, 2048)


@pytest.mark.parametrize(
    ("name", "template", "legacy", "count"),
    [
        ("finetune_samples", V1, None, 200),
        ("finetune_samples", V1, True, 200),
        ("finetune_samples_legacy_false", V1, False, 200),
        ("pretrain_samples", PLAIN, None, 40),
    ],
)
def test_equals_the_original(
    name: str, template: Template, legacy: bool | None, count: int, shared: Path, tmp_path: Path
) -> None:
    llama = vicuna(tmp_path, legacy)
    lines = (shared / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == count
    for row in map(json.loads, lines):
        encoded = encode(turns_of(row), template, llama, "image" in row, 2048, 576)
        assert encoded.input_ids == row["input_ids"], row["id"]
        assert encoded.labels == row["labels"], row["id"]
        assert encoded.would_mismatch == row["mismatch"], row["id"]
        expanded = expand(encoded, 576, IMAGE_ID)
        assert len(expanded.input_ids) == encoded.expanded_length == row["expanded_length"], row["id"]


@pytest.mark.parametrize(
    ("name", "template", "ids", "labels"),
    [
        ("eos1", V1, "equal", "more"),
        ("role1", V1, "equal", "fewer"),
        ("role2", V1, "equal", "fewer"),
        ("unk1", PLAIN, "with <unk>", "with <unk>"),
        ("unk2", V1, "equal", "equal"),
        ("unk3", V1, "with <unk>", "with <unk>"),
        ("unk4", V1, "with <unk>", "with <unk>"),
    ],
)
def test_odd_conversations_are_the_originals_or_deviate_as_documented(
    name: str, template: Template, ids: str, labels: str, shared: Path, llama: PreTrainedTokenizerFast
) -> None:
    """docs/deviations.md has the reasons."""
    odd = shared / "golden" / "odd"
    right = {row["id"]: row for row in json.loads((odd / "right_values.json").read_text())}[name]
    row = next(row for row in json.loads((odd / f"{right['file']}.json").read_text()) if row["id"] == name)
    encoded = encode(turns_of(row), template, llama, "image" in row, 2048, 576)
    kept = [number for number, token in enumerate(encoded.input_ids) if token != llama.unk_token_id]
    if ids == "equal":
        assert encoded.input_ids == right["input_ids"]
    else:
        assert [encoded.input_ids[number] for number in kept] == right["input_ids"][: len(kept)] != encoded.input_ids
    if labels == "equal":
        assert encoded.labels == right["labels"]
    elif labels == "with <unk>":
        assert [encoded.labels[number] for number in kept] == right["labels"][: len(kept)]
    else:
        less, more = (encoded.labels, right["labels"]) if labels == "fewer" else (right["labels"], encoded.labels)
        assert less != more
        assert all(few in (IGNORE_INDEX, many) for few, many in zip(less, more, strict=True))


@pytest.mark.parametrize(
    "texts", [("", "Said: x ASSISTANT: y"), ("ends ASSISTANT: </s>here", "A cat."), ("Name it. ASSISTANT:", "A cat.")]
)
def test_a_role_word_in_a_text_changes_no_labels(texts: tuple[str, str], llama: PreTrainedTokenizerFast) -> None:
    """The original looks for the answer behind the first one (docs/deviations.md), and drops none of these."""
    encoded = v1(llama, *texts)
    answer = llama(f" {texts[1]}</s>", add_special_tokens=False).input_ids
    assert not encoded.would_mismatch
    assert supervised_text(encoded, llama) == f"{texts[1]}</s>"
    assert sum(label != IGNORE_INDEX for label in encoded.labels) <= len(answer)


def test_v1_writes_rounds_as_vicuna_does(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = v1(llama, "Hi.", "Hello  you.", "Bye?", "Bye.")
    first = pieces.encode(f"{VICUNA_SYSTEM} USER: Hi. ASSISTANT: Hello  you.")
    second = pieces.encode("USER: Bye? ASSISTANT: Bye.")
    assert encoded.input_ids == [1, *first, 2, *second, 2]
    answers = [pieces.encode("Hello  you."), pieces.encode("Bye.")]
    context = [len(first) - len(answers[0]), len(second) - len(answers[1])]
    ignored = [[IGNORE_INDEX] * (1 + context[0]), [IGNORE_INDEX] * context[1]]
    assert encoded.labels == [*ignored[0], *answers[0], 2, *ignored[1], *answers[1], 2]
    assert not encoded.would_mismatch


def test_the_image_goes_to_the_front_of_its_turn_and_cuts_the_text(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = v1(llama, " What is it?\n<image> ", "A cat.", image=True)
    before, after = pieces.encode(f"{VICUNA_SYSTEM} USER: "), pieces.encode("\nWhat is it? ASSISTANT: A cat.")
    assert encoded.input_ids == [1, *before, IMAGE_TOKEN_INDEX, *after, 2]
    assert encoded.labels[-4:] == [*pieces.encode("A cat."), 2][-4:]
    assert encoded.expanded_length == len(encoded.input_ids) + 575


def test_a_placeholder_alone_keeps_no_newline(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = v1(llama, "<image>\n", "A cat.", image=True)
    assert encoded.input_ids == [
        1, *pieces.encode(f"{VICUNA_SYSTEM} USER: "), IMAGE_TOKEN_INDEX, *pieces.encode(" ASSISTANT: A cat."), 2
    ]  # fmt: skip


def test_an_image_in_a_later_turn_stays_there(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = v1(llama, "Hi. ", "Hello.", "And <image> this?", "A cat.", image=True)
    later = [*pieces.encode("USER: "), IMAGE_TOKEN_INDEX, *pieces.encode("\nAnd  this? ASSISTANT: A cat."), 2]
    assert encoded.input_ids[-len(later) :] == later


def test_an_image_in_an_answer_is_not_taught(llama: PreTrainedTokenizerFast) -> None:
    encoded = v1(llama, "Show one.", "Here: <image>", image=True)
    at = encoded.input_ids.index(IMAGE_TOKEN_INDEX)
    # As the original has it before it expands the image.
    assert encoded.labels[at:] == encoded.input_ids[at:]
    expanded = expand(encoded, 5, IMAGE_ID)
    assert expanded.labels[at : at + 5] == [IGNORE_INDEX] * 5
    assert expanded.labels[at + 5 :] == encoded.input_ids[at + 1 :]


def test_without_an_image_the_placeholder_is_text(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = v1(llama, "Use an <image> tag.", "Yes.")
    assert encoded.input_ids == [
        1, *pieces.encode(f"{VICUNA_SYSTEM} USER: Use an <image> tag. ASSISTANT: Yes."), 2
    ]  # fmt: skip


def test_a_first_turn_that_is_not_the_humans_is_dropped(llama: PreTrainedTokenizerFast) -> None:
    dropped = encode(turns("Welcome!", "Hi.", "Hello.", first="gpt"), V1, llama, False, 2048, 576)
    assert dropped == v1(llama, "Hi.", "Hello.")


def test_an_empty_turn_is_its_role_and_a_colon(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = v1(llama, "Hi.", "", "Bye?", "Bye.")
    prompt = f"{VICUNA_SYSTEM} USER: Hi. ASSISTANT:USER: Bye? ASSISTANT: Bye."
    assert encoded.input_ids == [1, *pieces.encode(prompt), 2]
    assert supervised_text(encoded, llama) == "Bye.</s>"


@pytest.mark.parametrize(
    ("texts", "dropped", "supervised"),
    [
        (("Hi.", "Hello."), False, "Hello.</s>"),
        (("Hi.", "Hello.", "Bye?", ""), True, "Hello.</s>"),  # the last round has no answer
        (("Hi.", "Hello.", "", "Bye."), True, "Hello.</s> Bye.</s>"),  # "USER:ASSISTANT: " is not found
        (("Hi.", "Say ASSISTANT: yes."), True, "Say ASSISTANT: yes.</s>"),  # two answers seen in one round
        (("What is <unk>?", "Nothing."), True, "Nothing.</s>"),  # taken for padding
        (("Hi.", "  Hello. \n"), False, "  Hello. \n</s>"),
    ],
)
def test_nothing_is_dropped_and_what_the_original_drops_is_told(
    texts: tuple[str, ...], dropped: bool, supervised: str, llama: PreTrainedTokenizerFast
) -> None:
    encoded = v1(llama, *texts)
    assert encoded.would_mismatch is dropped
    assert supervised_text(encoded, llama) == supervised


def test_supervised_text_is_the_answers_whatever_they_say(llama: PreTrainedTokenizerFast) -> None:
    rng = random.Random(3)
    words = ["cat", "naïve", "你好", "🙂", "\n", " ", "  ", "<image>", "▁", "e.g.", ":", "USER:", "50%", "."]
    for _ in range(150):
        texts = ["".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(2 * rng.randint(1, 4))]
        encoded = v1(llama, *texts)
        # Decoding writes a space for the sign of one, and puts one between a special token and what follows.
        supervised = supervised_text(encoded, llama).replace("</s> ", "</s>")
        assert supervised == "".join(f"{answer}</s>" for answer in texts[1::2]).replace("▁", " "), texts
        assert not encoded.would_mismatch


def test_plain_is_image_caption_newline(
    llama: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    encoded = encode(turns("Describe it.\n<image>", "a cat "), PLAIN, llama, True, 2048, 576)
    caption = pieces.encode("a cat \n")
    assert encoded.input_ids == [1, IMAGE_TOKEN_INDEX, *caption]
    assert encoded.labels == [IGNORE_INDEX, IGNORE_INDEX, *caption]


@pytest.mark.parametrize(
    ("texts", "image"), [(("Describe.", "a cat"), True), (("<image>", "a cat"), False), (("<image>", "a", "b"), True)]
)
def test_plain_refuses_what_is_no_captioned_image(
    texts: tuple[str, ...], image: bool, llama: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(TrainError, match="caption"):
        encode(turns(*texts), PLAIN, llama, image, 2048, 576)


def test_expansion_gives_positions_without_labels_and_then_cuts(llama: PreTrainedTokenizerFast) -> None:
    whole = v1(llama, "<image>\nWhat?", "A cat.", image=True)
    at = whole.input_ids.index(IMAGE_TOKEN_INDEX)
    expanded = expand(whole, 5, IMAGE_ID)
    assert expanded.input_ids == [*whole.input_ids[:at], *[IMAGE_ID] * 5, *whole.input_ids[at + 1 :]]
    assert expanded.labels == [*whole.labels[:at], *[IGNORE_INDEX] * 5, *whole.labels[at + 1 :]]
    short = expand(v1(llama, "<image>\nWhat?", "A cat.", image=True, cut=at + 3), 5, IMAGE_ID)
    assert short.input_ids == expanded.input_ids[: at + 3]
    assert len(short.labels) == short.expanded_length == at + 3


def test_a_long_text_is_cut_and_is_no_mismatch(llama: PreTrainedTokenizerFast) -> None:
    encoded = v1(llama, "Hi.", "word " * 500, "More?", "No.", cut=100)
    assert len(encoded.input_ids) == len(encoded.labels) == encoded.expanded_length == 100
    assert encoded.input_ids == v1(llama, "Hi.", "word " * 500, "More?", "No.").input_ids[:100]
    assert not encoded.would_mismatch


def test_chatml_teaches_answers_and_their_end(qwen: PreTrainedTokenizerFast) -> None:
    encoded = encode(turns("Hi.", "\na cat", "", "\n\nBye."), QWEN_1_5, qwen, False, 2048, 729)
    assert qwen.decode(encoded.input_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n\na cat<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n\n\nBye.<|im_end|>\n"
    )
    assert supervised_text(encoded, qwen) == "\na cat<|im_end|>\n\nBye.<|im_end|>"


def test_chatml_tokenises_an_answer_apart_from_its_opening(qwen: PreTrainedTokenizerFast) -> None:
    prompt = qwen("<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n").input_ids
    encoded = encode(turns("Hi.", "\n\na cat"), QWEN_1_5, qwen, False, 2048, 729)
    begin = next(index for index, label in enumerate(encoded.labels) if label != IGNORE_INDEX)
    assert encoded.input_ids[begin - len(prompt) : begin] == prompt


def test_chatml_teaches_nothing_for_an_empty_answer(qwen: PreTrainedTokenizerFast) -> None:
    encoded = encode(turns("Hi.", ""), QWEN_1_5, qwen, False, 2048, 729)
    assert set(encoded.labels) == {IGNORE_INDEX}


def messages(texts: tuple[str, ...], parts: bool) -> list[dict[str, Any]]:
    """The same conversation as a processor takes it: as texts, or as lists of parts with the image apart."""
    written = []
    for number, text in enumerate(texts):
        content: Any = text
        if parts:
            content = [{"type": "image"}] * ("<image>" in text)
            content = [*content, {"type": "text", "text": text.replace("<image>", "")}]
        written.append({"role": ("user", "assistant")[number % 2], "content": content})
    return written


CONVERSATIONS = [
    ("Hi.", "Hello."),
    ("<image>\nWhat is it?", "A cat."),
    (" What's it? <image>\n", " A  cat.\n", " And \n", "\nSo."),
    ("<image>", "", "", "naïve 你好"),
]


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("texts", CONVERSATIONS)
def test_vicuna_chat_template_renders_the_training_prompt(
    texts: tuple[str, ...],
    parts: bool,
    llama: PreTrainedTokenizerFast,
    llama_with_image_token: PreTrainedTokenizerFast,
) -> None:
    image = any("<image>" in text for text in texts)
    trained = expand(v1(llama, *texts, image=image), 1, IMAGE_ID)
    tokenizer = llama_with_image_token
    render = {"chat_template": V1.chat_template, "tokenize": False}
    assert tokenizer(tokenizer.apply_chat_template(messages(texts, parts), **render)).input_ids == trained.input_ids
    prompt = tokenizer.apply_chat_template(messages(texts[:-1], parts), add_generation_prompt=True, **render)
    last = len(trained.labels) - trained.labels[::-1].index(IGNORE_INDEX)
    assert tokenizer(prompt).input_ids == trained.input_ids[:last]


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("texts", CONVERSATIONS)
def test_chatml_chat_template_renders_the_training_prompt(
    texts: tuple[str, ...], parts: bool, qwen: PreTrainedTokenizerFast
) -> None:
    image = any("<image>" in text for text in texts)
    trained = encode(turns(*texts), QWEN_1_5, qwen, image, 2048, 729)
    prompt = qwen.apply_chat_template(
        messages(texts[:-1], parts), chat_template=QWEN_1_5.chat_template, tokenize=False, add_generation_prompt=True
    )
    halves = [qwen(half).input_ids for half in prompt.split("<image>")]
    joined = [*halves[0], *([IMAGE_TOKEN_INDEX, *halves[1]] if image else [])]
    tail = len(qwen("\n").input_ids)
    last = len(trained.labels) - tail - trained.labels[:-tail][::-1].index(IGNORE_INDEX)
    assert joined == trained.input_ids[:last]


def test_plain_chat_template_keeps_the_image_alone(llama: PreTrainedTokenizerFast) -> None:
    for parts in (False, True):
        written = messages(("Describe it.\n<image>", "a cat"), parts)
        render = {"chat_template": PLAIN.chat_template, "tokenize": False}
        assert llama.apply_chat_template(written, **render) == "<image>a cat\n"
        assert llama.apply_chat_template(written[:1], add_generation_prompt=True, **render) == "<image>"


def test_a_system_message_takes_the_place_of_the_default(llama: PreTrainedTokenizerFast) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    text = llama.apply_chat_template(asked, chat_template=V1.chat_template, tokenize=False, add_generation_prompt=True)
    assert text == "Be brief. USER: Hi. ASSISTANT:"


def test_templates_are_known_by_their_names() -> None:
    assert {name: template.name for name, template in TEMPLATES.items()} == {
        name: name for name in ("plain", "v1", "qwen_1_5")
    }
