"""Losses of region embeddings: MAFT's mask-aware loss, balanced cross-entropy, and distillation.

Shapes: R references (the mask of one class in one image), Q regions of an image, K classes, N regions with a class, D joint
width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

RANGE_EPS = 1e-8  # MAFT's


def min_max(values: Tensor, real: Tensor) -> Tensor:
    """Stretch each row to [0, 1]: its smallest value becomes 0 and its largest 1 (MAFT's normalization of the IoU).

    Args:
        values: float `[R, Q]`.
        real: which regions count, bool `[R, Q]`; the others are the padding of a batch.

    Returns:
        float `[R, Q]` in [0, 1], 0 where `real` is False. A row of equal values becomes 0: it ranks nothing.
    """
    if not values.shape[1]:
        return values  # no image of the batch has a region
    smallest = values.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    largest = values.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    return ((values - smallest) / (largest - smallest + RANGE_EPS)).where(real, torch.zeros_like(values))


def mask_aware_loss(probabilities: Tensor, overlaps: Tensor, real: Tensor) -> Tensor:
    """MAFT's mask-aware loss: how probable a class is for each region has to follow how well the region covers the class.

    Args:
        probabilities: the probability of the reference's class for each region of its image, float `[R, Q]` in [0, 1].
        overlaps: the IoU of each region with the reference, float `[R, Q]` in [0, 1]; no gradient flows into it.
        real: which regions count, bool `[R, Q]`.

    Returns:
        the mean of SmoothL1 (beta 1) to the min-max-normalized overlaps, a scalar; 0 if nothing counts.
    """
    target = min_max(overlaps.detach(), real)
    losses = F.smooth_l1_loss(probabilities, target, reduction="none").where(real, torch.zeros_like(target))
    return losses.sum() / real.sum().clamp(min=1)


def self_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """MAFT's second loss: of whole images, the class probabilities stay those of the frozen CLIP.

    Args:
        student: float `[B, K]` in [0, 1].
        teacher: the same of the frozen CLIP; no gradient flows into it.

    Returns:
        the mean SmoothL1 (beta 1), a scalar.
    """
    return F.smooth_l1_loss(student, teacher.detach())


def balanced_weights(images: Tensor, labels: Tensor) -> Tensor:
    """Weigh regions so that images count the same, classes the same within an image, and regions the same within a class.

    Args:
        images: the image of each region, int64 `[N]`.
        labels: the class of each region, int64 `[N]`.

    Returns:
        float `[N]` with sum 1: 1 / (images x classes of the image x regions of the class in the image); MaskCLIP++
        (arXiv 2412.11464), its weights of the cross-entropy.
    """
    image = torch.unique(images, return_inverse=True)[1]
    pairs = torch.stack([image, labels], dim=1)
    same = (pairs[:, None] == pairs).all(2)  # regions of one image and class
    regions_of_class = same.sum(1)
    first = ~same.tril(-1).any(1)  # one region of each class in an image
    classes_of_image = torch.bincount(image[first])
    return 1 / (len(classes_of_image) * classes_of_image[image] * regions_of_class).float()


def balanced_cross_entropy(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """MaskCLIP++'s loss: the cross-entropy over all classes, weighed by `balanced_weights`.

    Args:
        logits: float `[N, K]`, at least one row.
        images: the image of each region, int64 `[N]`.
        labels: the class of each region, int64 `[N]`.

    Returns:
        a scalar.
    """
    return (balanced_weights(images, labels) * F.cross_entropy(logits, labels, reduction="none")).sum()


def crop_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """How far region embeddings are from a teacher's embeddings of the regions' crops.

    Args:
        student: unit vectors `[N, D]`.
        teacher: unit vectors `[N, D]`; no gradient flows into them.

    Returns:
        the mean of 1 - cosine, a scalar in [0, 2]; 0 if there are no regions.
    """
    return (1 - (student * teacher.detach()).sum(1)).sum() / max(1, len(student))


def class_distillation(student: Tensor, teacher: Tensor, texts: Tensor, scale: float) -> Tensor:
    """How far the class probabilities of regions are from those that a teacher gives to the regions' crops.

    Args:
        student: unit vectors `[N, D]`.
        teacher: unit vectors `[N, D]`; no gradient flows into them.
        texts: unit vectors `[K, D]` of all classes.
        scale: what cosines are multiplied by before the softmax.

    Returns:
        the mean KL divergence of the student from the teacher, a scalar of at least 0; 0 if there are no regions.
    """
    target = (scale * teacher.detach() @ texts.T).log_softmax(1)
    predicted = (scale * student @ texts.T).log_softmax(1)
    return F.kl_div(predicted, target, reduction="sum", log_target=True) / max(1, len(student))
