"""A plain ViT of open_clip or timm in parts, for images of any size: tokens, blocks that take a mask, pooling, head.

Shapes: B images, P prefix tokens (class token, register tokens), N patches, T tokens, W tower width, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from ovseg.clip.prompts import VitLayout, vit_layout
from ovseg.clip.token_pools import first_query_pool, has_probe, mean_pool, probe_pool
from ovseg.core.errors import OvsegError

Block = Callable[[Tensor, Tensor | None], Tensor]
Pool = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class VitParts:
    """The parts of an image tower.

    Attributes:
        layout: the tower's layout; `layout.grid` is that of the size it was trained with.
        heads: the number of attention heads of a block.
        has_class_token: whether the embedding is made from the class token, alone or among others; otherwise from the patches.
        embed: function from normalized images `[B, 3, H, W]` and the grid of their patches to tokens `[B, P + N, W]`.
        blocks: functions from tokens `[B, T, W]` and a mask that is added to the attention scores, `[B, heads, T, T]` or None,
            to tokens.
        norm: function of all tokens `[B, T, W]` that comes before pooling.
        pool: function from tokens `[B, T, W]` and which of them each of Q regions sees, bool `[B, Q, T]`, to `[B, Q, W]`; None
            if the class token alone is taken.
        pools_prefix: whether the prefix tokens of a tower without a class token are pooled with the patches.
        head: function from pooled tokens `[B, T, W]` to embeddings `[B, T, D]`, which are no unit vectors yet.
    """

    layout: VitLayout
    heads: int
    has_class_token: bool
    embed: Callable[[Tensor, tuple[int, int]], Tensor]
    blocks: Sequence[Block]
    norm: Callable[[Tensor], Tensor]
    pool: Pool | None
    pools_prefix: bool
    head: Callable[[Tensor], Tensor]


def vit_parts(visual: nn.Module) -> VitParts:
    """Take an image tower of open_clip apart; its modules stay its own, so gradients reach its weights.

    Raises:
        OvsegError: the tower is no plain ViT, or pools its patches in a way that no region can be limited to.
    """
    layout = vit_layout(visual)
    if isinstance(visual, VisionTransformer) and _has_usual_pool(visual):
        return _open_clip_parts(visual, layout)
    if isinstance(visual, TimmModel) and _is_standard(visual.trunk):
        return _timm_parts(visual, layout)
    name = type(getattr(visual, "trunk", visual)).__name__
    raise OvsegError(
        f"image tower {name} has a pooling or blocks of its own kind, so regions cannot be encoded in one pass; use the region "
        "encoder crops, or a ViT that pools by a class token, an average or one attention probe (SigLIP)"
    )


def patch_grid(layout: VitLayout, height: int, width: int) -> tuple[int, int]:
    """Return the numbers of rows and columns of patches of an image.

    Raises:
        OvsegError: the size is not a multiple of the patch size.
    """
    rows, columns = height // layout.patch[0], width // layout.patch[1]
    if not rows or not columns or (height, width) != (rows * layout.patch[0], columns * layout.patch[1]):
        raise OvsegError(
            f"images of {height} x {width} pixels cannot be cut into patches of {layout.patch[0]} x {layout.patch[1]}; "
            "take a size that is a multiple of the patch size"
        )
    return rows, columns


def resize_positions(positions: Tensor, grid: tuple[int, int], to: tuple[int, int], prefix: int) -> Tensor:
    """Interpolate positional embeddings to another grid, bicubically with aligned corners (as MAFT does).

    Args:
        positions: `[prefix + N, W]`.
        grid: the rows and columns of the N patches.
        to: the rows and columns of the result's patches.
        prefix: the number of positions in front that belong to no patch.
    """
    if grid == to:
        return positions
    planes = positions[prefix:].T.reshape(1, -1, *grid)
    patches = F.interpolate(planes, to, mode="bicubic", align_corners=True)[0].flatten(1).T
    return torch.cat([positions[:prefix], patches])


def _open_clip_parts(visual: Any, layout: VitLayout) -> VitParts:
    blocks = list(layout.blocks)
    if not all(isinstance(block, ResidualAttentionBlock) for block in blocks):
        raise OvsegError(
            f"the blocks of the image tower are of the kind {type(blocks[0]).__name__}, so regions cannot be encoded in one "
            "pass; use the region encoder crops"
        )
    heads: int = blocks[0].attn.num_heads  # type: ignore[union-attr, assignment]

    def embed(images: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        positions = resize_positions(visual.positional_embedding, layout.grid, grid, prefix=1)
        return visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions.to(patches.dtype))  # type: ignore[no-any-return]

    after_pool = visual.final_ln_after_pool or visual.attn_pool is not None
    norm_after: Callable[[Tensor], Tensor] = visual.ln_post if after_pool else nn.Identity()

    def head(pooled: Tensor) -> Tensor:
        normed = norm_after(pooled)
        return normed if visual.proj is None else normed @ visual.proj

    def with_mask(block: nn.Module) -> Block:
        def run(tokens: Tensor, mask: Tensor | None) -> Tensor:
            # torch's attention takes one mask for each image and head, in one dimension
            flat = None if mask is None else mask.expand(-1, heads, -1, -1).flatten(0, 1)
            return block(tokens, attn_mask=flat)  # type: ignore[no-any-return]

        return run

    norm = nn.Identity() if after_pool else visual.ln_post
    by_class_token = visual.pool_type == "tok"
    pool: Pool | None = None if by_class_token else mean_pool
    if visual.attn_pool is not None:
        pool = partial(first_query_pool, visual.attn_pool)
    return VitParts(layout, heads, by_class_token, embed, [with_mask(b) for b in blocks], norm, pool, False, head)


def _has_usual_pool(visual: VisionTransformer) -> bool:
    """Whether an image tower of open_clip takes the class token, the mean of the patches, or the first query of CoCa."""
    if visual.attn_pool is None:
        return visual.pool_type in ("tok", "avg")
    return visual.attn_pool_contrastive is None and visual.pool_type == "tok"


def _is_standard(trunk: nn.Module) -> bool:
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    if not isinstance(trunk, TimmViT):
        return False
    return has_probe(trunk.attn_pool) or (trunk.attn_pool is None and trunk.global_pool in ("token", "avg"))


def _timm_parts(visual: TimmModel, layout: VitLayout) -> VitParts:
    trunk: Any = visual.trunk

    def embed(images: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = trunk.patch_embed.norm(trunk.patch_embed.proj(images).flatten(2).transpose(1, 2))
        prefix = [
            token.expand(len(images), -1, -1) for token in (trunk.cls_token, trunk.reg_token) if token is not None
        ]
        if trunk.pos_embed is None:
            return trunk.norm_pre(torch.cat([*prefix, patches], dim=1))  # type: ignore[no-any-return]
        skipped = 0 if trunk.no_embed_class else layout.prefix
        positions = resize_positions(trunk.pos_embed[0], layout.grid, grid, skipped)
        if trunk.no_embed_class:
            return trunk.norm_pre(torch.cat([*prefix, patches + positions], dim=1))  # type: ignore[no-any-return]
        return trunk.norm_pre(torch.cat([*prefix, patches], dim=1) + positions)  # type: ignore[no-any-return]

    def head(pooled: Tensor) -> Tensor:
        return visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(pooled))))  # type: ignore[no-any-return]

    def with_mask(block: nn.Module) -> Block:
        return lambda tokens, mask: block(tokens) if mask is None else block(tokens, attn_mask=mask)

    blocks = list(layout.blocks)
    heads, by_class_token = trunk.blocks[0].attn.num_heads, trunk.global_pool == "token"
    pool: Pool | None = None if by_class_token else mean_pool
    if trunk.attn_pool is not None:
        pool = partial(probe_pool, trunk.attn_pool)
    masked, with_prefix = [with_mask(b) for b in blocks], bool(trunk.pool_include_prefix)
    return VitParts(layout, heads, by_class_token, embed, masked, trunk.norm, pool, with_prefix, head)
