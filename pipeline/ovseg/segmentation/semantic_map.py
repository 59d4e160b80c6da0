"""From scores of proposals to a label map: S[c] = sum over proposals of score * mask probability (paper 3.1), then arg-max.

The map is computed in strips of rows, so that neither 847 classes nor 100 masks are in memory at full size, and a strip stays
in the cache of the processor.

Shapes: Q proposals, K classes, H, W image, h, w grid of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.proposals.mask_logits import Extent, upsample_mask_probs

SemanticMap = tuple[NDArray[np.uint16], NDArray[np.float32]]
"""The class of each pixel `[H, W]`, and its score."""

BUDGET, BUDGET_OF_GPU = 2**21, 2**26  # largest number of elements of a strip


@torch.inference_mode()
def semantic_maps(
    scores: Sequence[Tensor],
    logits: Tensor,
    extent: Extent,
    height: int,
    width: int,
    penalties: Sequence[Tensor | None] | None = None,
    budget: int | None = None,
) -> list[SemanticMap]:
    """Compute the class of each pixel for several scores of the same masks, which are enlarged once for all of them.

    Args:
        scores: `[Q, K]` each, Q >= 0.
        logits: `[Q, h, w]`, logits of the masks.
        extent: the number of rows and columns of the grid that the image covers; the rest is padding.
        height, width: the size of the image in pixels.
        penalties: for each of the scores `[K]`, subtracted from the score maps of the classes before the arg-max (ZegFormer's
            calibration), or None for 0; None for no penalty at all.
        budget: the largest number of elements in memory, None for what suits the device; it does not change the result.

    Returns:
        for each of the scores the class of each pixel, uint16 `[H, W]` (the first of equal ones), and its S minus the penalty,
        float32 `[H, W]`.
    """
    class_scores = [one.to(logits.device, torch.float32) for one in scores]
    subtracted = [None if one is None else one.to(logits.device, torch.float32) for one in penalties or ()]
    results = [(np.zeros((height, width), np.uint16), np.zeros((height, width), np.float32)) for _ in scores]
    budget = budget or (BUDGET if logits.device.type == "cpu" else BUDGET_OF_GPU)
    rows = max(1, budget // (width * (len(logits) + max((one.shape[1] for one in class_scores), default=0))))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        if len(logits):
            probs = upsample_mask_probs(logits, extent, height, width, top, bottom).flatten(1)
        else:
            probs = logits.new_zeros(0, (bottom - top) * width)
        for one, penalty, (labels, values) in zip(
            class_scores, subtracted or [None] * len(scores), results, strict=True
        ):
            maps = probs.T @ one  # [pixels of the strip, K]
            value, label = _largest(maps if penalty is None else maps - penalty)
            labels[top:bottom] = label.reshape(-1, width)
            values[top:bottom] = value.reshape(-1, width)
    return results


def _largest(maps: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The largest of each row `[n, K]`, and its place; the first one of equal ones."""
    if maps.device.type == "cpu" and torch.get_num_threads() == 1:  # then numpy is faster, but it has no threads
        label = maps.numpy().argmax(1)
        return maps.numpy().ravel().take(np.arange(len(label)) * maps.shape[1] + label), label
    value, place = maps.max(1)
    return value.cpu().numpy(), place.cpu().numpy()
