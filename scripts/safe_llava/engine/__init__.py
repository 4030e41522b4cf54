"""The generation engine: every stage asks its models through here.

``open_engine`` alone knows the back ends, ``vllm`` and ``transformers``; they import the other modules of this room,
and none of those imports a back end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safe_llava.config.models import EvaluatedModel
    from safe_llava.engine.base import Engine


def open_engine(model_dir: Path | str, row: EvaluatedModel, device: str = "auto", threads: int | None = None) -> Engine:
    """Load a model and return the engine that asks it.

    The import waits until here: whoever only reads a command line does not pay for torch.

    Args:
        model_dir: folder of a Hugging Face checkpoint with its processor.
        row: how the model is asked, its back end with it.
        device: ``auto`` (what the row's `accelerator` says), ``cpu``, ``cuda``, ``cuda:1``, …
        threads: CPU threads of the transformers back end; None leaves torch's own choice.

    Raises:
        EngineError: the model does not load, or the row wants vLLM and there is none.
    """
    import importlib.util

    from safe_llava.core.errors import EngineError
    from safe_llava.core.imports import light_transformers
    from safe_llava.engine.base import backend_of

    light_transformers()
    if backend_of(row, device) == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise EngineError(
                "the model's row says `backend: vllm`, and vLLM is not installed",
                "install vllm, or set `backend: auto` or `transformers`",
            )
        from safe_llava.engine.vllm import VllmEngine

        return VllmEngine(model_dir, row, device=device)
    from safe_llava.engine.transformers.engine import TransformersEngine

    return TransformersEngine(model_dir, row, device=device, threads=threads)
