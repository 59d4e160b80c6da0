"""Training in several processes: the ranks that torchrun starts, or this process alone.

Shapes: n rows of this rank, G = n x ranks rows in all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg.core.errors import OvsegError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The place of this process among all processes of a training.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        device: the torch device of this process.
    """

    rank: int
    size: int
    device: torch.device


@contextmanager
def distributed_context(devices: Sequence[str]) -> Iterator[World]:
    """Join the process group where torchrun has started several processes.

    Args:
        devices: the torch devices of this machine; each process takes the one of its local rank.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device(devices[int(os.environ.get("LOCAL_RANK", "0")) % len(devices)])
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()


def gather(rows: Tensor, world: World) -> Tensor:
    """Gather the rows of all ranks, without gradient.

    Args:
        rows: `[n, ...]`; n is the same on all ranks.
        world: the process group.

    Returns:
        `[G, ...]` in the order of the ranks.
    """
    if world.size == 1:
        return rows.detach()
    gathered = [torch.empty_like(rows) for _ in range(world.size)]
    dist.all_gather(gathered, rows.detach().contiguous())
    return torch.cat(gathered)


def any_rank(flag: bool, world: World) -> bool:
    """Whether the flag is set on any rank."""
    if world.size == 1:
        return flag
    flags = torch.tensor(int(flag), device=world.device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def all_reduce_sum(number: float, world: World) -> float:
    """The sum of a number over all ranks."""
    if world.size == 1:
        return number
    numbers = torch.tensor(float(number), device=world.device)
    dist.all_reduce(numbers)
    return float(numbers.item())


def average_gradient(parameter: Tensor, world: World) -> None:
    """Average the gradient of a parameter that is no part of a wrapped module; a rank without one counts as zeros."""
    if world.size > 1 and parameter.requires_grad:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient)
        parameter.grad = gradient / world.size


def barrier(world: World) -> None:
    """Wait until all ranks are here."""
    if world.size > 1:
        dist.barrier()


def split_batch(name: str, batch_size: int, world: World, micro_batch: int | None) -> tuple[int, int]:
    """Divide the global batch.

    Args:
        name: the name of the training, for messages.
        batch_size: the number of pairs over all ranks.
        world: the process group.
        micro_batch: the number of pairs in memory at a time; None for all of a rank's.

    Returns:
        the number of pairs of each rank, and of each of its micro-batches.

    Raises:
        OvsegError: the batch cannot be divided evenly.
    """
    local_size, rest = divmod(batch_size, world.size)
    if rest:
        raise OvsegError(f"{name}.batch_size={batch_size} cannot be divided among {world.size} processes")
    micro_size = min(micro_batch or local_size, local_size)
    if local_size % micro_size:
        raise OvsegError(f"OVSEG_MICRO_BATCH={micro_size} does not divide the {local_size} pairs of each process")
    return local_size, micro_size


def loader_workers(workers: int) -> int:
    """Return the number of loader processes of this rank, of `workers` of its machine: at least one, unless there are none.

    The number of ranks of this machine comes from `LOCAL_WORLD_SIZE`, as torchrun sets it.
    """
    return max(min(1, workers), workers // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def batch_positions(batch_size: int, rank: int, ranks: int, begin: int) -> Iterator[list[int]]:
    """Iterate over the positions of one rank's samples in the endless order of the samples of all ranks, batch by batch.

    Args:
        batch_size: the number of samples of all ranks together; a multiple of `ranks`.
        rank: the number of this rank.
        ranks: the number of ranks.
        begin: the number of the first batch; an earlier run has used those before.
    """
    local_size = batch_size // ranks
    for batch in count(begin):
        first = batch * batch_size + rank * local_size
        yield list(range(first, first + local_size))


def wrap_for_ranks(module: nn.Module, world: World) -> nn.Module:
    """Wrap a module in DistributedDataParallel where there are several ranks."""
    return DistributedDataParallel(module) if world.size > 1 else module


def accumulate(module: nn.Module, micro_batches: Sequence[T]) -> Iterator[T]:
    """Iterate over the micro-batches of one step; the ranks exchange gradients only in the backward pass of the last one.

    Args:
        module: the module whose gradients are accumulated, see `wrap_for_ranks`.
        micro_batches: the parts of this rank's batch.
    """
    for number, micro_batch in enumerate(micro_batches, start=1):
        delayed = isinstance(module, DistributedDataParallel) and number < len(micro_batches)
        with module.no_sync() if delayed else nullcontext():  # type: ignore[operator]
            yield micro_batch
