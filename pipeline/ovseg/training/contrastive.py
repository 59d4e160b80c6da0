"""One step of contrastive training over the global batch, on any number of processes and micro-batches.

The loss needs the embeddings of all G pairs, but not their graphs. The embeddings are computed first, then the loss and its
gradient by embedding, and each micro-batch then takes its part of that gradient back through the tower (GradCache, arXiv
2101.06983). Several micro-batches run forward twice; a single one keeps its graph and runs once.

Shapes: n pairs of this rank, G pairs of all ranks, T templates, K nouns, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovseg.core.options import Loss, Precision
from ovseg.training.distributed import World, accumulate, gather
from ovseg.training.loader import Batch
from ovseg.training.losses import contrastive
from ovseg.training.precision import autocast_context
from ovseg.training.texts import pick_texts


def contrastive_step(
    tower: nn.Module,
    log_scale: Tensor,
    micro_batches: Sequence[Batch],
    text_embeddings: Tensor,
    world: World,
    *,
    loss: Loss,
    precision: Precision,
    seed: int,
    step: int,
) -> Tensor:
    """Add the gradients of one step to the tower's parameters and to the logit scale.

    Args:
        tower: a `Tower`, wrapped by `wrap_for_ranks`.
        log_scale: the logarithm of the logit scale, a scalar.
        micro_batches: the n pairs of this rank; n is the same on all ranks.
        text_embeddings: text embeddings `[T, K, D]`, see `embed_nouns`.
        world: the process group.
        loss: the kind of loss, see `contrastive`.
        precision: the arithmetic of the tower.
        seed: the seed of the choice of templates.
        step: the number of the step, from 0; it changes the choice of templates.

    Returns:
        the loss over the global batch, a detached scalar.
    """

    def encode(batch: Batch) -> Tensor:
        with autocast_context(world.device, precision):
            embeddings: Tensor = tower(batch["crop"].to(world.device), batch["mask"].to(world.device))
        return embeddings

    single = len(micro_batches) == 1
    with torch.set_grad_enabled(single):
        local = torch.cat([encode(batch) for batch in micro_batches])
    embeddings = gather(local, world).requires_grad_()
    noun_ids = gather(torch.cat([batch["noun_id"] for batch in micro_batches]).to(world.device), world)
    value = contrastive(embeddings, pick_texts(text_embeddings, noun_ids, seed, step), noun_ids, log_scale.exp(), loss)
    torch.autograd.backward(value)
    assert embeddings.grad is not None
    first = world.rank * len(local)
    # times the number of ranks, because DistributedDataParallel takes the mean of their gradients
    local_gradient = embeddings.grad[first : first + len(local)] * world.size
    with autocast_context(world.device, precision):
        if single:
            torch.autograd.backward(local, local_gradient)
        else:
            gradients = torch.split(local_gradient, [len(batch["key"]) for batch in micro_batches])
            for batch, gradient in accumulate(tower, list(zip(micro_batches, gradients, strict=True))):
                torch.autograd.backward(encode(batch), gradient)
    return value.detach()
