"""Class probabilities of proposals by the proposal network and by CLIP, and their ensemble (paper 3.1, A.3).

Shapes: Q proposals, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.core.options import Invalid
from ovseg.core.vocabulary import LOGIT_SCALE


@dataclass(frozen=True)
class ClassProbs:
    """Probabilities of K classes for Q proposals.

    Attributes:
        network: float64 `[Q, K]`, by the proposal network; a row adds up to less than 1, the rest is "no object".
        clip: float64 `[Q, K]`, by CLIP; a row adds up to 1 (less with "no object"), or is 0 for a proposal that is not valid.
        valid: bool `[Q]`, whether the proposal has a pixel above the mask threshold, so that CLIP can encode it.
    """

    network: Tensor
    clip: Tensor
    valid: Tensor


def network_class_probs(similarity: Tensor, no_object: Tensor) -> Tensor:
    """Softmax over the K classes and "no object", of which the K classes are kept without normalizing them again.

    Args:
        similarity: `[Q, K]`, cosine similarities of proposals and classes.
        no_object: `[Q]`, cosine similarities with the learned embedding of "no object".

    Returns:
        float64 `[Q, K]` in [0, 1].
    """
    return (LOGIT_SCALE * torch.cat([similarity, no_object[:, None].double()], dim=1)).softmax(1)[:, :-1]


def clip_class_probs(similarity: Tensor, no_object: Tensor | None = None) -> Tensor:
    """Softmax over the K classes, float64 `[Q, K]`.

    Args:
        similarity: `[Q, K]`, cosine similarities of CLIP's region embeddings and classes.
        no_object: `[Q]`, the proposal network's cosine similarities with "no object", which then takes part in the softmax and
            is dropped (ZegFormer): a row adds up to less than 1 where the network sees nothing. None for CLIP alone.
    """
    if no_object is not None:
        return network_class_probs(similarity, no_object)
    return (LOGIT_SCALE * similarity).softmax(1)


def ensemble_scores(
    probs: ClassProbs, weight: float | Tensor, seen: Tensor | None = None, invalid: Invalid = "keep"
) -> Tensor:
    """Combine both classifiers: network^(1 - w) * clip^w, the network alone for w = 0 and CLIP alone for w = 1.

    A proposal without a pixel above the mask threshold cannot be encoded by CLIP. The network alone classifies it, and where
    CLIP alone counts (w = 1) its score is 0.

    Args:
        probs: the probabilities of both; rows of `probs.clip` that are not valid are ignored.
        weight: w in [0, 1]; a number for all classes, or `[K]`, as SimBaseline and ZegFormer weight seen and unseen classes.
        seen: bool `[K]`; CLIP's probabilities of these classes are replaced by their mean, so that CLIP only ranks the unseen
            classes (ZegFormer). None replaces nothing.
        invalid: what a proposal without a pixel gets where w < 1: the network's probabilities ("keep"), or network^(1 - w), as
            if CLIP gave each class a probability of 1 ("boost", as in the code of SimBaseline and OVSeg).

    Returns:
        `[Q, K]` in [0, 1].
    """
    clip = probs.clip
    if seen is not None and seen.any():
        clip = torch.where(seen, clip[:, seen].mean(1, keepdim=True), clip)
    combined = probs.network.pow(1 - weight) * clip.pow(weight)
    weights = torch.as_tensor(weight, dtype=torch.float64)
    by_network = probs.network if invalid == "keep" else probs.network.pow(1 - weights)
    by_network = torch.where(weights == 1, 0.0, by_network)
    return torch.where(probs.valid[:, None], combined, by_network)


def class_weights(weight: float, weight_seen: float | None, seen: Tensor) -> Tensor:
    """Return the weight of CLIP for each class.

    Args:
        weight: the weight for classes that were not seen in training.
        weight_seen: the weight for classes that were seen in training; None for `weight`.
        seen: bool `[K]`.

    Returns:
        float64 `[K]`.
    """
    weights = torch.full(seen.shape, weight, dtype=torch.float64)
    return (
        weights if weight_seen is None else torch.where(seen, torch.tensor(weight_seen, dtype=torch.float64), weights)
    )
