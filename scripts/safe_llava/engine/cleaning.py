"""From generated tokens to a reply: the same for every back end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from safe_llava.core.errors import EngineError
from safe_llava.engine.base import Reply, Request


def clean_reply(
    request: Request,
    prompt: str,
    tokens: Sequence[int],
    *,
    ends: Collection[int],
    decode: Callable[..., str],
    cut_at_newline: bool,
) -> Reply:
    """Return the reply that generated tokens stand for.

    Args:
        tokens: what was generated, the end token and what pads it included or not.
        ends: tokens that end an answer.
        decode: the tokenizer's ``decode``.
        cut_at_newline: keep the first line only.
    """
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    kept = list(tokens if end is None else tokens[:end])
    text = str(decode(kept, skip_special_tokens=True)).lstrip()
    # A first line that is whole has not been truncated, whatever became of the lines behind it.
    whole_line = cut_at_newline and "\n" in text
    cut = (text.split("\n", 1)[0] if cut_at_newline else text).rstrip()
    truncated = end is None and not whole_line
    return Reply(request.key, cut, "ok", n_tokens=len(kept), truncated=truncated, prompt=prompt)


def end_tokens(configuration: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the generation configuration's, else the tokenizer's.

    Args:
        configuration: anything with ``eos_token_id``: a number, several, or None.

    Raises:
        EngineError: neither names one.
    """
    ends = getattr(configuration, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise EngineError("neither the model nor its tokenizer names an end token", "add a generation_config.json")
    return frozenset(ends) if isinstance(ends, list | tuple) else frozenset({int(ends)})


def saved_generation_config(model_dir: Path, trust_remote_code: bool = False) -> Any:
    """Return the generation configuration that the model class would give a checkpoint, without its weights."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model_dir, local_files_only=True)
    except OSError:  # none is saved with it: the model's own configuration says the same in older checkpoints
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)
