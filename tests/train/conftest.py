"""Fixtures of the training tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from safe_llava.train.loop.loop import StopRequest
from train.tiny import one_process, tiny, two_processes

__all__ = ["one_process", "tiny", "two_processes"]


@pytest.fixture(autouse=True)
def signals_end_the_tests() -> Iterator[None]:
    """A training in this process heeds no signal behind its last step; pytest does."""
    yield
    StopRequest.release()
