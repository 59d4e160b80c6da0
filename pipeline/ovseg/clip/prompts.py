"""Mask prompts (paper 3.3): where a patch holds background alone, a learned vector takes the place of its token.

Composed with open_clip's own image tower by hooks on the modules that tokens pass between, so that class token, positional
embedding, pooling and projection stay the tower's. Shapes: B crops, S input side, N patches, W tower width, L depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg.core.errors import OvsegError

STD = 0.02  # of new prompts, as in MAE and the paper


@dataclass(frozen=True)
class VitHookPoints:
    """Where tokens pass in an image tower.

    Attributes:
        embed: its output is the patches' tokens, before class token and positional embedding.
        blocks: each gives the tokens `[B, prefix + N, W]`.
        prefix: tokens before those of the patches (the class token; register tokens).
        patch: height and width of a patch in pixels.
        grid: rows and columns of patches.
        width: W.
    """

    embed: nn.Module
    blocks: Sequence[nn.Module]
    prefix: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    width: int


def vit_hook_points(visual: nn.Module) -> VitHookPoints:
    """The vit_hook_points of a plain ViT of open_clip or timm, with any pooling.

    Raises:
        OvsegError: another kind of tower, or one that drops patches.
    """
    if isinstance(visual, VisionTransformer):
        conv = visual.conv1
        found = VitHookPoints(
            conv, list(visual.transformer.resblocks), 1, visual.patch_size, visual.grid_size, conv.out_channels
        )
        dropout = visual.patch_dropout
    elif isinstance(visual, TimmModel) and _is_plain(visual.trunk):
        trunk = visual.trunk
        embed, dropout = trunk.patch_embed, getattr(trunk, "patch_drop", None)
        found = VitHookPoints(
            embed, list(trunk.blocks), trunk.num_prefix_tokens, embed.patch_size, embed.grid_size, trunk.embed_dim
        )
    else:
        name = type(getattr(visual, "trunk", visual)).__name__
        raise OvsegError(
            f"mask prompts take the place of a ViT's patch tokens, and the image tower {name} has none that belong to one "
            "patch each; take a ViT, or finetune without prompts (prompt.epochs=0)"
        )
    if getattr(dropout, "prob", 0) > 0:
        raise OvsegError("mask prompts need every patch, and this image tower drops some; set its patch dropout to 0")
    return found


def _is_plain(trunk: nn.Module) -> bool:
    """Whether timm's tower cuts the image into patches that do not overlap, and passes them on as a list of tokens."""
    from timm.layers.patch_embed import PatchEmbed

    embed = getattr(trunk, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or not hasattr(trunk, "blocks") or not hasattr(trunk, "num_prefix_tokens"):
        return False
    return bool(embed.flatten) and embed.proj.kernel_size == embed.proj.stride


def new_prompts(visual: nn.Module, depth: int, seed: int) -> Tensor:
    """Fresh prompts, float32 `[L, N, W]`, each N(0, 0.02).

    Raises:
        OvsegError: the tower has no vit_hook_points, or fewer blocks than `depth`.
    """
    where = vit_hook_points(visual)
    _check_depth(depth, where)
    shape = (depth, where.grid[0] * where.grid[1], where.width)
    return torch.normal(0.0, STD, shape, generator=torch.Generator().manual_seed(seed))


def foreground_patches(masks: Tensor, patch: tuple[int, int]) -> Tensor:
    """Which patches keep their token: bool `[B, N]`, True where at least one pixel of the patch is foreground.

    Args:
        masks: bool `[B, S, S]`, True is foreground.
        patch: height and width of a patch.
    """
    return F.max_pool2d(masks[:, None].float(), patch).flatten(1) > 0


@contextmanager
def mask_prompts_applied(visual: nn.Module, prompts: Tensor, masks: Tensor) -> Iterator[None]:
    """While this lasts, one forward pass of the tower sees prompts in the place of blank patches.

    `prompts[0]` goes in before class token and positional embedding, `prompts[i]` after block i, counted from 1; prefix
    tokens are never touched, and attention is not restricted (paper 3.3 and A.5).

    Args:
        visual: image tower.
        prompts: `[L, N, W]`.
        masks: bool `[B, S, S]` of the crops that the tower is about to see.

    Raises:
        OvsegError: no vit_hook_points; prompts of another grid, width or depth.
    """
    where = vit_hook_points(visual)
    _check_depth(len(prompts), where)
    if prompts.shape[1:] != (where.grid[0] * where.grid[1], where.width):
        raise OvsegError(
            f"mask prompts of {prompts.shape[1]} patches, {prompts.shape[2]} wide, do not fit an image tower of "
            f"{where.grid[0]} x {where.grid[1]} patches, {where.width} wide; for another grid of the same width, "
            "load_adapted(..., resize=True)"
        )
    keep = foreground_patches(masks, where.patch)

    def at_input(_module: nn.Module, _inputs: object, tokens: Tensor) -> Tensor:
        prompt = prompts[0].to(tokens.dtype)
        if tokens.ndim == 4:  # [B, W, rows, columns], as a convolution gives them
            return torch.where(keep.view(-1, 1, *where.grid), tokens, prompt.T.reshape(1, -1, *where.grid))
        return torch.where(keep[..., None], tokens, prompt)

    def after(prompt: Tensor, tokens: Tensor) -> Tensor:
        shown = torch.where(keep[..., None], tokens[:, where.prefix :], prompt.to(tokens.dtype))
        return torch.cat([tokens[:, : where.prefix], shown], dim=1)

    handles = [where.embed.register_forward_hook(at_input)]
    handles += [
        block.register_forward_hook(lambda _module, _inputs, tokens, prompt=prompt: after(prompt, tokens))
        for block, prompt in zip(where.blocks, prompts[1:], strict=False)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def resize_prompts(prompts: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Prompts `[L, N, W]` of one grid (rows, columns) interpolated to another, bicubic, as positional embeddings are."""
    planes = prompts.transpose(1, 2).reshape(len(prompts), -1, *grid)
    return F.interpolate(planes, to, mode="bicubic", antialias=True).flatten(2).transpose(1, 2).contiguous()


def _check_depth(depth: int, where: VitHookPoints) -> None:
    if not 1 <= depth <= len(where.blocks):
        raise OvsegError(f"prompt.depth={depth} is not possible: the image tower has {len(where.blocks)} blocks")
