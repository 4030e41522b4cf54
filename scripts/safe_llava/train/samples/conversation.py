"""From a conversation to token ids and labels, as the original LLaVA v1.5 training code gives them.

The labels follow the structure of the conversation: an answer and its end are labelled, whatever their text is. The
original finds them again by counting tokens, and drops a sample where the counts do not add up ("tokenization
mismatch"); ``Encoded.would_mismatch`` says where it would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from safe_llava.checkpoints.templates import EOS, PLAIN, V1, Template
from safe_llava.checkpoints.tokenizer import IMAGE_TOKEN, is_legacy
from safe_llava.core.errors import TrainError
from safe_llava.formats.annotations import HUMAN, Turn, spoken

IGNORE_INDEX = -100  # label of a position that is not labelled
IMAGE_TOKEN_INDEX = -200  # stands for the whole image before it is expanded


@dataclass(frozen=True)
class PromptPart:
    """A stretch of the prompt, labelled or not."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of one conversation.

    Attributes:
        input_ids: ids; before ``expand`` an image is one ``IMAGE_TOKEN_INDEX``.
        labels: the id where it is labelled, ``IGNORE_INDEX`` elsewhere; as long as ``input_ids``. Before ``expand`` an
            image in an answer has ``IMAGE_TOKEN_INDEX``, as in the original; after it no image position is labelled.
        max_length: where the sequence is cut, in tokens, before and after expansion.
        expanded_length: how long the sequence is after expansion and its cut.
        would_mismatch: whether the original would have dropped the sample from the loss.
    """

    input_ids: list[int]
    labels: list[int]
    max_length: int
    expanded_length: int
    would_mismatch: bool = False


def encode(
    turns: Sequence[Turn],
    template: Template,
    tokenizer: PreTrainedTokenizerFast,
    has_image: bool,
    max_length: int,
    image_tokens: int,
) -> Encoded:
    """Tokenise a conversation and mark what is labelled; an image is one ``IMAGE_TOKEN_INDEX`` still.

    Args:
        turns: of a sample, so they alternate.
        template: how the turns are written; "plain" for pretraining.
        tokenizer: one to which ``<image>`` is no token (``without_image_token``).
        has_image: whether the sample has an image; only then ``<image>`` is a placeholder.
        max_length: where to cut, in tokens.
        image_tokens: how many positions an image will take.

    Raises:
        TrainError: a "plain" sample is not one image and its caption.
    """
    pieces = _plain_pieces(turns, has_image) if template is PLAIN else _pieces(turns, template, has_image)
    ids, labels = _tokenize(pieces, template, tokenizer, has_image)
    mismatch = template.counts_rounds and _original_drops(pieces, ids, tokenizer, has_image, max_length)
    expanded = len(ids) + ids.count(IMAGE_TOKEN_INDEX) * (image_tokens - 1)
    return Encoded(ids[:max_length], labels[:max_length], max_length, min(expanded, max_length), mismatch)


def expand(encoded: Encoded, image_tokens: int, image_token_id: int) -> Encoded:
    """Give an image its ``image_tokens`` positions of ``image_token_id``, unlabelled, and cut to ``max_length``.

    The cut may fall into an image: then fewer positions than the image has features are left, and the first of the
    features belong to them.
    """
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        image = token == IMAGE_TOKEN_INDEX
        ids.extend([image_token_id] * image_tokens if image else [token])
        labels.extend([IGNORE_INDEX] * image_tokens if image else [label])
    cut = encoded.max_length
    return Encoded(ids[:cut], labels[:cut], cut, min(len(ids), cut), encoded.would_mismatch)


def image_first(text: str) -> str:
    """Return a turn's text with its image placeholder in front, on a line of its own, once."""
    if IMAGE_TOKEN not in text:
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()


def _plain_pieces(turns: Sequence[Turn], has_image: bool) -> list[PromptPart]:
    if not has_image or len(turns) != 2 or IMAGE_TOKEN not in turns[0].text:
        raise TrainError(
            "a sample of the pretrain stage is not one turn with an image and one with its caption",
            "pretrain on image and caption pairs only; conversations belong to the finetune stage",
        )
    return [PromptPart(IMAGE_TOKEN), PromptPart(image_first(turns[1].text) + PLAIN.gpt_end, supervised=True)]


def _pieces(turns: Sequence[Turn], template: Template, has_image: bool) -> list[PromptPart]:
    pieces = [PromptPart(template.system)]
    for turn in spoken(turns):
        text = image_first(turn.text) if has_image else turn.text
        human = turn.speaker == HUMAN
        pieces.append(PromptPart(template.human if human else template.gpt))
        if not text and not template.close_empty:
            continue
        end = template.human_end if human else template.gpt_end
        # An answer without text has no supervised token, not even its end.
        pieces.append(PromptPart(template.gap + text + end, supervised=not human and bool(text)))
        pieces.append(PromptPart("" if human else template.gpt_tail))
    return pieces


def _chunks(pieces: list[PromptPart], separate: bool) -> Iterator[tuple[str, bytes]]:
    """Yield texts to tokenise on their own, each with one byte a character: labelled or not."""
    groups = [[piece] for piece in pieces] if separate else [pieces]
    for group in groups:
        text = "".join(piece.text for piece in group)
        yield text, b"".join(bytes([piece.supervised]) * len(piece.text) for piece in group)


def _tokenize(
    pieces: list[PromptPart], template: Template, tokenizer: PreTrainedTokenizerFast, has_image: bool
) -> tuple[list[int], list[int]]:
    ids: list[int] = list(tokenizer("").input_ids)  # the <s> that legacy Llama puts in front, if the model has one
    labels = [IGNORE_INDEX] * len(ids)
    for text, supervised in _chunks(pieces, template.separate_answers):
        begin = 0
        for number, part in enumerate(text.split(IMAGE_TOKEN) if has_image else [text]):
            if number:
                ids.append(IMAGE_TOKEN_INDEX)
                labels.append(IMAGE_TOKEN_INDEX if supervised[begin - 1] else IGNORE_INDEX)
            tokens = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids.extend(tokens.input_ids)
            # A token belongs where it starts: one that reached into an answer from before it would not be labelled.
            flags = supervised[begin : begin + len(part)] or b"\0"
            labels.extend(
                token if flags[min(start, len(flags) - 1)] else IGNORE_INDEX
                for token, (start, _) in zip(tokens.input_ids, tokens.offset_mapping, strict=True)
            )
            begin += len(part) + len(IMAGE_TOKEN)
    return ids, labels


def _original_drops(
    pieces: list[PromptPart], ids: list[int], tokenizer: PreTrainedTokenizerFast, has_image: bool, max_length: int
) -> bool:
    """Say whether the original's count of the tokens of the rounds misses the length of the sequence.

    It cuts the prompt at each ``</s>``, tokenises every round anew, stops at a round that has not exactly one answer
    in it, and gives a sample up when its count is short of the limit and differs from the tokens that are not padding.
    """
    prompt = "".join(piece.text for piece in pieces)
    counted = 1
    legacy = is_legacy(tokenizer)
    for number, round_text in enumerate(prompt.split(EOS)):
        if round_text.count(f"{V1.human_end}{V1.gpt}{V1.gap}") != 1:
            break
        parts = round_text.split(IMAGE_TOKEN) if has_image else [round_text]
        counted += len(tokenizer("").input_ids) + len(parts) - 1
        counted += sum(len(tokenizer(part, add_special_tokens=False, verbose=False).input_ids) for part in parts)
        # Behind </s> a round has no dummy space then, which it has when it is tokenised anew.
        counted -= number > 0 and not legacy
    # Only a prompt without an image is cut while it is tokenised.
    seen = ids if has_image else ids[:max_length]
    return counted < max_length and counted != sum(token != tokenizer.pad_token_id for token in seen)
