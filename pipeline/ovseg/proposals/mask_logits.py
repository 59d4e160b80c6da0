"""From a network's mask logits to probabilities and binary masks at the size of the image; mining and segmentation share it.

Shapes: Q queries; h, w grid of the network's masks; H, W image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.core import masks
from ovseg.core.masks import MaskArray
from ovseg.proposals import Proposal

Extent = tuple[float, float]
"""Number of rows and columns of the grid that the image covers, perhaps fractional; the rest of the grid is padding."""

BUDGET = 2**22  # largest number of elements that are enlarged at once: 100 masks of a photograph would take gigabytes


def upsample_mask_probs(
    logits: Tensor, extent: Extent, height: int, width: int, top: int = 0, bottom: int | None = None
) -> Tensor:
    """Resize mask logits to the size of the image with bilinear interpolation, then apply the sigmoid.

    Args:
        logits: float `[Q, h, w]`.
        extent: see `Extent`.
        height, width: size of the image in pixels.
        top: first row of the image to compute.
        bottom: row after the last one to compute; None for the last row of the image. Strips of rows keep the memory small.

    Returns:
        float32 `[Q, bottom - top, W]` in [0, 1].
    """
    grid_height, grid_width = logits.shape[1:]
    rows = torch.arange(top, height if bottom is None else bottom, device=logits.device)
    columns = torch.arange(width, device=logits.device)
    # clamped to the center of the image's last cell, so that no padding is interpolated
    y = ((rows + 0.5) * (extent[0] / height)).clamp(max=extent[0] - 0.5) / grid_height * 2 - 1
    x = ((columns + 0.5) * (extent[1] / width)).clamp(max=extent[1] - 0.5) / grid_width * 2 - 1
    positions = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    resized = F.grid_sample(
        logits.float()[None], positions[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return resized[0].sigmoid()


def binary_masks(logits: Tensor, extent: Extent, height: int, width: int, threshold: float) -> Iterator[MaskArray]:
    """Binarize the mask of each query at the size of the image.

    Args:
        logits, extent, height, width: see `upsample_mask_probs`.
        threshold: foreground is where the probability is above it, in (0, 1).

    Yields:
        for each query its mask, bool `[H, W]`, whose columns are contiguous, as `masks.encode` wants them.
    """
    for probs in _mask_probs_in_parts(logits, extent, height, width):
        yield from _columns_contiguous(probs > threshold)


def binarize_proposals(logits: Tensor, extent: Extent, height: int, width: int, threshold: float) -> list[Proposal]:
    """Return the proposals of all queries whose mask has a foreground pixel, best score first.

    The score of a proposal is the mean probability inside its mask. For the arguments see `binary_masks`.
    """
    proposals = []
    for probs in _mask_probs_in_parts(logits, extent, height, width):
        inside = probs > threshold
        scores = (probs * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        scored = zip(_columns_contiguous(inside), scores.tolist(), strict=True)
        proposals += [Proposal(masks.encode(mask), score) for mask, score in scored if mask.any()]
    return sorted(proposals, key=lambda proposal: -proposal.score)


def _columns_contiguous(inside: Tensor) -> MaskArray:
    """Copy masks `[Q, H, W]` to the CPU, transposed where they were computed: a GPU takes next to no time for it."""
    columns: MaskArray = inside.mT.contiguous().cpu().numpy()
    return columns.transpose(0, 2, 1)


def _mask_probs_in_parts(logits: Tensor, extent: Extent, height: int, width: int) -> Iterator[Tensor]:
    """The mask probabilities of a few queries at a time, see `BUDGET`."""
    for part in torch.split(logits, max(1, BUDGET // (height * width))):
        yield upsample_mask_probs(part, extent, height, width)
