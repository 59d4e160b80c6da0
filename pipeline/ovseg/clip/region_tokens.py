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

REGIONS_PER_PASS = 256
"""The regions that share one attention mask, whose size grows with their square; it changes no result but for rounding."""


def region_tokens(visual: nn.Module, images: Tensor, masks: Tensor, start_block: int) -> Tensor:
    """Encode the regions of images.

    A tower without a class token runs as it is, and its pooling in the end, a mean or the attention of a probe (SigLIP), sees
    the patches of each mask alone. Where class token and patches are pooled by attention (CoCa), a region's copy of the class
    token is pooled with its patches, which see the class token itself as ever.

    Args:
        visual: an image tower of open_clip: a plain ViT of open_clip or timm.
        images: normalized, `[B, 3, H, W]`; H and W are multiples of the patch size, positions are interpolated.
        masks: `[B, Q, h, w]` in [0, 1]; of any size, they are resized to the grid of patches.
        start_block: the number of blocks that run without regions, in [0, number of blocks - 1].

    Returns:
        unit vectors `[B, Q, D]` of the images' data type; gradients reach the tower.

    Raises:
        OvsegError: the tower is no plain ViT, the size of the images is no multiple of the patch size, or there is no block
            `start_block`.
    """
    parts = vit_parts(visual)
    check_start_block(start_block, parts)
    grid = patch_grid(parts.layout, *images.shape[-2:])
    tokens = parts.embed(images, grid)
    covered = patches_of_masks(masks, grid)
    if not parts.has_class_token:
        return _pool_patches(parts, tokens, covered)
    for block in parts.blocks[:start_block]:
        tokens = block(tokens, None)
    class_token, others = tokens[:, :1], tokens[:, 1:]
    covered = F.pad(covered, (parts.layout.prefix - 1, 0), value=True)  # registers, which all see
    if parts.pool is not None:  # patches are pooled, too, so they keep the class token, which no region sees
        others, covered = tokens, F.pad(covered, (1, 0), value=False)
    vectors = [
        F.normalize(parts.head(_run_blocks(parts, class_token, others, part, start_block)), dim=-1)
        for part in torch.split(covered, REGIONS_PER_PASS, dim=1)
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


def region_attention(covered: Tensor) -> Tensor:
    """Return which of the Q + N tokens see which: regions themselves and their patches, patches all patches.

    Args:
        covered: bool `[B, Q, N]`.

    Returns:
        bool `[B, Q + N, Q + N]`; row i has the tokens that token i sees.
    """
    batch, regions, patches = covered.shape
    itself = torch.eye(regions, dtype=torch.bool, device=covered.device).expand(batch, -1, -1)
    rows = torch.cat([itself, covered], dim=2)
    patch_rows = torch.arange(regions + patches, device=covered.device) >= regions
    return torch.cat([rows, patch_rows.expand(batch, patches, -1)], dim=1)


def _run_blocks(parts: VitParts, class_token: Tensor, others: Tensor, covered: Tensor, start: int) -> Tensor:
    """Pooled tokens of regions, `[B, Q, W]`."""
    regions = covered.shape[1]
    visible = region_attention(covered)
    mask = torch.zeros(visible.shape, dtype=others.dtype, device=others.device).masked_fill(~visible, -torch.inf)
    tokens = torch.cat([class_token.expand(-1, regions, -1), others], dim=1)
    for block in parts.blocks[start:]:
        tokens = block(tokens, mask[:, None])
    if parts.pool is None:
        return parts.norm(tokens[:, :regions])
    return parts.pool(parts.norm(tokens), visible[:, :regions])


def _pool_patches(parts: VitParts, tokens: Tensor, covered: Tensor) -> Tensor:
    assert parts.pool is not None
    for block in parts.blocks:
        tokens = block(tokens, None)
    prefix = parts.layout.prefix if parts.pools_prefix else 0  # all regions see it
    pooled_tokens = parts.norm(tokens)[:, parts.layout.prefix - prefix :]
    covered = F.pad(covered, (prefix, 0), value=True)
    vectors = [parts.head(parts.pool(pooled_tokens, part)) for part in torch.split(covered, REGIONS_PER_PASS, dim=1)]
    return F.normalize(torch.cat(vectors, dim=1), dim=-1)
