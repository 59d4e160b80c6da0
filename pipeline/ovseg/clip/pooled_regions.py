"""Encoding all regions of an image in one pass of a ConvNeXt tower: the last map is averaged over each mask, then CLIP's head
(FC-CLIP; MaskCLIP++, arXiv 2412.11464).

Shapes: B images, Q regions, H, W image, h, w masks, D joint embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from ovseg.clip.region_tokens import mean_of_cells, sample_masks
from ovseg.core.errors import OvsegError

EPSILON = 1e-6
STRIDE = 32
"""The side of a cell of the last map in pixels."""


def pooled_regions(visual: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """Encode the regions of images.

    Args:
        visual: an image tower of open_clip: a ConvNeXt of timm.
        images: normalized, `[B, 3, H, W]`; H and W are multiples of 32.
        masks: `[B, Q, h, w]` in [0, 1].

    Returns:
        unit vectors `[B, Q, D]`; gradients reach the tower. That of an empty mask is what the head makes of zeros, and may
            be zero itself.

    Raises:
        OvsegError: the tower is no ConvNeXt, or the size of the images is no multiple of 32.
    """
    trunk = convnext_trunk(visual)
    check_size(*images.shape[-2:])
    features = trunk.forward_features(images)
    grid = (features.shape[-2], features.shape[-1])
    sampled, cells = sample_masks(masks, grid), mean_of_cells(masks, grid)
    # a mask smaller than a cell may be sampled nowhere
    weights = torch.where(sampled.any(-1).any(-1)[..., None, None], sampled, cells).to(features.dtype)
    pooled = torch.einsum("bqhw,bchw->bqc", weights, features)
    pooled = pooled / (weights.sum((2, 3))[..., None] + EPSILON)
    return F.normalize(head_of_cells(visual, pooled), dim=-1)


def head_of_cells(visual: nn.Module, cells: Tensor) -> Tensor:
    """Embed cells of the last map, or means of them, with CLIP's own head.

    Args:
        visual: see `pooled_regions`.
        cells: `[B, Q, channels]`.

    Returns:
        `[B, Q, D]`, which are no unit vectors.
    """
    # the trunk's head pools a map; a mean of one cell is that cell
    head = convnext_trunk(visual).forward_head(cells.flatten(0, 1)[..., None, None])
    embedded: Tensor = visual.head(head)  # type: ignore[operator]
    return embedded.reshape(*cells.shape[:2], embedded.shape[-1])


def check_size(height: int, width: int) -> None:
    """Check that cells of the last map cover an image.

    Raises:
        OvsegError: the size is not a multiple of 32.
    """
    if height % STRIDE or width % STRIDE or not height or not width:
        raise OvsegError(
            f"images of {height} x {width} pixels cannot be cut into cells of {STRIDE} x {STRIDE}, the stride of a ConvNeXt; "
            "take a size that is a multiple of it"
        )


def is_convnext(visual: nn.Module) -> bool:
    """Whether an image tower of open_clip is a ConvNeXt of timm."""
    from timm.models.convnext import ConvNeXt

    return isinstance(visual, TimmModel) and isinstance(visual.trunk, ConvNeXt)


def convnext_trunk(visual: nn.Module) -> Any:
    """Return the ConvNeXt of timm in an image tower of open_clip.

    Raises:
        OvsegError: there is none.
    """
    if is_convnext(visual):
        return visual.trunk
    name = type(getattr(visual, "trunk", visual)).__name__
    raise OvsegError(
        f"image tower {name} is no ConvNeXt, whose last map is averaged over masks; use region_tokens for a plain ViT, "
        "crops for any other tower"
    )
