"""One step of contrastive training whose loss is over the global batch, on any number of processes and micro-batches.

The loss needs the features of all G pairs, but not their graphs. So features come first, the loss and its gradient by
feature next, and each micro-batch then takes its share of that gradient back through the tower (GradCache, arXiv
2101.06983). Several micro-batches are run forward twice; a single one keeps its graph and is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg.training.distributed import World, gather
from ovseg.training.loader import Batch
from ovseg.training.losses import Loss, contrastive
from ovseg.training.texts import pick
from ovseg.training.tower import autocast_context


def contrastive_step(
    tower: nn.Module,
    log_scale: Tensor,
    batches: Sequence[Batch],
    bank: Tensor,
    world: World,
    *,
    loss: Loss,
    precision: Literal["fp32", "bf16"],
    seed: int,
    step: int,
) -> Tensor:
    """Add the gradients of one step to the tower's parameters and to the logit scale.

    Args:
        tower: a `Tower`, in DistributedDataParallel where there are several ranks.
        log_scale: logarithm of the logit scale, a scalar.
        batches: this rank's micro-batches; all ranks have as many pairs.
        bank: text features `[T, K, D]`, see `text_bank`.
        world: the ranks.
        loss: see `contrastive`.
        precision: of the tower.
        seed, step: of the choice of templates.

    Returns:
        the loss over the global batch, a detached scalar.
    """

    def encode(batch: Batch) -> Tensor:
        with autocast_context(world.device, precision):
            found: Tensor = tower(batch["crop"].to(world.device), batch["mask"].to(world.device))
        return found

    single = len(batches) == 1
    with torch.set_grad_enabled(single):
        mine = torch.cat([encode(batch) for batch in batches])
    every = gather(mine, world).requires_grad_()
    noun_ids = gather(torch.cat([batch["noun_id"] for batch in batches]).to(world.device), world)
    value = contrastive(every, pick(bank, noun_ids, seed, step), noun_ids, log_scale.exp(), loss)
    torch.autograd.backward(value)
    assert every.grad is not None
    first = world.rank * len(mine)
    gradient = every.grad[first : first + len(mine)] * world.size  # DistributedDataParallel takes the mean over ranks
    with autocast_context(world.device, precision):
        if single:
            torch.autograd.backward(mine, gradient)
        else:
            _backward_in_parts(tower, batches, gradient, encode)
    return value.detach()


def _backward_in_parts(
    tower: nn.Module, batches: Sequence[Batch], gradient: Tensor, encode: Callable[[Batch], Tensor]
) -> None:
    shares = torch.split(gradient, [len(batch["key"]) for batch in batches])
    for i, (batch, share) in enumerate(zip(batches, shares, strict=True), start=1):
        alone = isinstance(tower, DistributedDataParallel) and i < len(batches)  # ranks meet once, after the last
        with tower.no_sync() if alone else nullcontext():  # type: ignore[operator]
            torch.autograd.backward(encode(batch), share)
