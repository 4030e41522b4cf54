"""The table of a training run: one row an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import FiniteFloat


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step.

    Attributes:
        step: counted from 1.
        epoch: passes over the annotations, this step included.
        loss: mean over the reference groups of their token means.
        learning_rate: of the first parameter group.
        grad_norm: before clipping.
        seconds: of training since the beginning, interruptions left out.
        mfu: part of the devices' peak that the step's mathematics needs; 0 where the peak is not known.
        memory_gib: most memory that a device held so far; 0 on a CPU.
    """

    step: int
    epoch: float
    loss: FiniteFloat
    learning_rate: float
    grad_norm: float
    samples_per_s: float
    tokens_per_s: float
    seconds: float
    mfu: float = 0.0
    memory_gib: float = 0.0
