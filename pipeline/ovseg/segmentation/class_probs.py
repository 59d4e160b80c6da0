"""From similarities to scores: CLIP's word, the proposal network's word, and ensembles of both (paper 3.1, A.3).

Shapes: Q proposals, K classes. Of a proposal, p is what the network says, q what CLIP says.
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 100.0  # of cosines


def by_network(similarity: Tensor, no_object: Tensor) -> Tensor:
    """p: softmax over the K classes and "no object", of which the K stay as they are (they need not add up to 1).

    Args:
        similarity: cosines `[Q, K]`.
        no_object: cosines with the learned "no object" `[Q]`.

    Returns:
        float64 `[Q, K]` in [0, 1].
    """
    return (TEMPERATURE * torch.cat([similarity, no_object[:, None].double()], dim=1)).softmax(1)[:, :-1]


def by_clip(similarity: Tensor) -> Tensor:
    """q: softmax over the K classes, float64 `[Q, K]`, of cosines `[Q, K]`."""
    return (TEMPERATURE * similarity).softmax(1)


def ensemble_scores(p: Tensor, q: Tensor, valid: Tensor, weight: float | Tensor, seen: Tensor | None = None) -> Tensor:
    """p^(1 - w) q^w: the network alone for w = 0, CLIP alone for w = 1.

    A proposal without a pixel above the mask threshold has nothing that CLIP could see: the network's word stands.

    Args:
        p, q: `[Q, K]`; rows of q that are not valid are not looked at.
        valid: bool `[Q]`.
        weight: w, weight of CLIP in [0, 1]; one for all or `[K]`, as SimBaseline's and ZegFormer's for seen and unseen.
        seen: bool `[K]`; CLIP's word on these classes is replaced by its mean over them, so that it ranks the unseen
            alone (ZegFormer). None leaves it.

    Returns:
        `[Q, K]` in [0, 1].
    """
    if seen is not None and seen.any():
        q = torch.where(seen, q[:, seen].mean(1, keepdim=True), q)
    mixed = p.pow(1 - weight) * q.pow(weight)
    return torch.where(valid[:, None], mixed, p)


def class_weights(weight: float, weight_seen: float | None, seen: Tensor) -> Tensor:
    """w of each class `[K]`: `weight_seen` for classes seen in training, where given, and `weight` for the rest."""
    rest = torch.full(seen.shape, weight, dtype=torch.float64)
    return rest if weight_seen is None else torch.where(seen, torch.tensor(weight_seen, dtype=torch.float64), rest)
