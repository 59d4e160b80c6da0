"""From scores of proposals to a map: S[c] = sum over proposals of score x soft mask (paper 3.1), and the best class.

The map is made in strips of rows, so that neither 847 classes nor 100 masks are ever in memory at full size.
Shapes: Q proposals, K classes, H, W image, h, w grid of the masks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.proposals.mask_logits import Extent, upsample_mask_probs

BUDGET = 2**24  # numbers of a strip in memory at a time


@torch.inference_mode()
def compose(
    scores: Tensor,
    logits: Tensor,
    extent: Extent,
    height: int,
    width: int,
    discount: Tensor | None = None,
    budget: int = BUDGET,
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """The class of each pixel.

    Args:
        scores: `[Q, K]`, Q >= 0.
        logits: of the masks `[Q, h, w]`.
        extent: rows and columns of the grid that are image.
        height, width: of the image.
        discount: taken from the classes' maps before the best is chosen, `[K]` (ZegFormer's calibration); None for 0.
        budget: numbers in memory at a time; it does not change the result.

    Returns:
        class of each pixel uint16 `[H, W]` (the first of equals), and its value S float32 `[H, W]`.
    """
    number, classes = scores.shape
    labels = np.zeros((height, width), np.uint16)
    values = np.zeros((height, width), np.float32)
    rows = max(1, budget // (width * (number + classes)))
    weights = scores.T.to(logits.device, torch.float32).contiguous()
    less = None if discount is None else discount.to(weights)[:, None]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        soft = (
            upsample_mask_probs(logits, extent, height, width, top, bottom)
            if number
            else logits.new_zeros(0, bottom - top, width)
        )
        maps = weights @ soft.flatten(1)
        best, label = (maps if less is None else maps - less).max(0)
        labels[top:bottom] = label.reshape(-1, width).cpu().numpy()
        values[top:bottom] = best.reshape(-1, width).cpu().numpy()
    return labels, values
