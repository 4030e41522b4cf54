"""What may go wrong in the middle of a training, as one clear error that names the samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from safe_llava.core.errors import TrainError

NAMED = 16  # samples that an error names; a step may have hundreds
FIRST_CHECKED = 10  # steps: before, the mean says little
DEAD_WORKER = r"DataLoader worker \(pid.*\) (is killed|exited).*"
MEMORY = 0.98  # of the running mean that stays at each step


def listed(names: Sequence[str]) -> str:
    """Return names for an error: the first of them, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "none") + more


class LossGuard:
    """Says whether a step's loss has exploded: it is far above the running mean of those before it.

    Args:
        limit: how many times the mean is too much; None never is.
        mean: what ``mean`` was when the run was saved.
    """

    def __init__(self, limit: float | None, mean: float | None = None) -> None:
        self.limit, self.mean = limit, mean

    def exploded(self, step: int, loss: float) -> bool:
        """Take the loss of a step (from 0) into the mean, unless it has exploded."""
        if self.limit and self.mean is not None and step >= FIRST_CHECKED and loss > self.limit * self.mean:
            return True
        self.mean = loss if self.mean is None else MEMORY * self.mean + (1 - MEMORY) * loss
        return False


@contextmanager
def memory_named(what: str, names: Sequence[str]) -> Iterator[None]:
    """Turn a lack of memory into an error that says what was computed on which samples.

    Raises:
        TrainError: the device or the machine has no more memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in text:
            raise
        raise TrainError(
            f"out of memory in {what} (samples {listed(names)}): {text.splitlines()[0] if text else 'no more memory'}",
            "go on on GPUs with more memory (docs/cluster.md says how to ask for them); or set, in the row's stage, "
            "gradient_checkpointing to true or a higher zero_stage, and delete the checkpoints to train from the "
            "beginning (by hand, a smaller --micro-tokens or --micro-batch does too)",
        ) from error


@contextmanager
def taken_gpu_named(device: torch.device) -> Iterator[None]:
    """Turn a lack of a GPU's memory while a model is laid out into an error that says who has it.

    Raises:
        TrainError: there is not enough memory; what other processes hold is said.
    """
    try:
        yield
    except RuntimeError as error:
        if device.type != "cuda" or "out of memory" not in str(error):
            raise
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
        own = torch.cuda.memory_reserved(device) / 2**30
        raise TrainError(
            f"GPU {device.index} has too little memory: of its {total:.0f} GiB, {free:.0f} are free, this "
            f"training holds {own:.0f}, and other processes {max(0.0, total - free - own):.0f}",
            "end what else runs on this GPU (nvidia-smi lists it), or ask for GPUs of your own; if nothing else runs "
            "there, set gradient_checkpointing and zero_stage of the row's stage to auto, or use more GPUs",
        ) from error


@contextmanager
def dead_worker_named(names: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Turn the death of a loader process into an error that names the samples that were being loaded.

    torch raises it wherever the training is at that moment, not only where it waits for samples. A loader that is
    killed while it hands over a sample surfaces as a broken connection instead.

    Raises:
        TrainError: a loader process was killed or ended.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        said = re.search(DEAD_WORKER, str(error))
        if isinstance(error, RuntimeError) and not said:
            raise
        text = said[0] if said else str(error) or type(error).__name__
        raise TrainError(
            f"a loader process died ({text}); the next samples were {listed(names())}",
            "run the same command again; if it dies once more, look at these samples, or give the job more memory "
            "(--set-resources RULE:mem_mb=…; by hand, fewer --workers)",
        ) from error
