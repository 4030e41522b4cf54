"""InternLM2's tokenizer, a SentencePiece model, as one of the ``tokenizers`` library: no code of the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from safe_llava.checkpoints.tokenizer import SPACE, _merges
from safe_llava.core.errors import CHECKPOINT_AGAIN, EngineError
from safe_llava.core.files import read_json

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
# What a conversion gets wrong when the model normalises text in another way: spaces, bytes, compositions.
PROBES = (
    *("", "a", " a", "a  b   c      d  ", "\n\n\t a\r\n", "How old is the person?\nAnswer", "<0x0A> e.g."),
    "naïve café 你好 🙂 ﬁ ①\u3000\u0301",
)


def read_internlm2_tokenizer(source: Path) -> Any:
    """Return the tokenizer of a folder with ``tokenizer.model`` and ``tokenizer_config.json``; ``<s>`` is put in front.

    Raises:
        EngineError: a file is missing, or the model splits text in a way that this does not.
    """
    from transformers import PreTrainedTokenizerFast

    file = source / "tokenizer.model"
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError, TypeError) as error:
        raise EngineError(f"{file}: not a SentencePiece model: {error}", CHECKPOINT_AGAIN) from error
    added = _added_tokens(source)
    backend = _byte_pair_encoding(pieces, added)
    wrong = [text for text in PROBES if backend.encode(text, add_special_tokens=False).ids != pieces.encode(text)]
    if wrong:
        raise EngineError(
            f"{file}: {wrong[0]!r} has other ids outside SentencePiece: this is not a model of InternLM2's kind",
            CHECKPOINT_AGAIN,
        )
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


def _byte_pair_encoding(pieces: sentencepiece.SentencePieceProcessor, added: dict[int, str]) -> Tokenizer:
    names = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    splits = _merges(pieces, names)
    names = [added.get(index, name) for index, name in enumerate(names)]
    behind = sorted(index for index in added if index >= len(names))
    if behind != list(range(len(names), len(names) + len(behind))):
        raise EngineError(f"the added tokens leave a gap behind piece {len(names)}", CHECKPOINT_AGAIN)
    vocabulary = {name: index for index, name in enumerate(names)}
    if missing := [name for name in (BOS, EOS, UNK) if name not in vocabulary]:
        raise EngineError(f"the SentencePiece model has no piece {missing[0]}", CHECKPOINT_AGAIN)
    # Pieces that special tokens took the place of are made of nothing any more.
    merges = [(left, right) for left, right in splits if {left, right, left + right} <= vocabulary.keys()]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True))
    backend.normalizer = _normalizer(pieces)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    special = {vocabulary[name]: name for name in (UNK, BOS, EOS)} | added
    backend.add_special_tokens(
        [AddedToken(special[index], normalized=False, special=True) for index in sorted(special)]
    )
    return backend


def _normalizer(pieces: sentencepiece.SentencePieceProcessor) -> normalizers.Normalizer:
    """Return what SentencePiece does with spaces, its dummy space in front only where the model asks for one."""
    spaces = normalizers.Replace(" ", SPACE)
    dummy = pieces.encode("a", out_type=str)[0].startswith(SPACE)
    return normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if dummy else normalizers.Sequence([spaces])
