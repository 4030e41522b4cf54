"""Attention back ends for padding-free rows: many samples in one row, attention kept inside each of them.

All of them take the same arguments, are found by transformers under their name (``AttentionInterface``), and give the
same numbers up to rounding. None is a hard dependency: ``choose_backend`` takes what is there.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from safe_llava.core.errors import TrainError

PADDED = "padded"  # one sample a row, transformers' own SDPA: the plain path
BLOCKS = "blocks"  # SDPA with a block-diagonal mask: any device, memory grows with the square of the row
FLEX = "flex"
FLASH = "flash"
VARLEN = "varlen"
PACKED = (VARLEN, FLASH, FLEX, BLOCKS)
CHOICES = ("auto", PADDED, *PACKED)
PREFIX = "safe_llava_"  # of the names under which transformers finds them


def available(name: str, device: torch.device) -> bool:
    """Say whether a back end can run on a device with what is installed."""
    cuda = device.type == "cuda"
    if name == VARLEN:
        return cuda and importlib.util.find_spec("torch.nn.attention.varlen") is not None
    if name == FLASH:
        return cuda and _has_flash()
    return cuda if name == FLEX else True


def _has_flash() -> bool:
    """Whether flash-attn 2 is installed: flash-attn-4 brings a `flash_attn` that holds other functions."""
    return (
        importlib.util.find_spec("flash_attn") is not None
        and importlib.util.find_spec("flash_attn.flash_attn_interface") is not None
    )


def choose_backend(name: str, device: torch.device) -> str:
    """Return the back end to use: the fastest one measured that can run, or the one asked for.

    Raises:
        TrainError: the one asked for cannot run here.
    """
    if name == "auto":
        if device.type != "cuda":
            return PADDED
        return next(found for found in (VARLEN, FLASH, FLEX, BLOCKS) if available(found, device))
    if not available(name, device):
        raise TrainError(
            f"attention {name} cannot run on {device.type} with what is installed here",
            "go on with the image and the device that the training began with, or delete its checkpoints to train from "
            "the beginning; by hand, leave --attention out",
        )
    return name


def use(language_model: Any, name: str) -> None:
    """Make a transformers language model's layers attend through a packed back end."""
    from transformers import AttentionInterface, AttentionMaskInterface

    if name in LOADERS:
        LOADERS[name]()
    AttentionInterface.register(PREFIX + name, BACK_ENDS[name])
    # Segments reach the layers as ``segments``; transformers has no mask to make.
    AttentionMaskInterface.register(PREFIX + name, lambda *arguments, **options: None)
    language_model.config._attn_implementation = PREFIX + name


def layer_arguments(name: str, bounds: torch.Tensor, longest: int, length: int) -> dict[str, Any]:
    """Return what the layers are called with beside the hidden states, made once for all layers.

    Args:
        bounds: int32 [B + 1], where each sample begins in the row, and the row's end.
        longest: tokens of the longest sample.
        length: tokens of the row.
    """
    if name in (VARLEN, FLASH):
        return {"bounds": bounds, "longest": longest}
    starts_T = torch.arange(length, device=bounds.device)
    segments = torch.searchsorted(bounds, starts_T.to(bounds.dtype), right=True)
    if name == FLEX:
        return {"block_mask": _flex_mask(segments)}
    same_TT = segments[:, None] == segments[None, :]
    return {"allowed": same_TT & (starts_T[:, None] >= starts_T[None, :])}


def _varlen(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """PyTorch's own (2.10 and later), [1, H, T, D] to [1, T, H, D]."""
    query, key, value = _rows(module, query, key, value)
    bounds, longest = options["bounds"], options["longest"]
    assert VARLEN_FUNCTION is not None
    attend, causal = VARLEN_FUNCTION
    output = attend(query, key, value, bounds, bounds, longest, longest, scale=options.get("scaling"), **causal)
    return output.unsqueeze(0), None


# Imported when it is asked for (it takes seconds), and before layers are compiled that read it. How the function is
# told to be causal changed between torch 2.10 and 2.11.
VARLEN_FUNCTION: tuple[Callable[..., Any], dict[str, Any]] | None = None


def _load_varlen() -> None:
    global VARLEN_FUNCTION
    from torch.nn.attention.varlen import varlen_attn

    old = "is_causal" in inspect.signature(varlen_attn).parameters
    VARLEN_FUNCTION = varlen_attn, {"is_causal": True} if old else {"window_size": (-1, 0)}


def _flash(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """The flash-attn package."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    query, key, value = _rows(module, query, key, value)
    bounds, longest = options["bounds"], options["longest"]
    output = flash_attn_varlen_func(
        query, key, value, bounds, bounds, longest, longest, softmax_scale=options.get("scaling"), causal=True
    )
    return output.unsqueeze(0), None


def _flex(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """PyTorch's FlexAttention; compiled on a GPU, written out on a CPU."""
    shared = query.shape[1] != key.shape[1]
    # Within a compiled layer it is compiled with it; by itself it would be written out.
    alone = query.is_cuda and not torch.compiler.is_compiling()
    attend = COMPILED_FLEX if alone else FLEX_ATTENTION
    output = attend(
        query, key, value, block_mask=options["block_mask"], scale=options.get("scaling"), enable_gqa=shared
    )
    return output.transpose(1, 2), None


# Imported when it is asked for (it takes a second), and before layers are compiled that read it.
FLEX_ATTENTION: Any = None
COMPILED_FLEX: Any = None


def _load_flex() -> None:
    global FLEX_ATTENTION, COMPILED_FLEX
    from torch.nn.attention.flex_attention import flex_attention

    FLEX_ATTENTION = flex_attention
    COMPILED_FLEX = COMPILED_FLEX or torch.compile(flex_attention, dynamic=True)


def _flex_mask(segments: torch.Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def inside(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & (segments[query] == segments[key])

    length = len(segments)
    return create_block_mask(inside, None, None, length, length, device=segments.device)


def _blocks(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """SDPA with the whole mask, bool [T, T]: the reference of the packed path, and its implementation on a CPU."""
    output = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=options["allowed"],
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2), None


def _rows(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return [T, H, D] of each, with as many heads of keys and values as of queries."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (item.repeat_interleave(repeats, dim=1) for item in (key, value))
    return query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)


BACK_ENDS = {VARLEN: _varlen, FLASH: _flash, FLEX: _flex, BLOCKS: _blocks}
LOADERS = {VARLEN: _load_varlen, FLEX: _load_flex}
