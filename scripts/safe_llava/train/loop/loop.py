"""The training loop: forward, backward, step, save; the same steps whether or not it was interrupted."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from safe_llava.config.train import Checkpoints, Stage
from safe_llava.core.errors import TrainError
from safe_llava.core.progress import Progress
from safe_llava.formats.metrics import StepMetrics
from safe_llava.train.loop.checkpoint import CheckpointFolder
from safe_llava.train.loop.deepspeed import Processes, TrainingEngine
from safe_llava.train.loop.flops import Arithmetic, peak_flops
from safe_llava.train.loop.guards import LossGuard, dead_worker_named, memory_named
from safe_llava.train.loop.metrics import MetricsLog
from safe_llava.train.loop.watch import Watch
from safe_llava.train.model.loss import sample_weights
from safe_llava.train.samples.batches import MicroBatch, StepDataset, steps_from
from safe_llava.train.samples.schedule import Plan, learning_rate_factor

LOG = logging.getLogger(__name__)
EXCHANGE_SECONDS = 1800.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def _note(metrics: StepMetrics) -> str:
    """What the progress line says of a step."""
    speed = f"{metrics.samples_per_s:.1f} samples/s, {metrics.tokens_per_s:.0f} tokens/s"
    mfu = f", MFU {metrics.mfu:.0%}" if metrics.mfu else ""
    return f"loss {metrics.loss:.4f}, {speed}{mfu}"


class StopRequest:
    """Remembers a signal to stop until the next step boundary; behind the last step nothing heeds it any more."""

    def __init__(self) -> None:
        self.received = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = True

    @staticmethod
    def release() -> None:
        """Let the signals end the process again."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)


@dataclass
class Totals:
    """Sums over all processes of one step."""

    loss: float
    tokens: int
    would_mismatch: int
    stop: bool
    save: bool
    written: bool
    flops: float = 0.0


@dataclass
class Loop:
    """Everything that a stage's training steps need.

    Attributes:
        seed: of the random numbers of a step (LoRA's dropout), together with the step and the rank.
        would_mismatch: samples of the first epoch that the original would have dropped.
        loss_limit: a loss above this multiple of its running mean ends the run; None checks nothing.
        tensorboard: folder for event files; None writes none.
        exchange_seconds: after which a process that the others wait for is missing.
        saves: whether checkpoints are written; a run that only measures has none.
        arithmetic: what the model FLOP utilisation is estimated from; None leaves it out.
    """

    engine: TrainingEngine
    plan: Plan
    stage: Stage
    checkpoints: Checkpoints
    folder: CheckpointFolder
    processes: Processes
    seed: int
    workers: int
    label: str
    stop: StopRequest = field(default_factory=StopRequest)
    would_mismatch: int = 0
    arithmetic: Arithmetic | None = None
    saves: bool = True
    loss_limit: float | None = None
    tensorboard: Path | None = None
    exchange_seconds: float = EXCHANGE_SECONDS
    at: int = 0
    guard: LossGuard = field(default_factory=lambda: LossGuard(None))
    _saved_at: float = field(default_factory=time.monotonic)

    def run(self, data: StepDataset) -> tuple[bool, list[StepMetrics]]:
        """Train to the end or to a signal; return whether it is the end, and the steps (first process only).

        Raises:
            TrainError: a loss or a gradient is not finite or exploded, a sample cannot be made, a loader process died,
                or memory or disk is full. Nothing is saved, and what was saved stays.
        """
        self.guard = LossGuard(self.loss_limit)
        self.at = first = self._resume()
        self._watch = Watch(self.processes, self.exchange_seconds)
        try:
            with dead_worker_named(lambda: data.sample_ids(self.at)):
                return self._run(data, first)
        finally:
            self._watch.end()

    def _run(self, data: StepDataset, first: int) -> tuple[bool, list[StepMetrics]]:
        log = MetricsLog(self.folder.metrics, first, self.tensorboard) if self.processes.first else None
        seconds = log.steps[-1].seconds if log and log.steps else 0.0
        progress = Progress(self.plan.total_steps - first, self.label, "steps") if self.processes.first else None
        start = last = time.monotonic()
        pinned = self.processes.device.type == "cuda"
        steps: Iterator[list[MicroBatch]] = steps_from(data, first, self.plan.total_steps, self.workers, pinned)
        if self.saves:
            self.folder.reserve(self.engine.state.pieces())
        for step, micro_batches in enumerate(steps, start=first):
            self.at = step
            self._watch.sign()
            totals, norm, factor = self._step(step, micro_batches)
            now = time.monotonic()
            if log and progress:
                metrics = self._metrics(step, totals, norm, factor, now - last, seconds + now - start)
                log.add(metrics)
                progress.update(note=_note(metrics))
            last = now
            self.at = min(step + 1, self.plan.total_steps - 1)  # what the loader is on from here
            if totals.written:
                with self._watch.paused():
                    self.folder.settle()
            if step + 1 == self.plan.total_steps:
                break  # the results follow from what is in memory
            if totals.save or totals.stop or (step + 1) % self.checkpoints.every_steps == 0:
                with self._watch.paused():
                    self._save(step + 1, log)
                    if totals.stop:
                        self.folder.settle()
            if totals.stop:
                LOG.info("stopped by a signal after step %d; the state is saved", step + 1)
                return False, []
        if log and progress:
            log.close()
            progress.close()
        return True, log.steps if log else []

    def _resume(self) -> int:
        saved = self.folder.load(self.engine.state.pieces(whole=True))
        if saved is None:
            return 0
        self.engine.state.restored(saved.facts["updates"])
        self.would_mismatch, self.guard.mean = saved.facts["would_mismatch"], saved.facts["mean_loss"]
        if self.processes.first:
            LOG.info("resuming after step %d of %d", saved.step, self.plan.total_steps)
        return saved.step

    def _save(self, step: int, log: MetricsLog | None) -> None:
        if not self.saves:
            return
        if log:
            log.sync()  # a checkpoint outlives a lost machine, and the table of its steps with it
        state = self.engine.state
        facts = {"would_mismatch": self.would_mismatch, "mean_loss": self.guard.mean, "updates": state.updates}
        self.folder.save(step, state.pieces(), facts)
        self._saved_at = time.monotonic()

    def _step(self, step: int, micro_batches: list[MicroBatch]) -> tuple[Totals, float, float]:
        """Take one optimizer step; return its sums, the gradient norm and the learning rate's factor."""
        # From the step alone, so that a run that goes on draws what an uninterrupted one does.
        torch.manual_seed((self.seed * 1_000_003 + step) * self.processes.world_size + self.processes.rank)
        tokens_G = self._labelled_tokens(micro_batches)
        parts = [
            self._forward_backward(item, sample_weights(item.groups, tokens_G), number == len(micro_batches))
            for number, item in enumerate(micro_batches, start=1)
        ]
        totals = self._reduce(micro_batches, parts)
        if not math.isfinite(totals.loss):
            raise self._wrong("the loss", "is not finite", step, micro_batches, parts)
        if self.guard.exploded(step, totals.loss):
            what = f"the loss {totals.loss:.4g}, over {self.loss_limit:g} times its running mean {self.guard.mean:.4g},"
            raise self._wrong(what, "exploded", step, micro_batches, None)
        factor = learning_rate_factor(step, self.plan.total_steps, self.stage.warmup_ratio)
        self._watch.sign()
        with memory_named("the optimizer step", [name for item in micro_batches for name in item.sample_ids]):
            norm = self.engine.update(factor)
        if not math.isfinite(norm):
            raise self._wrong("the gradient", "is not finite", step, micro_batches, None)
        if step < self.plan.steps_per_epoch:
            self.would_mismatch += totals.would_mismatch
        return totals, norm, factor

    def _forward_backward(self, item: MicroBatch, weights: torch.Tensor, last: bool) -> torch.Tensor:
        if last:
            self._watch.sign()  # gradients are exchanged in its backward pass
        what = f"a micro-batch of {len(item.sample_ids)} samples with {item.tokens} tokens"
        with memory_named(what, item.sample_ids):
            return self.engine.forward_backward({**item.tensors, "weights": weights}, last=last)

    def _labelled_tokens(self, micro_batches: list[MicroBatch]) -> torch.Tensor:
        """Labelled tokens of each reference group of the step, over all processes where groups are cut."""
        tokens_G = torch.zeros(self.plan.groups_per_step, dtype=torch.long)
        for item in micro_batches:
            mine = item.groups >= 0
            tokens_G.index_add_(0, item.groups[mine], item.labelled[mine])
        if self.plan.groups_are_cut:
            tokens_G = self._sum(tokens_G)
        return tokens_G

    def _reduce(self, micro_batches: list[MicroBatch], parts: list[torch.Tensor]) -> Totals:
        overdue = time.monotonic() - self._saved_at > 60 * self.checkpoints.every_minutes
        values = [
            float(torch.cat(parts).sum(dtype=torch.float64)),
            sum(item.tokens for item in micro_batches),
            sum(item.would_mismatch for item in micro_batches),
            self.stop.received,
            self.processes.first and overdue,
            self.folder.written,
            self._flops(micro_batches),
        ]
        sums = self._sum(torch.tensor(values, dtype=torch.float64)).tolist()
        loss, tokens, mismatched, stop, save, written, flops = sums
        every = written == self.processes.world_size
        return Totals(loss, int(tokens), int(mismatched), stop > 0, save > 0, every, flops)

    def _flops(self, micro_batches: list[MicroBatch]) -> float:
        if self.arithmetic is None:
            return 0.0
        return sum(
            self.arithmetic.step(item.tokens, item.squares, int(item.labelled.sum()), item.images)
            for item in micro_batches
        )

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        self._watch.sign()
        moved = values.to(self.processes.device)
        torch.distributed.all_reduce(moved)
        return moved.to("cpu")

    def _metrics(
        self, step: int, totals: Totals, norm: float, factor: float, took: float, seconds: float
    ) -> StepMetrics:
        device = self.processes.device
        peak = peak_flops(device)
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
        return StepMetrics(
            step=step + 1,
            epoch=round((step + 1) / self.plan.steps_per_epoch, 6),
            loss=totals.loss,
            learning_rate=self.engine.learning_rate(factor),
            grad_norm=norm,
            samples_per_s=round(self.stage.global_batch / took, 3),
            tokens_per_s=round(totals.tokens / took, 1),
            seconds=round(seconds, 3),
            mfu=round(totals.flops / took / (peak * self.processes.world_size), 4) if peak else 0.0,
            memory_gib=round(memory, 2),
        )

    def _wrong(
        self, what: str, fault: str, step: int, micro_batches: list[MicroBatch], parts: list[torch.Tensor] | None
    ) -> TrainError:
        """Name the samples: those whose loss is not finite, or all of the step without ``parts``."""
        names = [
            name
            for number, item in enumerate(micro_batches)
            for row, name in enumerate(item.sample_ids)
            if name and (parts is None or not bool(parts[number][row].isfinite()))
        ]
        everyone: list[Any] = [None] * self.processes.world_size
        torch.distributed.all_gather_object(everyone, names)
        listed = ", ".join(name for names in everyone for name in names)
        return TrainError(
            f"{what} of step {step + 1} {fault}; samples: {listed}",
            "look at these samples with safe_llava.train.inspect; lower the learning rate if they are sound",
        )
