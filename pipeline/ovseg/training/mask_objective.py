"""The losses of the proposal network: MaskFormer's (focal, dice, class), averaged over the masks of the global batch.

The modules and the single losses are those of `transformers`; what is divided by is ours, so that the loss does not depend on
how a batch is split into ranks and micro-batches.

Shapes: B scenes of a batch, S side of a scene, N masks of a scene, Q queries, K classes, L decoder layers, h, w grid of the
masks, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.core import crops
from ovseg.core.options import Precision
from ovseg.proposals.network import IMAGENET_MEAN, IMAGENET_STD
from ovseg.training.annotated_dataset import Scene
from ovseg.training.distributed import World, accumulate, all_reduce_sum
from ovseg.training.precision import autocast_context


class MaskObjective(nn.Module):
    """A proposal network with its losses as one module, so that it can be wrapped for several processes.

    Args:
        model: a network of `build_network`, its text embeddings set.
        precision: the arithmetic of the network; losses are computed in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, precision: Precision) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, scenes: list[Scene], num_masks: float, class_weight: float) -> Tensor:
        """Compute the loss of some scenes, with deep supervision: the sum of the losses of all decoder layers.

        Args:
            scenes: B scenes.
            num_masks: the divisor of the mask losses: the number of masks in B scenes, on average over all ranks.
            class_weight: the divisor of the class losses: `class_weight` of B scenes, on average over all ranks.

        Returns:
            a scalar.
        """
        device = self.mean.device
        images = crops.normalize(torch.stack([scene["image"] for scene in scenes]).to(device), self.mean, self.std)
        masks = [scene["masks"].to(device, torch.float32) for scene in scenes]
        classes = [scene["classes"].to(device) for scene in scenes]
        criterion, weights = self.model.criterion, self.model.weight_dict
        class_factor = self.class_weight(scenes) / class_weight  # the criterion divides by the weight of these scenes
        losses = []
        for mask_logits, class_logits in self._predict(images):
            matches = criterion.matcher(mask_logits, class_logits, masks, classes)
            by_mask = criterion.loss_masks(mask_logits, masks, matches, max(num_masks, 1.0))
            by_class = criterion.loss_labels(class_logits, classes, matches)
            losses += [weights[name] * loss for name, loss in by_mask.items()]
            losses += [weights[name] * loss * class_factor for name, loss in by_class.items()]
        return torch.stack(losses).sum()

    def _predict(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The logits of the masks `[B, Q, h, w]` and of the classes `[B, Q, K + 1]` by layer, the last layer first.

        Args:
            images: normalized, float32 `[B, 3, S, S]`.
        """
        with autocast_context(images.device, self.precision):
            outputs = self.model.model(images, output_hidden_states=True)
        # transformers includes the queries before the first layer, and applies the decoder's norm to the last layer alone
        _, *between, last = (states.float() for states in outputs.transformer_decoder_hidden_states)
        norm = self.model.model.transformer_module.decoder.layernorm
        queries = torch.stack([*map(norm, between), last])  # [L, B, Q, C]
        class_logits = self.model.class_predictor(queries)
        pixels = outputs.pixel_decoder_last_hidden_state.float()  # [B, C, h, w]
        mask_logits = torch.einsum("lbqc, bchw -> lbqhw", self.model.mask_embedder(queries), pixels)
        yield mask_logits[-1], class_logits[-1]
        yield from zip(mask_logits[:-1], class_logits[:-1], strict=True)

    def class_weight(self, scenes: list[Scene]) -> float:
        """The weights of all queries in the class loss: 1 for one that is matched with a mask, less for "no object"."""
        config = self.model.config
        queries = config.decoder_config.num_queries
        matched = [min(len(scene["classes"]), queries) for scene in scenes]
        return float(sum(number + config.no_object_weight * (queries - number) for number in matched))


def mask_step(
    objective: MaskObjective, module: nn.Module, scenes: list[Scene], micro_size: int, world: World
) -> Tensor:
    """Add the gradients of one step to the network's parameters.

    Args:
        objective: the network with its losses.
        module: the same, wrapped by `wrap_for_ranks`.
        scenes: this rank's part of the global batch.
        micro_size: the number of scenes in memory at a time.
        world: the process group.

    Returns:
        the loss over the global batch, a detached scalar.
    """
    micro_batches = [scenes[i : i + micro_size] for i in range(0, len(scenes), micro_size)]
    divisors = world.size * len(micro_batches)
    num_masks = all_reduce_sum(sum(len(scene["classes"]) for scene in scenes), world) / divisors
    class_weight = all_reduce_sum(objective.class_weight(scenes), world) / divisors
    local = 0.0
    for micro_batch in accumulate(module, micro_batches):
        loss: Tensor = module(micro_batch, num_masks, class_weight) / len(micro_batches)
        with autocast_context(world.device, objective.precision):
            torch.autograd.backward(loss)
        local += float(loss.detach())
    return torch.tensor(all_reduce_sum(local, world) / world.size)
