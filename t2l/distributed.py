"""More than one process: who am I among them, and the few things processes say to one another.

`torchrun --nproc-per-node N -m t2l train ...` starts N processes, which find each other through the
environment variables torchrun sets. Alone, everything here is a no-op, so the rooms that use it need
no second path.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class World:
    """The processes of one command; rank 0 is the one that writes."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int, what: str) -> slice:
        """This process's equal share of `count` things.

        Raises ValueError if they do not divide evenly.
        """
        if count % self.size:
            raise ValueError(f"{what}={count} does not divide among {self.size} processes: choose a multiple")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, thing: Any) -> list[Any]:
        """What every process has, in order of rank, on every process."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing)
        return found

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each value over processes."""
        if self.size == 1:
            return values
        each = self.gather(values)
        return {k: sum(v[k] for v in each) / self.size for k in values}

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """The module itself or, among several processes, its DistributedDataParallel wrapper."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        return nn.parallel.DistributedDataParallel(
            module, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )


def unwrap(module: nn.Module) -> Any:
    """The module inside a data-parallel wrapper, or the module itself."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def launched() -> World:
    """Rank and size from torchrun's environment; (0, 1) without it. Starts nothing."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def local_device(device: str) -> str:
    """The device `auto` or `cuda` means for this process: each local rank has a GPU of its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and launched().size > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


@contextmanager
def world() -> Iterator[World]:
    """Joins the processes of a torchrun for as long as the block lasts.

    NCCL if there are GPUs (objects travel over gloo), gloo alone otherwise.
    """
    found = launched()
    if found.size == 1 or dist.is_initialized():
        yield found
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # The main process may train the multi-task LoRA while the others wait.
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=12))
    try:
        yield found
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module) -> nn.Module:
    """Spreads a frozen model's parameters over the processes, one decoder layer gathered at a time (FSDP).

    Alone it leaves the model as it is.
    """
    if launched().size == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (launched().size,))
    layers = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    for layer in max(layers, key=len, default=[]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def reshard(model: nn.Module) -> None:
    """Gives up what a forward pass without a backward pass has gathered of a sharded model; leaves others as they are."""
    if launched().size == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
