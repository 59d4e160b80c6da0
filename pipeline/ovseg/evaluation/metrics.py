"""Segmentation metrics from integer totals. Both rules of mIoU, always by name: published figures mix them (METHODS 0.3).

miou      mean IoU over classes with true or guessed pixels: a class that is only guessed counts as 0. Rule of OVSeg,
          SimBaseline, ZegFormer, MAFT and detectron2 up to 0.6.
miou_gt   mean IoU over classes with true pixels. Rule of detectron2 since July 2022, MaskCLIP++ and CAT-Seg.

N images, K classes, B bootstrap samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovseg.evaluation.confusion import IntArray, Totals

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def ious(right: IntArray | Floats, true: IntArray | Floats, guessed: IntArray | Floats) -> Floats:
    """Intersection over union by class, `[..., K]`; NaN for a class with neither true nor guessed pixels."""
    union = true + guessed - right
    return np.asarray(np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0))


def metrics(totals: Totals, seen: Bools | None = None) -> dict[str, float]:
    """The metrics of all images together.

    Args:
        totals: of N images.
        seen: which classes were annotated in training `[K]`; None where that is not known.

    Returns:
        "miou" and "miou_gt" (see above); "fwiou", IoU weighted by true pixels; "macc", mean over true classes of the share
        of their pixels that is right; "pacc", share of all pixels. With `seen` also "miou_seen", "miou_unseen" (by the rule
        of "miou") and "hiou", their harmonic mean. In [0, 1]; what has no pixel at all is left out.
    """
    right, true, guessed = (part.sum(0) for part in (totals.right, totals.true, totals.guessed))
    iou = ious(right, true, guessed)
    there = true > 0
    if not there.any():
        return {}
    found = {
        "miou": _mean(iou),
        "miou_gt": _mean(iou[there]),
        "fwiou": float((true[there] * iou[there]).sum() / true.sum()),
        "macc": float((right[there] / true[there]).mean()),
        "pacc": float(right.sum() / true.sum()),
    }
    if seen is not None:
        for name, chosen in (("miou_seen", seen), ("miou_unseen", ~seen)):
            if np.isfinite(iou[chosen]).any():
                found[name] = _mean(iou[chosen])
        if "miou_seen" in found and "miou_unseen" in found:
            both = found["miou_seen"] + found["miou_unseen"]
            found["hiou"] = 2 * found["miou_seen"] * found["miou_unseen"] / both if both else 0.0
    return found


def intervals(
    totals: Totals, repeats: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of "miou" and "miou_gt": images are drawn with replacement, `repeats` times.

    A class whose true pixels are all in images that were not drawn is left out of that sample: it is not one that was only
    guessed.

    Args:
        totals: of N images.
        repeats: B.
        seed: of the draws.
        level: share of the samples inside the interval.

    Returns:
        lower and upper end of each; empty where no pixel is scored.
    """
    images = len(totals.true)
    if not totals.true.any():
        return {}
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), repeats).astype(np.float64)
    right, true, guessed = (drawn @ part for part in (totals.right, totals.true, totals.guessed))
    lost = (totals.true.sum(0) > 0) & (true == 0)
    iou = np.where(lost, np.nan, ious(right, true, guessed))
    values = {"miou": _means(iou), "miou_gt": _means(np.where(true > 0, iou, np.nan))}
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: tuple(np.quantile(found[np.isfinite(found)], ends).tolist()) for name, found in values.items()}


def _mean(iou: Floats) -> float:
    return float(np.nanmean(iou))


def _means(iou: Floats) -> Floats:
    known = np.isfinite(iou)
    number = known.sum(1)
    summed = np.where(known, iou, 0).sum(1)
    return np.asarray(np.divide(summed, number, out=np.full(len(iou), np.nan), where=number > 0))
