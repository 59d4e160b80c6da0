"""Encoding all regions of an image in one pass of a ViT (MAFT's IP-CLIP, NeurIPS 2023, section 3.2).

From a chosen block on, the class token is replaced by a copy for each region, which sees itself and the patches of its mask.
Patches see patches only, so a region's vector depends on no other region. It also works with a CLIP that was never trained so.

Shapes: B images, Q regions, H, W image, h, w masks, N patches, W tower width, D joint embedding.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ovseg.clip.vit_parts import VitParts, patch_grid, vit_parts
from ovseg.core.errors import OvsegError
from ovseg.core.options import Coverage

REGIONS_PER_PASS = 256
"""The regions that share one attention mask, whose size grows with their square; it changes no result but for rounding."""


def region_tokens(
    visual: nn.Module, images: Tensor, masks: Tensor, start_block: int, coverage: Coverage = "half"
) -> Tensor:
    """Encode the regions of images.

    A tower without a class token runs as it is, and its pooling in the end, a mean or the attention of a probe (SigLIP), sees
    the patches of each mask alone. Where class token and patches are pooled by attention (CoCa), a region's copy of the class
    token is pooled with its patches, which see the class token itself as ever.

    Args:
        visual: an image tower of open_clip: a plain ViT of open_clip or timm.
        images: normalized, `[B, 3, H, W]`; H and W are multiples of the patch size, positions are interpolated.
        masks: `[B, Q, h, w]` in [0, 1]; of any size, they are resized to the grid of patches.
        start_block: the number of blocks that run without regions, in [0, number of blocks - 1].
        coverage: what a region sees of a patch, see `patch_weights`.

    Returns:
        unit vectors `[B, Q, D]` of the images' data type; gradients reach the tower.

    Raises:
        OvsegError: the tower is no plain ViT, the size of the images is no multiple of the patch size, there is no block
            `start_block`, or `coverage` is "soft" and the tower does not make its embedding from a class token alone.
    """
    parts = vit_parts(visual)
    check_start_block(start_block, parts)
    grid = patch_grid(parts.layout, *images.shape[-2:])
    tokens = parts.embed(images, grid)
    if coverage == "soft" and parts.pool is not None:
        raise OvsegError(
            "coverage=soft is for image towers whose embedding is that of the class token, and this one pools its patches; "
            "set coverage to half"
        )
    if not parts.has_class_token:
        return _pool_patches(parts, tokens, patches_of_masks(masks, grid))
    for block in parts.blocks[:start_block]:
        tokens = block(tokens, None)
    class_token, others = tokens[:, :1], tokens[:, 1:]
    weights = F.pad(patch_weights(masks, grid, coverage), (parts.layout.prefix - 1, 0), value=1.0)  # all see registers
    if parts.pool is not None:  # patches are pooled, too, so they keep the class token, which no region sees
        others, weights = tokens, F.pad(weights, (1, 0), value=0.0)
    vectors = [
        F.normalize(parts.head(_run_blocks(parts, class_token, others, part, start_block)), dim=-1)
        for part in torch.split(weights, REGIONS_PER_PASS, dim=1)
    ]
    return torch.cat(vectors, dim=1)


def check_start_block(start_block: int, parts: VitParts) -> None:
    """Check that a tower has a block `start_block`, counted from 0.

    Raises:
        OvsegError: it has not.
    """
    if not 0 <= start_block < len(parts.blocks):
        raise OvsegError(
            f"start_block={start_block}: the image tower has {len(parts.blocks)} blocks, so it must be 0 to "
            f"{len(parts.blocks) - 1}; MAFT takes two thirds of them"
        )


def patch_weights(masks: Tensor, grid: tuple[int, int], coverage: Coverage) -> Tensor:
    """What each region sees of each patch: its attention weights are multiplied by this, before they are made to sum to 1.

    Args:
        masks: `[B, Q, h, w]` in [0, 1].
        grid: the rows and columns of N patches.
        coverage: "half" is 1 for the patches of `patches_of_masks`, as in MAFT, and 0 for the others; "soft" is the fraction of
            the patch that the mask covers.

    Returns:
        float32 `[B, Q, N]` in [0, 1]; all 0 for an empty mask.
    """
    return patches_of_masks(masks, grid).float() if coverage == "half" else mean_of_cells(masks, grid).flatten(2)


def patches_of_masks(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Find the patches of each mask: those whose bilinearly sampled value is at least 0.5.

    A mask with pixels but without such a patch, such as one smaller than a patch, gets the patch that it covers most.

    Args:
        masks: `[B, Q, h, w]` in [0, 1].
        grid: the rows and columns of N patches.

    Returns:
        bool `[B, Q, N]`; all False for an empty mask.
    """
    covered = sample_masks(masks, grid).flatten(2) >= 0.5
    coverage = mean_of_cells(masks, grid).flatten(2)
    most = F.one_hot(coverage.argmax(-1), coverage.shape[-1]).bool() & (coverage > 0)
    return torch.where(covered.any(-1, keepdim=True), covered, most)


def sample_masks(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sample masks `[B, Q, h, w]` bilinearly at the centers of cells, float32 `[B, Q, rows, columns]`."""
    rows = masks.float().flatten(0, 1)[:, None]  # torch interpolates no regions as a batch, but not as channels
    return F.interpolate(rows, grid, mode="bilinear", align_corners=False).reshape(*masks.shape[:2], *grid)


def mean_of_cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average masks `[B, Q, h, w]` over cells, float32 `[B, Q, rows, columns]`: what torch's adaptive average pooling gives.

    The windows of a cell are a product, so that two matrix products give their sums, in half the time of the pooling.
    """
    rows, columns = (_windows(side, cells).to(masks.device) for side, cells in zip(masks.shape[-2:], grid, strict=True))
    with torch.autocast(masks.device.type, enabled=False):  # sums of masks without rounding: half a cell is exactly 0.5
        return rows @ masks.float() @ columns.T / (rows.sum(1)[:, None] * columns.sum(1))


@lru_cache(maxsize=64)
def _windows(side: int, cells: int) -> Tensor:
    """Which pixels each cell sums, 0 or 1 `[cells, side]`; neighbors overlap where the side is no multiple."""
    windows = torch.zeros(cells, side)
    for cell in range(cells):
        windows[cell, cell * side // cells : -(-(cell + 1) * side // cells)] = 1
    return windows


def region_attention(weights: Tensor) -> Tensor:
    """Return how much of which token the Q + N tokens see: regions themselves and their patches, patches all patches.

    Args:
        weights: float `[B, Q, N]` in [0, 1], see `patch_weights`.

    Returns:
        float `[B, Q + N, Q + N]`; row i has what token i sees of the others.
    """
    batch, regions, patches = weights.shape
    itself = torch.eye(regions, dtype=weights.dtype, device=weights.device).expand(batch, -1, -1)
    rows = torch.cat([itself, weights], dim=2)
    patch_rows = (torch.arange(regions + patches, device=weights.device) >= regions).to(weights.dtype)
    return torch.cat([rows, patch_rows.expand(batch, patches, -1)], dim=1)


def _run_blocks(parts: VitParts, class_token: Tensor, others: Tensor, weights: Tensor, start: int) -> Tensor:
    """Pooled tokens of regions, `[B, Q, W]`."""
    regions = weights.shape[1]
    visible = region_attention(weights)
    mask = visible.log().to(others.dtype)  # added to the scores: 0 for what is seen, minus infinity for what is not
    tokens = torch.cat([class_token.expand(-1, regions, -1), others], dim=1)
    for block in parts.blocks[start:]:
        tokens = block(tokens, mask[:, None])
    if parts.pool is None:
        return parts.norm(tokens[:, :regions])
    return parts.pool(parts.norm(tokens), visible[:, :regions] > 0)


def _pool_patches(parts: VitParts, tokens: Tensor, covered: Tensor) -> Tensor:
    assert parts.pool is not None
    for block in parts.blocks:
        tokens = block(tokens, None)
    prefix = parts.layout.prefix if parts.pools_prefix else 0  # all regions see it
    pooled_tokens = parts.norm(tokens)[:, parts.layout.prefix - prefix :]
    covered = F.pad(covered, (prefix, 0), value=True)
    vectors = [parts.head(parts.pool(pooled_tokens, part)) for part in torch.split(covered, REGIONS_PER_PASS, dim=1)]
    return F.normalize(torch.cat(vectors, dim=1), dim=-1)
