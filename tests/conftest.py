"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import ImageFile

ROOT = Path(__file__).resolve().parents[1]

# Two worker processes share two cores: one thread each keeps results and run times steady.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def half_pictures_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what lmms-eval sets for the whole process when it is imported."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden values and released answers; absent outside the developers' machines and CI."""
    folder = Path(os.environ.get("SAFE_LLAVA_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        reason = f"{folder} is absent: golden values of the original code are not here (set SAFE_LLAVA_SHARED)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
