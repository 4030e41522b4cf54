"""Choose how a stage is computed from the memory and the number of GPUs; what is computed stays the same.

The global batch and its reference groups are the row's. What is chosen: the tokens of a micro-batch, the ZeRO stage,
whether activations are computed again in the backward pass, and whether AdamW's state lies in the CPU's memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from safe_llava.config.train import Stage, TrainedModel
from safe_llava.core.errors import TrainError

GIB = 2**30
STATE_BYTES = 12  # of a trained element: its weight and AdamW's two moments in fp32
# AdamW on the CPU, of a trained element and CPU: 12.7 samples/s of 32 a step were seen where the GPU gave 28.7, with
# 3.52 G trained elements and 16 CPUs (docs/benchmarks.md).
OFFLOADED_SECONDS = 16 * (32 / 12.7 - 32 / 28.7) / 3.52e9
CPUS_A_GPU = 8  # what the rules ask for
OFFLOADED_BYTES = 16  # the same, and its gradient, in the CPU's memory
# Bytes of activations of a token, a layer and a unit of width. Seen on an H200 with the 7B model, layers compiled:
# 56 GiB for 16,384 estimated tokens are 28; the projector's stage needs no more.
ACTIVATIONS = 28
# With recomputation: a layer's input in bf16, and the whole of the layer that is being computed again.
KEPT, RECOMPUTED = 2, 40
HEAD_BYTES = 12 * 4096  # of a word of the vocabulary: logits in fp32, their gradient and a copy of 4,096 positions
BUCKETS = 2.5 * GIB  # of DeepSpeed, and the library's own
LIVE_PARAMETERS = 2 * GIB  # what ZeRO-3 gathers at a time
RESERVE = 0.06  # part of the memory left free for fragments
RESERVE_ZERO3 = 0.2  # parameters that come and go leave more of them
MOST_TOKENS, FEWEST_TOKENS = 16_384, 4096  # larger rows are no faster; below, an H200 is not filled


@dataclass(frozen=True)
class Machine:
    """What a stage runs on.

    Attributes:
        memory: of one GPU in bytes; 0 means CPUs.
        processes: GPUs in all.
        nodes: machines they are spread over.
        cpus: of this job on each machine; None: as the rules ask for.
    """

    memory: float
    processes: int
    nodes: int = 1
    cpus: int | None = None

    @property
    def per_node(self) -> int:
        """Processes on one machine, at most."""
        return math.ceil(self.processes / self.nodes)


@dataclass(frozen=True)
class Size:
    """What a model weighs.

    Attributes:
        parameters, trained: elements in all, and with gradients.
        layers, width, vocabulary: of the language model.
    """

    parameters: int
    trained: int
    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Choice:
    """How a stage is computed, and why.

    Attributes:
        micro_tokens: of a padding-free micro-batch, at most.
        static, cpu_memory: bytes of weights, gradients and states on a GPU, and on the CPU of one machine.
    """

    zero_stage: int
    checkpointing: bool
    offload: bool
    micro_tokens: int
    static: float
    cpu_memory: float
    reason: str

    def applied(self, stage: Stage) -> Stage:
        """Return the stage with ``auto`` replaced by what was chosen."""
        return stage.model_copy(
            update={
                "zero_stage": self.zero_stage,
                "gradient_checkpointing": self.checkpointing,
                "offload_optimizer": self.offload,
            }
        )


# Fastest first: recomputation costs a third of the arithmetic, ZeRO-3 gathers all weights twice in every
# micro-batch, and an optimizer on the CPU moves every gradient and weight over PCIe.
ORDER = (
    (1, False, False),
    (2, False, False),
    (1, True, False),
    (2, True, False),
    (3, False, False),
    (3, True, False),
    (1, True, True),
    (2, True, True),
    (3, True, True),
)


def measure_model(llava: Any, trained: int) -> Size:
    """Read the size of a model, ``trained`` of whose elements get gradients."""
    text = llava.config.text_config
    parameters = sum(value.numel() for value in llava.parameters())
    return Size(parameters, trained, text.num_hidden_layers, text.hidden_size, text.vocab_size)


def static_bytes(size: Size, processes: int, zero_stage: int, offload: bool) -> float:
    """Return what lies on every GPU whatever the micro-batch: bf16 weights and gradients, fp32 states."""
    weights = 2 * size.parameters / (processes if zero_stage == 3 else 1)
    gradients = 2 * size.trained / (processes if zero_stage > 1 else 1)
    states = 0 if offload else STATE_BYTES * size.trained / processes
    return weights + gradients + states + BUCKETS + (LIVE_PARAMETERS if zero_stage == 3 else 0)


def token_bytes(size: Size, checkpointing: bool) -> float:
    """Return the activations of one token."""
    each = KEPT * size.layers + RECOMPUTED if checkpointing else ACTIVATIONS * size.layers
    return float(each * size.width)


def choose_computation(
    size: Size, row: TrainedModel, stage: Stage, machine: Machine, before: int | None = None
) -> Choice:
    """Return the fastest way that fits; what the stage says itself, instead of ``auto``, is kept.

    Args:
        before: tokens of a micro-batch where a run goes on: sums in other parts would differ in their last bits.

    Raises:
        TrainError: nothing fits, or the global batch has fewer samples than there are GPUs.
    """
    if stage.global_batch < machine.processes:
        raise TrainError(
            f"{machine.processes} GPUs for a global batch of {stage.global_batch} samples",
            "use as many GPUs as samples, or fewer",
        )
    if not machine.memory:
        return _on_cpu(stage, before)
    for zero_stage, checkpointing, offload in _allowed(stage):
        static = static_bytes(size, machine.processes, zero_stage, offload)
        reserve = RESERVE_ZERO3 if zero_stage == 3 else RESERVE
        free = machine.memory * (1 - reserve) - static - HEAD_BYTES * size.vocabulary
        tokens = int(free / token_bytes(size, checkpointing)) // 256 * 256
        if tokens < (before or max(FEWEST_TOKENS, row.max_length)):
            continue
        tokens = before or min(tokens, MOST_TOKENS)
        held = size.trained * machine.per_node / machine.processes if offload else 0.0
        cpu = OFFLOADED_BYTES * held
        reason = _reason(stage, machine, zero_stage, checkpointing, tokens, static)
        reason += _offloading(machine, held) if offload else ""
        return Choice(zero_stage, checkpointing, offload, tokens, static, cpu, reason)
    gpus = f"{machine.processes} GPUs of {machine.memory / GIB:.0f} GiB"
    if before:
        raise TrainError(
            f"micro-batches of {before} tokens, as this training began with, do not fit on {gpus}",
            "go on on GPUs with as much memory as before (`constraint` of the rule's resources names them: "
            "docs/cluster.md), or delete its checkpoints to train from the beginning",
        )
    raise TrainError(
        f"{size.parameters / 1e9:.1f} G parameters, {size.trained / 1e9:.1f} G of them trained, do not fit on "
        f"{gpus} with what the stage allows",
        "use more or larger GPUs, set zero_stage, gradient_checkpointing and offload_optimizer to auto, or use LoRA",
    )


def _allowed(stage: Stage) -> list[tuple[int, bool, bool]]:
    """Return the ways that agree with what the stage says; ZeRO-0 is never chosen, but may be asked for."""
    given = (stage.zero_stage, stage.gradient_checkpointing, stage.offload_optimizer)
    if "auto" not in given:
        return [(int(given[0]), bool(given[1]), bool(given[2]))]
    order = [(0, *way[1:]) for way in ORDER if way[0] == 1] if given[0] == 0 else list(ORDER)
    if given[2] is True and given[1] is False:
        order = [(way[0], False, True) for way in ORDER if way[2]]
    return [way for way in order if all(asked in ("auto", own) for asked, own in zip(given, way, strict=True))]


def _on_cpu(stage: Stage, before: int | None) -> Choice:
    zero_stage = 2 if stage.zero_stage == "auto" else stage.zero_stage
    checkpointing = stage.gradient_checkpointing is True
    offload = stage.offload_optimizer is True
    return Choice(zero_stage, checkpointing, offload, before or MOST_TOKENS, 0.0, 0.0, f"on CPUs: ZeRO-{zero_stage}")


def _reason(
    stage: Stage,
    machine: Machine,
    zero_stage: int,
    checkpointing: bool,
    tokens: int,
    static: float,
) -> str:
    share = math.ceil(stage.global_batch / machine.processes)
    where = f" on {machine.nodes} machines" if machine.nodes > 1 else ""
    parts = [
        f"{machine.processes} x {machine.memory / GIB:.0f} GiB{where}: global batch {stage.global_batch}, "
        f"{share} samples a GPU, in micro-batches of at most {tokens} tokens",
        f"ZeRO-{zero_stage} takes {static / GIB:.0f} GiB a GPU",
    ]
    if zero_stage == 1 and machine.processes > 1:
        parts.append("gradients cross between GPUs once a step")
    if zero_stage == 3:
        parts.append("less partitioning does not fit")
    parts.append("activations are computed again, as they do not fit" if checkpointing else "nothing is computed again")
    return "; ".join(parts)


def _offloading(machine: Machine, held: float) -> str:
    """Say what it costs that the CPUs of one machine update ``held`` elements in each step."""
    cpus = machine.cpus or CPUS_A_GPU * machine.per_node
    seconds = OFFLOADED_SECONDS * held / cpus
    return (
        f"; AdamW's state lies in the CPU's memory: {OFFLOADED_BYTES * held / GIB:.0f} GiB a machine, "
        f"and its update adds about {seconds:.1f} s to each step on {cpus} CPUs"
    )
