"""Fixtures of the checkpoints' tests."""

from __future__ import annotations

from train.tiny import tiny

__all__ = ["tiny"]
