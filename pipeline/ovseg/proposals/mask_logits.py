"""Soft masks of a network at the size of the image, and cut to binary ones. One way for mining and segmentation.

Shapes: Q queries, h, w grid of the network's masks, H, W image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.core import masks
from ovseg.core.masks import MaskArray
from ovseg.proposals import Proposal

Extent = tuple[float, float]
"""How many rows and columns of the grid the image covers; the rest is padding."""


def upsample_mask_probs(
    logits: Tensor, extent: Extent, height: int, width: int, top: int = 0, bottom: int | None = None
) -> Tensor:
    """Mask logits at the size of the image, bilinear, then their sigmoid.

    Args:
        logits: float `[Q, h, w]`.
        extent: rows and columns of the grid that are image.
        height, width: of the image in pixels.
        top, bottom: only these rows of the image, so that not all masks are in memory at full size.

    Returns:
        float32 `[Q, bottom - top, W]` in [0, 1].
    """
    grid_height, grid_width = logits.shape[1:]
    rows = torch.arange(top, height if bottom is None else bottom, device=logits.device)
    columns = torch.arange(width, device=logits.device)
    y = ((rows + 0.5) * (extent[0] / height)).clamp(max=extent[0] - 0.5) / grid_height * 2 - 1  # never beyond the
    x = ((columns + 0.5) * (extent[1] / width)).clamp(max=extent[1] - 0.5) / grid_width * 2 - 1  # image's last cell
    where = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    found = F.grid_sample(
        logits.float()[None], where[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0].sigmoid()


def binary_masks(
    logits: Tensor, extent: Extent, height: int, width: int, threshold: float
) -> Iterator[tuple[MaskArray, float]]:
    """The mask of each query `[H, W]` where its sigmoid is above the threshold, and the mean of the sigmoid inside.

    Args:
        logits, extent, height, width: see `upsample_mask_probs`.
        threshold: in (0, 1).
    """
    for query in logits:  # one by one: 100 masks at full size would be gigabytes
        soft = upsample_mask_probs(query[None], extent, height, width)[0]
        mask = soft > threshold
        score = float(soft[mask].mean()) if mask.any() else 0.0
        yield np.asarray(mask.cpu()), score


def binarize_proposals(logits: Tensor, extent: Extent, height: int, width: int, threshold: float) -> list[Proposal]:
    """Proposals of the queries that have a foreground pixel, best score first. See `binary_masks`."""
    found = [
        Proposal(masks.encode(mask), score)
        for mask, score in binary_masks(logits, extent, height, width, threshold)
        if mask.any()
    ]
    return sorted(found, key=lambda proposal: -proposal.score)
