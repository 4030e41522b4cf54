"""A SentencePiece model as a byte pair encoding of the ``tokenizers`` library that gives the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from safe_llava.checkpoints.templates import EOS
from safe_llava.core.errors import CHECKPOINT_AGAIN, CheckpointError
from safe_llava.core.files import read_json

BOS, UNK = "<s>", "<unk>"
SPACE = "▁"  # SentencePiece's sign for a space
# What a conversion gets wrong when the model normalises text in another way: spaces, bytes, compositions.
PROBES = (
    *("", "a", " a", "a  b   c      d  ", "\n\n\t a\r\n", "▁▁ <0x0A> e.g.", "---===...  "),
    "naïve café 你好 🙂 ﬁ ①\u3000\u0301",
)


def converted(file: Path, added: Mapping[int, str], kind: str, remedy: str, legacy: bool = True) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.model``; it puts ``<s>`` in front of a text, and nothing at its end.

    Args:
        added: special tokens by id; some take the place of a piece, others come behind the last.
        kind: of model that is expected, for the message.
        remedy: what to do about a model of another kind.
        legacy: SentencePiece's dummy space stands in front of the text and behind every special token; else only in
            front of the text.

    Raises:
        CheckpointError: the file is no such model, or it splits text in a way that this does not.
    """
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{file}: not a SentencePiece model: {error}", CHECKPOINT_AGAIN) from error
    backend = _byte_pair_encoding(pieces, added, legacy)
    wrong = [text for text in PROBES if backend.encode(text, add_special_tokens=False).ids != pieces.encode(text)]
    if wrong:
        raise CheckpointError(
            f"{file}: {wrong[0]!r} has other ids outside SentencePiece: this is not a model of {kind}'s kind", remedy
        )
    return backend


def read_internlm2_tokenizer(source: Path) -> Any:
    """Return the tokenizer of a folder with ``tokenizer.model`` and ``tokenizer_config.json``; ``<s>`` is put in front.

    Raises:
        CheckpointError: a file is missing, or the model splits text in a way that this does not.
    """
    from transformers import PreTrainedTokenizerFast

    backend = converted(source / "tokenizer.model", _added_tokens(source), "InternLM2", CHECKPOINT_AGAIN)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _added_tokens(source: Path) -> dict[int, str]:
    """Return the special tokens by id: some take the place of a piece, others come behind the last."""
    settings = read_json(source / "tokenizer_config.json", CHECKPOINT_AGAIN)
    added = {int(index): str(token["content"]) for index, token in settings.get("added_tokens_decoder", {}).items()}
    more = source / "added_tokens.json"
    if more.is_file():
        added |= {int(index): str(token) for token, index in json.loads(more.read_text(encoding="utf-8")).items()}
    return added


def _byte_pair_encoding(
    pieces: sentencepiece.SentencePieceProcessor, added: Mapping[int, str], legacy: bool
) -> Tokenizer:
    names = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    splits = _merges(pieces, names)
    names = [added.get(index, name) for index, name in enumerate(names)]
    behind = sorted(index for index in added if index >= len(names))
    if behind != list(range(len(names), len(names) + len(behind))):
        raise CheckpointError(f"the added tokens leave a gap behind piece {len(names)}", CHECKPOINT_AGAIN)
    vocabulary = {name: index for index, name in enumerate(names)}
    if missing := [name for name in (BOS, EOS, UNK) if name not in vocabulary]:
        raise CheckpointError(
            f"the SentencePiece model has no piece {missing[0]}", "use the tokenizer of a Llama or InternLM2 model"
        )
    # Pieces that special tokens took the place of are made of nothing any more.
    merges = [(left, right) for left, right in splits if {left, right, left + right} <= vocabulary.keys()]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True))
    dummy = pieces.encode("a", out_type=str)[0].startswith(SPACE)  # only where the model asks for one
    prepended = [normalizers.Prepend(SPACE)] if dummy and legacy else []
    backend.normalizer = normalizers.Sequence([*prepended, normalizers.Replace(" ", SPACE)])
    if dummy and not legacy:
        # The first puts a space in front of the text, whatever it begins with (it has no spaces left); a normalizer
        # would put it in front of every part between special tokens. The second writes it as SentencePiece does.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False),
                pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
            ]
        )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        # InternLM2's own decoder keeps the dummy space.
        + [decoders.Strip(" ", 1, 0)] * (dummy and not added)
    )
    special = {vocabulary[name]: name for name in (UNK, BOS, EOS)} | dict(added)
    backend.add_special_tokens(
        [AddedToken(special[index], normalized=False, special=True) for index in sorted(special)]
    )
    return backend


def _merges(pieces: sentencepiece.SentencePieceProcessor, names: list[str]) -> list[tuple[str, str]]:
    """Return every pair of pieces that makes a piece, best score of the made piece first.

    Pieces of one score or with several splits: the longer left part first, which is what SentencePiece's
    leftmost-first rule comes to (seen on runs of spaces, whose pieces share one score).
    """
    apart = (pieces.is_control, pieces.is_unknown, pieces.is_byte, pieces.is_unused)
    scores = {
        name: pieces.get_score(index)
        for index, name in enumerate(names)
        if not any(is_kind(index) for is_kind in apart)
    }
    splits = [
        (score, name[:cut], name[cut:])
        for name, score in scores.items()
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]
    splits.sort(key=lambda split: (split[0], len(split[1]), len(split[2])), reverse=True)
    return [(left, right) for _, left, right in splits]
