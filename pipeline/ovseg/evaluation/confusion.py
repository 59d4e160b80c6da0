"""Confusion counts of segmentation maps, in integers.

Shapes: N images, K classes, H, W pixels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def confusion(
    gt: NDArray[np.unsignedinteger], pred: NDArray[np.integer], num_classes: int, ignore: int
) -> tuple[IntArray, IntArray]:
    """Count the pixels of an image for each pair of ground-truth class and predicted class.

    Label maps consist of regions, so runs of equal pairs are counted instead of pixels: there are hundreds of times fewer of
    them (benchmarks/evaluator.py).

    Args:
        gt: `[H, W]`, the class of each pixel, or `ignore` where nothing is scored.
        pred: `[H, W]`, a class from 0 to K; K stands for "none of the classes".
        num_classes: K.
        ignore: the label of pixels that are not scored.

    Returns:
        confusion_index: int64 `[P]`, gt * (K + 1) + pred of the P pairs that occur, ascending.
        pixels: int64 `[P]`, the number of pixels of each pair.
    """
    starts = _run_starts(gt.ravel(), pred.ravel())
    lengths = np.empty(len(starts))
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = gt.size - starts[-1]
    rows = np.minimum(gt.take(starts), num_classes).astype(
        np.int64
    )  # `ignore` may be 65535: row K holds ignored pixels
    pred_classes, columns = _unique_with_inverse(pred.take(starts))
    counts = np.bincount(rows * len(pred_classes) + columns, lengths, (num_classes + 1) * len(pred_classes))
    pixels = counts.astype(np.int64)
    pixels.reshape(num_classes + 1, -1)[min(ignore, num_classes)] = 0
    pairs = np.flatnonzero(pixels)
    gt_class, column = np.divmod(pairs, len(pred_classes))
    return gt_class * (num_classes + 1) + pred_classes[column], pixels[pairs]


def _run_starts(gt: NDArray[np.integer], pred: NDArray[np.integer]) -> IntArray:
    """The positions at which a run of equal pairs starts, int64, ascending."""
    starts_here = np.empty(gt.size + -gt.size % 8, bool)
    starts_here[0], starts_here[gt.size :] = True, False
    inner = starts_here[1 : gt.size]
    np.not_equal(gt[1:], gt[:-1], out=inner)
    inner |= pred[1:] != pred[:-1]
    # Most groups of eight pixels contain no start. Reading eight flags as one integer and searching only the groups that are
    # not zero is twice as fast as np.flatnonzero(starts_here).
    groups = starts_here.view(np.uint64)
    nonzero = np.flatnonzero(groups != 0)
    within = np.flatnonzero(groups[nonzero].view(bool))
    starts: IntArray = nonzero[within >> 3] * 8 + (within & 7)
    return starts


def _unique_with_inverse(values: NDArray[np.integer]) -> tuple[IntArray, IntArray]:
    """As `np.unique(values, return_inverse=True)`, without sorting: the values are few and small."""
    occurs = np.bincount(values) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1).take(values)


@dataclass(frozen=True)
class ClassTotals:
    """Pixel totals of each image and class, from which both rules of mIoU follow; int64 `[N, K]` each.

    Attributes:
        intersection: pixels of the class that are predicted as the class.
        gt_area: pixels of the class in the ground truth.
        pred_area: scored pixels that are predicted as the class.
    """

    intersection: IntArray
    gt_area: IntArray
    pred_area: IntArray

    def sum(self) -> ClassTotals:
        """Return the totals over all images, `[1, K]` each."""
        return ClassTotals(*(part.sum(0, keepdims=True) for part in (self.intersection, self.gt_area, self.pred_area)))


def class_totals(confusion_index: list[IntArray], pixels: list[IntArray], num_classes: int) -> ClassTotals:
    """Compute the totals of N images.

    Args:
        confusion_index, pixels: what `confusion` returned for each image.
        num_classes: K.
    """
    intersection, gt_area, pred_area = (np.zeros((len(confusion_index), num_classes + 1), np.int64) for _ in range(3))
    for i, (index, counts) in enumerate(zip(confusion_index, pixels, strict=True)):
        gt, pred = np.divmod(index, num_classes + 1)
        np.add.at(gt_area[i], gt, counts)
        np.add.at(pred_area[i], pred, counts)
        np.add.at(intersection[i], gt[gt == pred], counts[gt == pred])
    return ClassTotals(intersection[:, :num_classes], gt_area[:, :num_classes], pred_area[:, :num_classes])
