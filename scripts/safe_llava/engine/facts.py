"""What an answer depends on beside the model's weights and the question: a part of its key in the store."""

from __future__ import annotations

from typing import Any

from safe_llava.config.models import EvaluatedModel
from safe_llava.engine.base import ENGINE_VERSION, backend_of, device_type, precision


def engine_facts(row: EvaluatedModel, device: str) -> dict[str, Any]:
    """Return what answers depend on beside the model and the question; the model is not loaded for it.

    Args:
        row: how the model is asked.
        device: as for ``open_engine``.
    """
    used = device_type(row, device)
    settings = row.model_dump(mode="json", include={"family", "system", "image_size", "cut_at_newline"})
    computed = {"backend": backend_of(row, device), "device": used, "dtype": precision(row, used)}
    return {"version": ENGINE_VERSION, **computed, **settings}
