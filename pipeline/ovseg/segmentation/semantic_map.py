"""From scores of proposals to a label map: S[c] = sum over proposals of score * mask probability (paper 3.1), then arg-max.

The map is computed in strips of rows, so that neither 847 classes nor 100 masks are in memory at full size.

Shapes: Q proposals, K classes, H, W image, h, w grid of the masks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.proposals.mask_logits import Extent, upsample_mask_probs

BUDGET = 2**24  # largest number of elements of a strip


@torch.inference_mode()
def semantic_map(
    scores: Tensor,
    logits: Tensor,
    extent: Extent,
    height: int,
    width: int,
    penalty: Tensor | None = None,
    budget: int = BUDGET,
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Compute the class of each pixel.

    Args:
        scores: `[Q, K]`, Q >= 0.
        logits: `[Q, h, w]`, logits of the masks.
        extent: the number of rows and columns of the grid that the image covers; the rest is padding.
        height, width: the size of the image in pixels.
        penalty: `[K]`, subtracted from the score maps of the classes before the arg-max (ZegFormer's calibration); None for 0.
        budget: the largest number of elements in memory; it does not change the result.

    Returns:
        the class of each pixel, uint16 `[H, W]` (the first of equal ones), and its S minus the penalty, float32 `[H, W]`.
    """
    num_proposals, num_classes = scores.shape
    labels = np.zeros((height, width), np.uint16)
    values = np.zeros((height, width), np.float32)
    rows = max(1, budget // (width * (num_proposals + num_classes)))
    class_scores = scores.T.to(logits.device, torch.float32).contiguous()
    penalties = None if penalty is None else penalty.to(class_scores)[:, None]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        if num_proposals:
            probs = upsample_mask_probs(logits, extent, height, width, top, bottom)
        else:
            probs = logits.new_zeros(0, bottom - top, width)
        maps = class_scores @ probs.flatten(1)  # [K, pixels of the strip]
        value, label = (maps if penalties is None else maps - penalties).max(0)
        labels[top:bottom] = label.reshape(-1, width).cpu().numpy()
        values[top:bottom] = value.reshape(-1, width).cpu().numpy()
    return labels, values
