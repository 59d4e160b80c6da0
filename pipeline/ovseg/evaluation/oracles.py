"""The two oracles of the paper (section 1 and A.1): ground-truth masks classified by CLIP, and proposals classified by the
ground truth.

Shapes: Q proposals, K classes, H, W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.core import masks


def gt_masks(labels: NDArray[np.integer], ignore: int) -> tuple[list[int], list[bytes]]:
    """Return the classes of a label map `[H, W]`, ascending, and the mask of each as RLE; `ignore` is no class."""
    classes = [int(value) for value in np.unique(labels) if value != ignore]
    return classes, [masks.encode(labels == value) for value in classes]


def relabel(
    labels: NDArray[np.integer], classes: Sequence[int], pred_classes: Sequence[int], fill: int
) -> NDArray[np.uint16]:
    """Return a label map `[H, W]` with each class replaced by its predicted class, and `fill` for every other label."""
    table: NDArray[np.uint16] = np.full(int(labels.max(initial=0)) + 1, fill, np.uint16)
    table[list(classes)] = pred_classes
    return np.asarray(table[labels])


def oracle_scores(rles: Sequence[bytes | None], labels: NDArray[np.integer], ignore: int, num_classes: int) -> Tensor:
    """Give each proposal the class whose ground-truth mask it overlaps most, by intersection over union.

    Args:
        rles: the masks of Q proposals; None for an empty one.
        labels: `[H, W]`, the ground truth.
        ignore: the label of pixels that are not scored; they do not count as part of a proposal either.
        num_classes: K.

    Returns:
        one-hot scores, float64 `[Q, K]`; a row of zeros for a proposal that overlaps no class.
    """
    height, width = labels.shape
    scored = labels != ignore
    gt_area = np.bincount(labels[scored], minlength=num_classes)
    scores = torch.zeros(len(rles), num_classes, dtype=torch.float64)
    for i, rle in enumerate(rles):
        if rle is None:
            continue
        intersection = np.bincount(labels[masks.decode(rle, height, width) & scored], minlength=num_classes)
        iou = intersection / np.maximum(gt_area + intersection.sum() - intersection, 1)
        if intersection.any():
            scores[i, int(iou.argmax())] = 1.0
    return scores
