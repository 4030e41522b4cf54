"""The generation engine: every stage asks its models through here."""

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
        row: how the model is asked.
        device: ``auto`` (what the row's `accelerator` says), ``cpu``, ``cuda``, ``cuda:1``, …
        threads: CPU threads; None leaves torch's own choice.
    """
    from safe_llava.core.imports import light_transformers

    light_transformers()
    from safe_llava.engine.transformers_engine import TransformersEngine

    return TransformersEngine(model_dir, row, device=device, threads=threads)
