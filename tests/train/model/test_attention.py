"""Which back ends of attention can run with what is installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from safe_llava.train.model.attention import FLASH, available


@pytest.mark.parametrize(("module", "there"), [(None, False), ("cute", False), ("flash_attn_interface", True)])
def test_flash_is_available_where_flash_attn_2_is_installed(
    module: str | None, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flash-attn-4 installs a package of the same name without the function that is called."""
    if module is not None:
        (tmp_path / "flash_attn").mkdir()
        (tmp_path / "flash_attn" / f"{module}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert available(FLASH, torch.device("cuda")) is there
    assert available(FLASH, torch.device("cpu")) is False
