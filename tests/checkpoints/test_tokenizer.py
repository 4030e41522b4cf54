"""The tokenizer gives SentencePiece's ids, before and after it is saved."""

from __future__ import annotations

import random
from importlib.resources import files
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from safe_llava.checkpoints.tokenizer import add_image_token, load_tokenizer, without_image_token
from safe_llava.core.errors import CheckpointError

MODEL = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
PARTS = [
    *"aeiou bcdst  .,;:!?-=_*#'\"()<>/0123456789\n\t",
    *"éüñ你好🙂☃▁\u3000\xa0\u200b\u0301\x00",
    "  ", "    ", "the ", "ing", "USER:", "ASSISTANT: ", "<0x0A>", "----", "e.g.",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(MODEL, 2048)


@pytest.fixture(scope="module")
def pieces() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


def random_texts(count: int) -> list[str]:
    rng = random.Random(7)
    return ["".join(rng.choices(PARTS, k=rng.randint(0, 60))) for _ in range(count)]


def test_gives_the_ids_of_sentencepiece(
    tokenizer: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    for text in random_texts(600):
        assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text), repr(text)


@pytest.mark.parametrize("sign", [" ", "-", "=", "\n", "a", "."])
def test_runs_of_one_sign(
    sign: str, tokenizer: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    for length in range(1, 120):
        assert tokenizer(sign * length, add_special_tokens=False).input_ids == pieces.encode(sign * length), length


def test_special_tokens_cut_the_text_as_in_legacy_mode(
    tokenizer: PreTrainedTokenizerFast, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    expected = [1, *pieces.encode("USER: a"), 2, *pieces.encode(" b "), 0, *pieces.encode("c")]
    assert tokenizer("USER: a</s> b <unk>c").input_ids == expected
    assert tokenizer("").input_ids == [1]
    assert tokenizer("", add_special_tokens=False).input_ids == []


def test_names_its_special_tokens_and_pads_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.model_max_length == 2048
    assert tokenizer(["a b c d", "a"], padding=True)["attention_mask"][1][-1] == 0


def test_decodes_what_it_encoded(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Two  cats, naïve 你好 🙂\non a mat."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize("model_type", [None, "llama", "llava"])
def test_a_saved_tokenizer_gives_the_same_ids(
    model_type: str | None, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    if model_type:  # AutoTokenizer builds another tokenizer for some kinds of model
        (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}', encoding="utf-8")
    texts = [*random_texts(50), "USER: a  b</s>USER:   c"]
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text).input_ids for text in texts] == [tokenizer(text).input_ids for text in texts]
    assert (again.pad_token_id, again.padding_side) == (0, "right")


def test_tokenizer_json_is_read_as_it_is(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = load_tokenizer(path, 77)
        assert [again(text).input_ids for text in random_texts(50)] == [
            tokenizer(text).input_ids for text in random_texts(50)
        ]
        assert (again.pad_token_id, again.padding_side, again.model_max_length) == (0, "right", 77)


def test_the_image_token_goes_behind_the_vocabulary_once_and_is_saved(
    pieces: sentencepiece.SentencePieceProcessor, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(MODEL, 2048)
    assert add_image_token(tokenizer) == add_image_token(tokenizer) == 32000
    assert len(tokenizer) == 32001
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    expected = [1, *pieces.encode("USER: "), 32000, *pieces.encode("\na")]
    assert again("USER: <image>\na").input_ids == expected
    assert add_image_token(again) == 32000
    assert again.decode([32000, *pieces.encode("a")], skip_special_tokens=True).strip() == "a"


def test_without_the_image_token_it_is_text_again(pieces: sentencepiece.SentencePieceProcessor) -> None:
    tokenizer = load_tokenizer(MODEL, 2048)
    assert without_image_token(tokenizer) is tokenizer
    add_image_token(tokenizer)
    plain = without_image_token(tokenizer)
    assert plain("an <image> tag</s>").input_ids == [1, *pieces.encode("an <image> tag"), 2]
    assert 32000 in tokenizer("an <image> tag").input_ids


def test_takes_tokenizer_model_before_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(MODEL.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert load_tokenizer(tmp_path, 10)("").input_ids == [1]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model and no tokenizer\.json") as error:
        load_tokenizer(tmp_path, 10)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("name", "content"), [("tokenizer.model", b"\x00nonsense"), ("tokenizer.json", b"{half")])
def test_a_broken_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path, 10)


def test_a_tokenizer_without_any_token_to_pad_with_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="no pad, unk or eos"):
        load_tokenizer(tmp_path, 10)


def small_model(folder: Path, **options: object) -> sentencepiece.SentencePieceProcessor:
    """Train a model of a few hundred pieces, ``folder``/tokenizer.model."""
    sentences = [f"the cat sat on mat {number} and  ran away, naïve 你好" for number in range(200)]
    prefix = folder / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(prefix),
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **{"vocab_size": 330, "normalization_rule_name": "identity", "remove_extra_whitespaces": False, **options},
    )
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def test_a_small_model_of_the_same_kind_will_do(tmp_path: Path) -> None:
    pieces = small_model(tmp_path, model_type="bpe")
    tokenizer = load_tokenizer(tmp_path, 2048)
    for text in ["the cat  sat", *random_texts(100)]:
        assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text), repr(text)


@pytest.mark.parametrize("option", [{"model_type": "unigram"}, {"normalization_rule_name": "nmt_nfkc"}])
def test_a_sentencepiece_model_of_another_kind_is_refused(option: dict[str, str], tmp_path: Path) -> None:
    small_model(tmp_path, **{"model_type": "bpe", **option})
    with pytest.raises(CheckpointError, match="not a model of Llama's kind"):
        load_tokenizer(tmp_path, 10)
