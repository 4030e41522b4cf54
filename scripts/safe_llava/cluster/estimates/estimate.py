"""How long each stage takes and what it needs, from what was measured; pure functions of the configuration.

A figure was measured as it stands, or is estimated from measured ones, or is unknown. A language model that is larger
than the measured one is estimated by its parameters; one that is smaller is not, for it fills a GPU less well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from safe_llava.cluster.estimates.measured import ByTask, Measured
from safe_llava.config.schema import Config
from safe_llava.config.train import Stage, StageName, TrainedModel
from safe_llava.formats.prism import Task
from safe_llava.train.loop.planner import Size

Basis = Literal["nothing", "measured", "estimated", "unknown"]
BASES: tuple[Basis, ...] = ("nothing", "measured", "estimated", "unknown")
HOUR = 3600.0


@dataclass(frozen=True)
class Amount:
    """A quantity, None where it is unknown, with how it was got in words."""

    value: float | None
    basis: Basis
    how: str


NOTHING = Amount(0.0, "nothing", "")


def worst(bases: Iterable[Basis]) -> Basis:
    """Return the least certain of several."""
    return max(bases, key=BASES.index, default="nothing")


def samples_of(config: Config, stage: Stage) -> float | None:
    """Return how many samples a stage takes; None where the number of its annotations is unknown."""
    counts = [row.samples for row in config.data.sets[stage.annotations].annotations]
    known = [count for count in counts if isinstance(count, int)]
    steps = None if stage.max_steps is None else float(stage.max_steps * stage.global_batch)
    if len(known) < len(counts):
        return steps
    whole = sum(known) * stage.epochs
    return whole if steps is None else min(whole, steps)


def scale(measured: Measured, language_model: str | None) -> Amount:
    """Return how much longer a model takes than the one that was measured."""
    size = measured.language_models.get(language_model or "")
    if size is None:
        return Amount(None, "unknown", "no such model was measured")
    ratio = size.parameters / measured.language_models[measured.language_model].parameters
    if ratio == 1:
        return Amount(1.0, "measured", "")
    if ratio < 1:
        return Amount(None, "unknown", "it is smaller than the model that was measured")
    return Amount(ratio, "estimated", f"{ratio:.2f} times that of {measured.language_model}, as its parameters")


def training_hours(config: Config, measured: Measured, name: str, stage: StageName) -> Amount:
    """Return the GPU hours of one stage of a trained model."""
    row: TrainedModel = config.train.models[name]
    if row.accelerator == "cpu":
        return Amount(0.0, "nothing", "on CPUs")
    times, samples = scale(measured, row.language_model), samples_of(config, getattr(row, stage))
    if row.vision_tower not in measured.vision_towers:
        return Amount(None, "unknown", "its vision tower was not measured")
    if row.lora is not None and stage == "finetune":
        return Amount(None, "unknown", "adapters were not measured")
    if times.value is None:
        return times
    if samples is None:
        return Amount(None, "unknown", "the number of samples is unknown")
    speed = measured.train[stage]
    hours = samples / speed.samples_per_s / HOUR * times.value
    said = f"{samples:,.0f} samples at {speed.samples_per_s} a second and GPU ({measured.device})"
    return Amount(hours, "estimated", "; ".join(filter(None, (said, times.how))))


def model_under(config: Config, measured: Measured, name: str) -> str | None:
    """Return the language model of an evaluated model; None where it is not one of those that were measured."""
    row = config.models[name]
    if row.train:
        return config.train.models[row.train].language_model
    return measured.built_on.get(row.weights or "")


def answering_hours(config: Config, measured: Measured, name: str, edition: str) -> Amount:
    """Return the GPU hours in which a model answers an edition of PRISM."""
    row, asked = config.models[name], measured.editions.get(edition)
    if row.accelerator == "cpu":
        return Amount(0.0, "nothing", "on CPUs")
    times = scale(measured, model_under(config, measured, name))
    if times.value is None:
        return times
    if asked is None:
        return Amount(None, "unknown", f"the number of questions of {edition} is unknown")
    backend = "transformers" if row.backend == "transformers" else "vllm"
    speed, questions = measured.answering[backend], sum(questions_of(asked).values())
    seconds = questions / speed.answers * speed.seconds * times.value + (speed.start_s or 0.0)
    as_measured = questions == speed.answers and times.basis == "measured"
    said = f"{questions:,.0f} answers at {speed.answers / speed.seconds:.0f} a second with {backend}"
    basis: Basis = "measured" if as_measured else "estimated"
    return Amount(seconds / HOUR, basis, "; ".join(filter(None, (said, times.how))))


def benchmark_hours(config: Config, measured: Measured, name: str, benchmark: str) -> Amount:
    """Return the GPU hours in which a model answers a general benchmark."""
    asked = measured.benchmarks.get(benchmark)
    if config.models[name].accelerator == "cpu":
        return Amount(0.0, "nothing", "on CPUs")
    times = scale(measured, model_under(config, measured, name))
    if times.value is None:
        return times
    if asked is None:
        return Amount(None, "unknown", "the number of its questions is not noted")
    limit = config.benchmarks.limit
    part = 1.0 if limit is None else min(1.0, limit / asked.questions)
    said = "questions, images and rough numbers of tokens at measured speeds"
    how = "; ".join(filter(None, (said, times.how)))
    return Amount(part * asked.seconds(measured.phases) * times.value / HOUR, "estimated", how)


def questions_of(asked: ByTask) -> dict[Task, float]:
    """Return the questions of an edition by task."""
    return {task: getattr(asked, task) for task in Task}


def model_size(measured: Measured, row: TrainedModel, stage: StageName) -> Size | None:
    """Return what a model weighs in a stage; None where its parts' sizes are unknown, or adapters are trained."""
    language = measured.language_models.get(row.language_model)
    tower = measured.vision_towers.get(row.vision_tower)
    trained = getattr(row, stage).trainable
    if language is None or tower is None or (row.lora is not None and "language_model" in trained):
        return None
    inner, width = tower.width, language.width
    projector = inner * width + width + (width * width + width if row.projector == "mlp2x_gelu" else 0)
    parts = {"projector": projector, "language_model": language.parameters}
    whole = tower.parameters + sum(parts.values())
    return Size(whole, sum(parts[part] for part in trained), language.layers, width, language.vocabulary)
