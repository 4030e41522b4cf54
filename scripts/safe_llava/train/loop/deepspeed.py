"""DeepSpeed under the training loop: start the processes' group, take a step, gather the weights."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from safe_llava.config.train import Stage, TrainedModel
from safe_llava.core.errors import TrainError
from safe_llava.train.loop.state import TrainingState
from safe_llava.train.model.build import parameter_groups
from safe_llava.train.model.loss import LossModel

RENDEZVOUS = "SAFE_LLAVA_RENDEZVOUS"  # a file the processes meet at, set by the launcher
ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
LARGEST_BUCKET = 200_000_000  # elements; 800 MB of fp32


@dataclass(frozen=True)
class Processes:
    """This process among the others: its rank, their number, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def join_processes(accelerator: str, threads: int, exchange_minutes: float = 30) -> Processes:
    """Join the group that the launcher (or torchrun) describes in the environment; alone without one.

    Args:
        accelerator: "gpu" or "cpu".
        threads: of torch on the CPU; the number changes the order of sums, so it is not left to the machine.
        exchange_minutes: after which ``Watch`` says which process is missing.

    Raises:
        TrainError: GPUs are asked for and there are none, or fewer than processes.
    """
    rank, world_size, local_rank = (int(os.environ.get(name, value)) for name, value in ENVIRONMENT.items())
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    gpu = accelerator == "gpu"
    if gpu and local_rank >= torch.cuda.device_count():
        raise TrainError(
            f"process {local_rank} of this machine has no GPU: torch sees {torch.cuda.device_count()}",
            "start as many processes as there are GPUs, or set accelerator to cpu in the train.models row",
        )
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Its logger prints the whole configuration, and a line a step, at INFO.
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    torch.set_num_threads(threads)
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        _meet("nccl" if gpu else "gloo", rank, world_size, exchange_minutes)
    cpu_group()
    return Processes(rank, world_size, device)


def _meet(backend: str, rank: int, world_size: int, exchange_minutes: float) -> None:
    meeting: dict[str, Any] = {"store": torch.distributed.HashStore()} if world_size == 1 else {}
    if file := os.environ.get(RENDEZVOUS):
        meeting = {"store": torch.distributed.FileStore(file, world_size)}
    # Later than the watch, which can say who is missing.
    timeout = timedelta(minutes=2 * exchange_minutes)
    torch.distributed.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout, **meeting)


def cpu_threads() -> int:
    """Return this process's share of the CPUs that the job has on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@functools.cache
def cpu_group() -> Any:
    """Return a group of all processes in which objects travel between CPUs, beside what GPUs exchange."""
    return torch.distributed.new_group(backend="gloo")


def deepspeed_config(
    row: TrainedModel, stage: Stage, micro_batch: int, micro_batches: int, size: int, gpu: bool = False
) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a stage.

    Args:
        micro_batch: samples of one forward pass.
        micro_batches: forward passes of one process in one optimizer step, at most; which of them is the last is
            said at each.
        size: elements that are trained: no bucket is larger, as each is allocated whole.
        gpu: reduce gradients beside the backward pass.
    """
    bucket = min(LARGEST_BUCKET, max(size, 1))
    zero: dict[str, Any] = {"stage": stage.zero_stage, "contiguous_gradients": True, "overlap_comm": gpu}
    zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage.offload_optimizer:
        zero |= {"offload_optimizer": {"device": "cpu", "pin_memory": gpu}}
    if stage.zero_stage == 3:
        zero |= {"stage3_prefetch_bucket_size": bucket, "stage3_param_persistence_threshold": 100_000}
        zero |= {"stage3_max_live_parameters": 1_000_000_000, "stage3_max_reuse_distance": 1_000_000_000}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": stage.max_grad_norm,
        "bf16": {"enabled": row.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # torch's own AdamW also where the states lie on the CPU: it is fused too, and DeepSpeed's would be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
    }


class TrainingEngine:
    """A model under DeepSpeed that takes one optimizer step at a time.

    Args:
        model: a ``LossModel`` with its trainable parameters marked.
        micro_batches: forward passes of this process in a step, at most; in a step equally many for all processes.

    Raises:
        TrainError: bf16 without ZeRO, which would keep no fp32 weights.
    """

    def __init__(
        self,
        model: LossModel,
        row: TrainedModel,
        stage: Stage,
        micro_batch: int,
        micro_batches: int,
        processes: Processes,
    ) -> None:
        if row.precision == "bf16" and stage.zero_stage == 0:
            raise TrainError("zero_stage 0 keeps no fp32 master weights in bf16", "set zero_stage to 1, 2 or 3")
        import deepspeed

        # DeepSpeed would try a compiler at every start, and build kernels where it finds one.
        deepspeed.ops.__compatible_ops__ = {}
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # DeepSpeed calls torch functions that torch has renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
        groups = parameter_groups(model, row, stage)
        size = sum(value.numel() for group in groups for value in group["params"])
        gpu = processes.device.type == "cuda"
        # Fused, the CPU's AdamW runs on all threads that there are; on CPUs alone their number changes sums.
        optimizer = torch.optim.AdamW(groups, betas=stage.adam_betas, eps=stage.adam_epsilon, fused=gpu or None)
        if gpu and stage.offload_optimizer:
            torch.set_num_threads(cpu_threads())
        exact = _fp32_buffers(model)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(row, stage, micro_batch, micro_batches, size, gpu),
        )
        for (module, name), value in exact.items():
            setattr(module, name, value.to(processes.device))
        self.model, self.zero_stage, self.processes = model, int(stage.zero_stage), processes
        self._groups = optimizer.param_groups
        self.state = TrainingState(model, self.optimizer, self.zero_stage, processes.rank, processes.world_size)

    def forward_backward(self, batch: dict[str, torch.Tensor], last: bool) -> torch.Tensor:
        """Add one micro-batch's gradient; return each sample's part of the step's loss, ``[B]``.

        Args:
            batch: arguments of the model; single numbers stay on the CPU.
            last: whether ``update`` follows.
        """
        device = self.processes.device
        batch = {key: value.to(device, non_blocking=True) if value.ndim else value for key, value in batch.items()}
        self.engine.set_gradient_accumulation_boundary(last)
        loss, parts_B = self.engine(**batch)
        # DeepSpeed takes the mean over processes; the weights already make it a sum.
        self.engine.backward(loss * self.processes.world_size, scale_wrt_gas=False)
        if not last:
            self.engine.step()  # counts the micro-batch; the weights stay
        return parts_B

    def update(self, factor: float) -> float:
        """Take the optimizer step at ``factor`` of the peak learning rates; return the gradient's norm."""
        for group in self._groups:
            group["lr"] = group["peak"] * factor
        norm = self._plain_norm() if self.zero_stage == 0 else None
        self.engine.step()
        return float(self.engine.get_global_grad_norm() if norm is None else norm)

    def _plain_norm(self) -> torch.Tensor:
        """Norm of the reduced gradients; without ZeRO, DeepSpeed clips to it but does not tell it."""
        gradients = [value.grad for _, value in self._trained() if value.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def learning_rate(self, factor: float) -> float:
        """Return the learning rate of the first group."""
        return float(self._groups[0]["peak"]) * factor

    def gather(self, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Return whole parameters of the LLaVA model whose names begin with one of ``names``.

        All processes call it; the first gets copies on the CPU, the others nothing.
        """
        import deepspeed

        gathered = {}
        for name, value in self.model.llava.named_parameters():
            if not name.startswith(names):
                continue
            with deepspeed.zero.GatheredParameters([value], enabled=self.zero_stage == 3):
                if self.processes.first:
                    gathered[name] = value.detach().to("cpu", copy=True)
        return gathered

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]


def _fp32_buffers(model: nn.Module) -> dict[tuple[nn.Module, str], torch.Tensor]:
    """Return what DeepSpeed casts to bf16 with the rest and must not: the rotary embedding's frequencies."""
    return {
        (module, name): value.detach().clone()
        for module in model.modules()
        for name, value in module.named_buffers(recurse=False)
        if value.dtype == torch.float32
    }
