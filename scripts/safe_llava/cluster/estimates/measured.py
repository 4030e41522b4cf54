"""What was measured of this project (``config/measured.yaml``), typed."""

from __future__ import annotations

from pathlib import Path

import yaml

from safe_llava.config.base import Name, Row
from safe_llava.config.selection import ROOT
from safe_llava.core.errors import ConfigError
from safe_llava.core.rows import check_row
from safe_llava.core.yaml_text import parse_yaml

FILE = ROOT / "config" / "measured.yaml"


class Speed(Row):
    """A training stage's speed on one GPU, with the log that it comes from."""

    samples_per_s: float
    source: str


class Writing(Row):
    """How long the processes of one machine took to write a checkpoint."""

    bytes: int
    seconds: float
    source: str

    @property
    def gb_per_s(self) -> float:
        """Decimal gigabytes a second."""
        return self.bytes / 1e9 / self.seconds


class Answering(Row):
    """How long a back end took for an edition of PRISM; ``start_s`` is not in ``seconds``."""

    answers: int
    seconds: float
    start_s: float | None
    source: str


class Phase(Row):
    """So much of a kind of work took so long."""

    amount: int
    seconds: float

    @property
    def each(self) -> float:
        """Seconds of one."""
        return self.seconds / self.amount


class Phases(Row):
    """What answering consists of."""

    pictures: Phase
    tokens_read: Phase
    tokens_decoded: Phase
    source: str


class LanguageModel(Row):
    """Sizes of a language model."""

    parameters: int
    layers: int
    width: int
    vocabulary: int


class VisionTower(Row):
    """Sizes of a vision tower."""

    parameters: int
    width: int


class ByTask(Row):
    """A number for each task of PRISM."""

    refusal_soft: float
    refusal_hard: float
    implicit_leakage: float


class BenchmarkCounts(Row):
    """What a general benchmark asks; tokens are those of one question and of one answer."""

    questions: int
    pictures: int
    question_tokens: float
    answer_tokens: float

    def seconds(self, phases: Phases) -> float:
        """Return how long it takes at measured speeds, one after the other."""
        return (
            self.pictures * phases.pictures.each
            + self.questions * self.question_tokens * phases.tokens_read.each
            + self.questions * self.answer_tokens * phases.tokens_decoded.each
        )


class Measured(Row):
    """All of it."""

    train: dict[Name, Speed]
    checkpoint: Writing
    answering: dict[Name, Answering]
    phases: Phases
    device: str
    language_model: Name
    language_models: dict[Name, LanguageModel]
    vision_towers: dict[Name, VisionTower]
    built_on: dict[Name, Name]
    editions: dict[Name, ByTask]
    question_tokens: float
    answer_tokens: ByTask
    benchmarks: dict[Name, BenchmarkCounts]


def read_measured(path: Path = FILE) -> Measured:
    """Read the measured figures.

    Raises:
        ConfigError: the file is not what it should be.
    """
    remedy = "take the file as it is in the repository"
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}", remedy) from error
    return check_row(Measured, tree, str(path), ConfigError, remedy)
