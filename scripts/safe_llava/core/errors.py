"""One exception type for each stage; every error carries its remedy."""

from __future__ import annotations

from pathlib import Path


def again(receipts: str, what: str = "it") -> str:
    """Return the remedy for a fetched file that is damaged now: without its receipt, its rule runs again."""
    return f"delete {what} and its receipt in results/data/{receipts}, then run the same command again"


FETCH_AGAIN = f"{again('fetched')}, or name another mirror"
FETCHED_SUFFIX = ".receipt.json"  # every fetched file has such a note beside it
CHECKPOINT_AGAIN = f"{again('snapshots')}, or name the folder that holds its config.json and weights"


def damaged(path: Path, mend: str) -> str:
    """Return the remedy for a damaged file: a fetched file is fetched again, a user's own file is mended."""
    return f"{FETCH_AGAIN}; or {mend}" if path.with_name(path.name + FETCHED_SUFFIX).exists() else mend


class SafeLlavaError(Exception):
    """A fault that the user can do something about.

    Args:
        message: what is wrong, naming the file, the key or the row.
        remedy: what to do about it, as an instruction.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[SafeLlavaError], tuple[str, str]]:
        # Pickled as BaseException would, it could not be made again in the process that waits for it.
        return type(self), (self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}"


class ConfigError(SafeLlavaError):
    """The configuration is wrong."""


class DataError(SafeLlavaError):
    """A data set is missing, broken, or not where it should be."""


class CheckpointError(SafeLlavaError):
    """A checkpoint, its tokenizer or its processor cannot be read, converted or written."""


class TrainError(SafeLlavaError):
    """Training cannot start or continue."""


class EngineError(SafeLlavaError):
    """A model cannot be loaded, or cannot answer."""


class PrismError(SafeLlavaError):
    """A PRISM answer, verdict or score cannot be read or computed."""


class BenchmarkError(SafeLlavaError):
    """A general benchmark cannot be run or read."""


class PaperError(SafeLlavaError):
    """A table or figure cannot be made."""


class DemoError(SafeLlavaError):
    """The demo's own experiment missed one of its thresholds."""
