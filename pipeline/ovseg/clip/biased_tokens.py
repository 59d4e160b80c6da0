"""Region tokens with a learned preference for their mask (MaskCLIP++, arXiv 2412.11464, on a ViT).

From a late block on, one token for each region starts from the class token and sees patches only. A learned number for each
block and head is added to the attention scores of patches inside the mask; those outside get -100. So it matters where the mask
is between 0 and 1, at its edge: what all patches inside have cancels in the softmax. Image tokens see no region.

Shapes: B images, Q regions, H, W image, h, w masks, N patches, L biased blocks, D joint embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ovseg.clip.region_tokens import REGIONS_PER_PASS, check_start_block, mean_of_cells, sample_masks
from ovseg.clip.vit_parts import VitParts, patch_grid, vit_parts
from ovseg.core.errors import OvsegError

OUTSIDE = -100.0
INIT_LOG_BIAS = -5.0


def new_log_bias(visual: nn.Module, start_block: int) -> Tensor:
    """Return the initial logarithms of the biases, -5: float32 `[L, heads]` for the blocks from `start_block` on.

    Raises:
        OvsegError: as `biased_tokens`.
    """
    parts = vit_parts(visual)
    check_start_block(start_block, parts)
    return torch.full((len(parts.blocks) - start_block, parts.heads), INIT_LOG_BIAS)


def biased_tokens(visual: nn.Module, images: Tensor, masks: Tensor, start_block: int, log_bias: Tensor) -> Tensor:
    """Encode the regions of images.

    Args:
        visual: an image tower of open_clip: a plain ViT of open_clip or timm whose embedding is its class token.
        images: normalized, `[B, 3, H, W]`; H and W are multiples of the patch size, positions are interpolated.
        masks: `[B, Q, h, w]` in [0, 1].
        start_block: the number of blocks that run without regions.
        log_bias: `[L, heads]`, the logarithm of the bias inside a mask of value 1.

    Returns:
        unit vectors `[B, Q, D]`; those of an empty mask are finite, and depend on all patches alike.

    Raises:
        OvsegError: the tower is no plain ViT with a class token, the size of the images is no multiple of the patch size,
            there is no block `start_block`, or `log_bias` is of another shape.
    """
    parts = vit_parts(visual)
    check_start_block(start_block, parts)
    if not parts.has_class_token or parts.pool is not None:
        raise OvsegError(
            "biased_tokens need an image tower whose embedding is its class token; use the region encoder region_tokens"
        )
    biased = len(parts.blocks) - start_block
    if log_bias.shape != (biased, parts.heads):
        raise OvsegError(
            f"log_bias of {list(log_bias.shape)} does not fit: from block {start_block} on the image tower has {biased} blocks "
            f"of {parts.heads} heads; take the start_block and the tower that it was trained with"
        )
    grid = patch_grid(parts.layout, *images.shape[-2:])
    tokens = parts.embed(images, grid)
    for block in parts.blocks[:start_block]:
        tokens = block(tokens, None)
    values = sample_masks(masks, grid).flatten(2)
    cells = mean_of_cells(masks, grid).flatten(2)  # of a mask that is sampled nowhere, such as one smaller than a patch
    values = torch.where(values.any(-1, keepdim=True), values, cells)
    vectors = [
        F.normalize(parts.head(parts.norm(_run_blocks(parts, tokens, part, start_block, log_bias))), dim=-1)
        for part in torch.split(values, REGIONS_PER_PASS, dim=1)
    ]
    return torch.cat(vectors, dim=1)


def mask_bias(values: Tensor, log_bias: Tensor) -> Tensor:
    """Return what is added to the attention scores of one block.

    Args:
        values: the masks' values at the patches, `[B, Q, N]`; a patch is inside if it exceeds half of the mask's maximum.
        log_bias: `[heads]`.

    Returns:
        `[B, heads, Q, N]`: value * exp(log_bias) inside, -100 outside.
    """
    inside = values > values.amax(-1, keepdim=True) / 2
    bias = values[:, None] * log_bias.exp()[None, :, None, None]
    return torch.where(inside[:, None], bias, OUTSIDE)


def _run_blocks(parts: VitParts, tokens: Tensor, values: Tensor, start: int, log_bias: Tensor) -> Tensor:
    """Tokens of regions after the last block, `[B, Q, W]`. The class token stays among the image's own tokens."""
    batch, regions, patches = values.shape
    prefix = parts.layout.prefix
    tokens = torch.cat([tokens[:, :1].expand(-1, regions, -1), tokens], dim=1)
    image_rows = torch.zeros(batch, 1, prefix + patches, tokens.shape[1], device=tokens.device)
    image_rows[..., :regions] = -math.inf
    hidden = torch.full((batch, 1, regions, regions + prefix), -math.inf, device=tokens.device)
    for block, block_bias in zip(parts.blocks[start:], log_bias, strict=True):
        bias = mask_bias(values, block_bias)
        heads = bias.shape[1]
        rows = torch.cat([hidden.expand(-1, heads, -1, -1), bias], dim=3)
        mask = torch.cat([rows, image_rows.expand(-1, heads, -1, -1)], dim=2)
        tokens = block(tokens, mask.to(tokens.dtype))
    return tokens[:, :regions]
