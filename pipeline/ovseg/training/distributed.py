"""Several processes as one: torchrun's ranks, or the only process. Shapes: n rows here, G = n x ranks in all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among all: its rank, their number, and its device."""

    rank: int
    size: int
    device: torch.device


@contextmanager
def distributed_context(devices: Sequence[str]) -> Iterator[World]:
    """Join the other ranks where torchrun has started several; each takes its own of this machine's devices."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device(devices[int(os.environ.get("LOCAL_RANK", "0")) % len(devices)])
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(rank, size, place)
    finally:
        dist.destroy_process_group()


def gather(rows: Tensor, world: World) -> Tensor:
    """Rows `[n, ...]` of every rank in the order of ranks: `[G, ...]`, without gradient. All ranks must have n rows."""
    if world.size == 1:
        return rows.detach()
    found = [torch.empty_like(rows) for _ in range(world.size)]
    dist.all_gather(found, rows.detach().contiguous())
    return torch.cat(found)


def any_rank(flag: bool, world: World) -> bool:
    """Whether the flag is set on any rank."""
    if world.size == 1:
        return flag
    told = torch.tensor(int(flag), device=world.device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.item())


def all_reduce_sum(number: float, world: World) -> float:
    """The sum of a number over all ranks."""
    if world.size == 1:
        return number
    told = torch.tensor(float(number), device=world.device)
    dist.all_reduce(told)
    return float(told.item())


def barrier(world: World) -> None:
    """Until every rank is here."""
    if world.size > 1:
        dist.barrier()
