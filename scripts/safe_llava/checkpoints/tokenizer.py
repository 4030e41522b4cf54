"""The tokenizer of the original training code, as one that can be saved and loaded anywhere.

The original tokenises with SentencePiece through transformers' slow Llama tokenizer, which cuts a text at the special
tokens. The ``legacy`` flag in ``tokenizer_config.json`` says where SentencePiece's dummy space goes: in front of every
part between them (true, and where the flag is absent), or in front of the whole text alone (false). transformers 5
builds its ``LlamaTokenizer`` from the same file in another way and gives other ids (runs of spaces). Here the pieces
and scores of ``tokenizer.model`` become a byte pair encoding of the ``tokenizers`` library that gives SentencePiece's
own ids.
"""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.sentencepieces import BOS, UNK, converted
from safe_llava.checkpoints.templates import EOS
from safe_llava.checkpoints.whole import check_file
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import read_json

IMAGE_TOKEN = "<image>"
TURN_END = "<|im_end|>"  # of ChatML


def load_tokenizer(path: Path, max_length: int) -> PreTrainedTokenizerFast:
    """Load a model's tokenizer with the semantics that the model was trained with.

    ``tokenizer(text)`` puts ``<s>`` in front as Llama's does (nothing for a model without one, such as Qwen);
    with ``add_special_tokens=False`` it adds no ``<s>``. Nothing is added at the end. Padding is on the right.

    Args:
        path: a folder with ``tokenizer.model`` (taken first) or ``tokenizer.json``, or one of those files.
        max_length: ``model_max_length``, in tokens; it is recorded, nothing is cut here.

    Raises:
        CheckpointError: no tokenizer is there, it cannot be read, or it is not of Llama's kind.
    """
    model = path / "tokenizer.model" if path.is_dir() else path
    if model.is_file() and model.suffix != ".json":
        check_file(model)
        return _from_sentencepiece(model, max_length)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            f"{path}: no tokenizer.model and no tokenizer.json there",
            CHECKPOINT_AGAIN,
        )
    check_file(file)
    return _from_json(file, max_length)


def add_image_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id of ``<image>``, added as a special token behind the vocabulary where it is not there yet.

    The id stands for an image position in expanded samples and in exported Hugging Face checkpoints.
    """
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def without_image_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a tokenizer to which ``<image>`` is text like any other (the same one where it already is).

    A sample without an image may quote ``<image>``; the original reads letters there, and no image may be looked for.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in state["added_tokens"] if token["content"] != IMAGE_TOKEN]
    if len(kept) == len(state["added_tokens"]):
        return tokenizer
    state["added_tokens"] = kept
    plain = copy(tokenizer)  # the library's object is replaced, never changed, so sharing the rest is safe
    plain._tokenizer = Tokenizer.from_str(json.dumps(state))
    return plain


def without_beginning(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts nothing in front of a text, for a checkpoint whose chat template writes ``<s>``.

    Servers (vLLM's chat among them) tokenise a rendered chat without special tokens, transformers' processors with
    them: only so the prompt begins with one ``<s>`` in both.
    """
    if not tokenizer("").input_ids:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"] = None
    bare = copy(tokenizer)
    bare._tokenizer = Tokenizer.from_str(json.dumps(state))
    return bare


def _with_beginning(tokenizer: PreTrainedTokenizerFast) -> None:
    """Undo ``without_beginning``: training puts ``<s>`` in front by itself, as an exported chat template does."""
    bos = tokenizer.bos_token
    if bos and str(tokenizer.chat_template or "").startswith(f"{{{{- '{bos}") and not tokenizer("").input_ids:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_token_id)]
        )


def _from_json(file: Path, max_length: int) -> PreTrainedTokenizerFast:
    # Not AutoTokenizer: it rebuilds some tokenizers from their vocabulary instead of reading what the file says.
    options: dict[str, Any] = {"padding_side": "right", "model_max_length": max_length}
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, local_files_only=True, **options)
    except Exception as error:  # the library raises bare Exception for a file it cannot parse
        raise CheckpointError(f"{file}: not a tokenizer: {error}", CHECKPOINT_AGAIN) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise CheckpointError(
            f"{file.parent}: the tokenizer names no pad, unk or eos token",
            "fetch tokenizer_config.json of the model as well",
        )
    _with_beginning(tokenizer)
    return tokenizer


def is_legacy(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether what follows a special token begins with a dummy space: the ``legacy`` flag, true where it is absent."""
    return tokenizer.init_kwargs.get("legacy") is not False


def _read_legacy(settings: Path) -> bool:
    value = read_json(settings, CHECKPOINT_AGAIN).get("legacy") if settings.is_file() else None
    if value not in (None, False, True):
        raise CheckpointError(f"{settings}: `legacy` is {value!r}, not true or false", CHECKPOINT_AGAIN)
    return value is not False


def _from_sentencepiece(file: Path, max_length: int) -> PreTrainedTokenizerFast:
    remedy = "use a folder that has the model's tokenizer.json and no tokenizer.model"
    legacy = _read_legacy(file.parent / "tokenizer_config.json")
    return PreTrainedTokenizerFast(
        tokenizer_object=converted(file, {}, "Llama", remedy, legacy),
        legacy=legacy,  # kept beside the tokenizer when it is saved
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=UNK,
        padding_side="right",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def read_qwen_tokenizer(source: Path) -> Any:
    """Return the Qwen2 tokenizer in a folder, its padding on the left."""
    from transformers import Qwen2Tokenizer

    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(source, local_files_only=True, padding_side="left")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{source}: no Qwen2 tokenizer: {error}", CHECKPOINT_AGAIN) from error
    if TURN_END not in tokenizer.get_vocab():
        raise CheckpointError(f"{source}: its tokenizer has no {TURN_END}", CHECKPOINT_AGAIN)
    return tokenizer
