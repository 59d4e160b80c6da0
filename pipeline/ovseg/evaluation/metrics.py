"""Segmentation metrics from integer totals. A value of mIoU always names its rule, because published figures mix two:

miou      mean IoU over the classes with ground truth or prediction; a class that is predicted but not in the ground truth
          counts as 0. The rule of OVSeg, SimBaseline, ZegFormer, MAFT, and of detectron2 until July 2022.
miou_gt   mean IoU over the classes with ground truth. The rule of detectron2 since July 2022, MaskCLIP++ and CAT-Seg.

Shapes: N images, K classes, B bootstrap samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovseg.evaluation.confusion import ClassTotals, IntArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def ious(
    intersection: IntArray | FloatArray, gt_area: IntArray | FloatArray, pred_area: IntArray | FloatArray
) -> FloatArray:
    """Return the intersection over union of each class, `[..., K]`; NaN for a class without ground truth and prediction."""
    union = gt_area + pred_area - intersection
    return np.asarray(np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0))


def segmentation_metrics(totals: ClassTotals, seen: BoolArray | None = None) -> dict[str, float]:
    """Compute the metrics of all images together.

    Args:
        totals: the totals of N images.
        seen: bool `[K]`, which classes were seen in training; None where that is not known.

    Returns:
        values in [0, 1]; a metric without any pixel is left out:

        - "miou", "miou_gt": see the module.
        - "fwiou": IoU weighted by ground-truth pixels.
        - "macc": mean over the classes with ground truth of the fraction of their pixels predicted correctly.
        - "pacc": fraction of all pixels predicted correctly.
        - "miou_seen", "miou_unseen", with `seen`: "miou" of the classes that were seen in training, and of the others.
        - "hiou", with `seen`: harmonic mean of these two.
        - "miou_gt_seen", "miou_gt_unseen", with `seen`: "miou_gt" of the two groups.
    """
    intersection, gt_area, pred_area = (part.sum(0) for part in (totals.intersection, totals.gt_area, totals.pred_area))
    iou = ious(intersection, gt_area, pred_area)
    in_gt = gt_area > 0
    if not in_gt.any():
        return {}
    metrics = {
        "miou": _mean(iou),
        "miou_gt": _mean(iou[in_gt]),
        "fwiou": float((gt_area[in_gt] * iou[in_gt]).sum() / gt_area.sum()),
        "macc": float((intersection[in_gt] / gt_area[in_gt]).mean()),
        "pacc": float(intersection.sum() / gt_area.sum()),
    }
    if seen is not None:
        for name, group in (("miou_seen", seen), ("miou_unseen", ~seen)):
            if np.isfinite(iou[group]).any():
                metrics[name] = _mean(iou[group])
        for name, group in (("miou_gt_seen", seen & in_gt), ("miou_gt_unseen", ~seen & in_gt)):
            if group.any():
                metrics[name] = _mean(iou[group])
        if "miou_seen" in metrics and "miou_unseen" in metrics:
            both = metrics["miou_seen"] + metrics["miou_unseen"]
            metrics["hiou"] = 2 * metrics["miou_seen"] * metrics["miou_unseen"] / both if both else 0.0
    return metrics


def bootstrap_intervals(
    totals: ClassTotals, repeats: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Compute bootstrap intervals of "miou" and "miou_gt": images are drawn with replacement, `repeats` times.

    A class with ground truth in the data set but none in the sample is excluded; otherwise its false positives would score
    IoU 0. Ignored pixels are not part of `pred_area`.

    Args:
        totals: the totals of N images.
        repeats: B.
        seed: the seed of the draws.
        level: the fraction of the samples inside the interval.

    Returns:
        the lower and upper end of each interval; empty where no pixel is scored.
    """
    images = len(totals.gt_area)
    if not totals.gt_area.any():
        return {}
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), repeats).astype(np.float64)
    intersection, gt_area, pred_area = (
        draws @ part for part in (totals.intersection, totals.gt_area, totals.pred_area)
    )
    not_drawn = (totals.gt_area.sum(0) > 0) & (gt_area == 0)
    iou = np.where(not_drawn, np.nan, ious(intersection, gt_area, pred_area))
    samples = {"miou": _row_means(iou), "miou_gt": _row_means(np.where(gt_area > 0, iou, np.nan))}
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: tuple(np.quantile(values[np.isfinite(values)], quantiles).tolist()) for name, values in samples.items()
    }


def accuracies(
    gt: IntArray,
    pred: IntArray,
    classes: int,
    annotated: BoolArray | None = None,
    figure: str = "mask_accuracy",
) -> dict[str, float]:
    """Compute fractions in [0, 1] of the regions whose class is predicted.

    Args:
        gt: the annotated class numbers, int `[N]`.
        pred: the predicted class numbers, int `[N]`.
        classes: K.
        annotated: which classes are known in training, bool `[K]`; None if that is not known.
        figure: the name that the results begin with.

    Returns:
        "mask_accuracy", the fraction of all regions, and "mask_accuracy_mean", the mean of the fractions of the classes
        that occur; the same with the suffixes "_annotated" and "_not_annotated" over these classes alone. A group of
        classes without a region is left out.
    """
    correct = np.bincount(gt[gt == pred], minlength=classes)
    regions = np.bincount(gt, minlength=classes)
    groups = {"": np.ones(classes, bool)}
    if annotated is not None:
        groups |= {"_annotated": annotated, "_not_annotated": ~annotated}
    fractions = {}
    for suffix, group in groups.items():
        occurring = group & (regions > 0)
        if occurring.any():
            fractions[f"{figure}{suffix}"] = float(correct[occurring].sum() / regions[occurring].sum())
            fractions[f"{figure}_mean{suffix}"] = float((correct[occurring] / regions[occurring]).mean())
    return fractions


def _mean(iou: FloatArray) -> float:
    return float(np.nanmean(iou))


def _row_means(iou: FloatArray) -> FloatArray:
    """The mean of each row over its finite values; NaN for a row without any."""
    finite = np.isfinite(iou)
    number = finite.sum(1)
    total = np.where(finite, iou, 0).sum(1)
    return np.asarray(np.divide(total, number, out=np.full(len(iou), np.nan), where=number > 0))
