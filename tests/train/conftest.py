"""Fixtures of the training tests."""

from __future__ import annotations

from train.tiny import one_process, tiny, two_processes

__all__ = ["one_process", "tiny", "two_processes"]
