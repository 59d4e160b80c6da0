"""Mask prompts (paper 3.3): a learned vector replaces the token of each patch that holds background alone.

The prompts are inserted into open_clip's own image tower by forward hooks, so that class token, positional embedding,
pooling and projection are the tower's own. Shapes: B crops, S input side, N patches, W tower width, L depth of the prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg.core.errors import OvsegError

log = logging.getLogger("ovseg")

INIT_STD = 0.02  # standard deviation of new prompts, as in MAE and the paper


@dataclass(frozen=True)
class VitLayout:
    """The layout of a ViT's tokens, and the modules that mask prompts are hooked to.

    Attributes:
        embed: the module whose output is the patches' tokens, before class token and positional embedding.
        blocks: the transformer blocks; the output of each is `[B, prefix + N, W]`.
        prefix: the number of tokens before those of the patches (class token, register tokens).
        patch: the height and width of a patch in pixels.
        grid: the numbers of rows and columns of patches.
        width: W.
    """

    embed: nn.Module
    blocks: Sequence[nn.Module]
    prefix: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    width: int


def vit_layout(visual: nn.Module) -> VitLayout:
    """Return the layout of a plain ViT of open_clip or timm, with any pooling.

    Args:
        visual: an image tower of open_clip.

    Raises:
        OvsegError: the tower is not a plain ViT, or it drops patches.
    """
    if isinstance(visual, VisionTransformer):
        conv = visual.conv1
        layout = VitLayout(
            conv, list(visual.transformer.resblocks), 1, visual.patch_size, visual.grid_size, conv.out_channels
        )
        dropout = visual.patch_dropout
    elif isinstance(visual, TimmModel) and _is_plain(visual.trunk):
        trunk = visual.trunk
        embed, dropout = trunk.patch_embed, getattr(trunk, "patch_drop", None)
        layout = VitLayout(
            embed, list(trunk.blocks), trunk.num_prefix_tokens, embed.patch_size, embed.grid_size, trunk.embed_dim
        )
    else:
        name = type(getattr(visual, "trunk", visual)).__name__
        raise OvsegError(
            f"image tower {name} is not a plain ViT (one token per patch), which mask prompts and region tokens need; take a "
            "ViT, or finetune without prompts (prompt.epochs=0) and encode regions as crops, or "
            "a ConvNeXt's with the region encoder pooled"
        )
    if getattr(dropout, "prob", 0) > 0:
        raise OvsegError(
            "mask prompts and region tokens need every patch, and this image tower drops some; set its patch dropout to 0"
        )
    return layout


def _is_plain(trunk: nn.Module) -> bool:
    """Whether a tower of timm splits the image into patches that do not overlap, and passes them on as a list of tokens."""
    from timm.layers.patch_embed import PatchEmbed

    embed = getattr(trunk, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or not hasattr(trunk, "blocks") or not hasattr(trunk, "num_prefix_tokens"):
        return False
    return bool(embed.flatten) and embed.proj.kernel_size == embed.proj.stride


def new_prompts(visual: nn.Module, depth: int, seed: int) -> Tensor:
    """Draw new prompts from a normal distribution with mean 0 and standard deviation 0.02.

    Args:
        visual: an image tower of open_clip.
        depth: L, the number of layers that prompts are inserted into.
        seed: the seed of the values.

    Returns:
        prompts, float32 `[L, N, W]`.

    Raises:
        OvsegError: the tower is not a plain ViT, or has fewer blocks than `depth`.
    """
    layout = vit_layout(visual)
    _check_depth(depth, layout)
    shape = (depth, layout.grid[0] * layout.grid[1], layout.width)
    return torch.normal(0.0, INIT_STD, shape, generator=torch.Generator().manual_seed(seed))


def check_prompts(prompts: Tensor, visual: nn.Module, source: object) -> Tensor | None:
    """Check mask prompts that were read from a file.

    Prompts that are all zero are kept with a warning: they are those of a training that has not moved them.

    Args:
        prompts: `[L, N or 1, W]`; one prompt of a layer stands for all of its patches.
        visual: the image tower of open_clip that they are for.
        source: where they come from, for messages.

    Returns:
        prompts `[L, N, W]`; None if L is 0, which means that there are none.

    Raises:
        OvsegError: they do not fit the grid, the width or the number of blocks of the tower; or some are not finite.
    """
    if prompts.ndim and not len(prompts):
        return None
    layout = vit_layout(visual)
    patches = layout.grid[0] * layout.grid[1]
    if prompts.ndim != 3 or prompts.shape[1] not in (1, patches) or prompts.shape[2] != layout.width:
        raise OvsegError(
            f"{source} is {list(prompts.shape)}, not [depth, {patches}, {layout.width}], as mask prompts of the image tower are"
        )
    if len(prompts) > len(layout.blocks):
        raise OvsegError(
            f"{source}: mask prompts are of depth {len(prompts)}, and the image tower has {len(layout.blocks)} blocks"
        )
    if not prompts.isfinite().all():
        raise OvsegError(f"{source}: some mask prompts are not finite numbers; take a checkpoint of an earlier epoch")
    zero = [i for i, prompt in enumerate(prompts, 1) if not prompt.any()]
    if zero:
        layers = f"all {len(prompts)} layers" if len(zero) == len(prompts) else f"layers {', '.join(map(str, zero))}"
        log.warning(
            "%s: the mask prompts of %s are all zero, so they were never trained; they are used as they are",
            source,
            layers,
        )
    return prompts.expand(-1, patches, -1)


def foreground_patches(masks: Tensor, patch: tuple[int, int]) -> Tensor:
    """Find the patches that keep their tokens: those with at least one pixel of foreground.

    Args:
        masks: bool `[B, S, S]`, True is foreground.
        patch: the height and width of a patch in pixels.

    Returns:
        bool `[B, N]`.
    """
    return F.max_pool2d(masks[:, None].float(), patch).flatten(1) > 0


@contextmanager
def mask_prompts_applied(visual: nn.Module, prompts: Tensor, masks: Tensor) -> Iterator[None]:
    """Replace the tokens of background patches by prompts during the forward passes in this context.

    `prompts[0]` replaces patch embeddings, before class token and positional embedding; `prompts[i]`, i >= 1, replaces the
    tokens after block i, counted from 1, that is the input of `blocks[i]`. Prefix tokens are never changed, and attention is
    not restricted (paper 3.3 and A.5).

    Args:
        visual: an image tower of open_clip.
        prompts: `[L, N, W]`.
        masks: the masks of the crops of the forward pass, bool `[B, S, S]`.

    Raises:
        OvsegError: the tower is not a plain ViT, or the prompts do not fit its grid, width or number of blocks.
    """
    layout = vit_layout(visual)
    _check_depth(len(prompts), layout)
    if prompts.shape[1:] != (layout.grid[0] * layout.grid[1], layout.width):
        raise OvsegError(
            f"mask prompts of {prompts.shape[1]} patches, {prompts.shape[2]} wide, do not fit an image tower of "
            f"{layout.grid[0]} x {layout.grid[1]} patches, {layout.width} wide; take prompts that were trained with this tower"
        )
    keep = foreground_patches(masks, layout.patch)

    def replace_at_embedding(_module: nn.Module, _inputs: object, tokens: Tensor) -> Tensor:
        prompt = prompts[0].to(tokens.dtype)
        if tokens.ndim == 4:  # [B, W, rows, columns], as a convolution gives them
            return torch.where(keep.view(-1, 1, *layout.grid), tokens, prompt.T.reshape(1, -1, *layout.grid))
        return torch.where(keep[..., None], tokens, prompt)

    def replace_after_block(prompt: Tensor, tokens: Tensor) -> Tensor:
        patches = torch.where(keep[..., None], tokens[:, layout.prefix :], prompt.to(tokens.dtype))
        return torch.cat([tokens[:, : layout.prefix], patches], dim=1)

    handles = [layout.embed.register_forward_hook(replace_at_embedding)]
    handles += [
        block.register_forward_hook(lambda _module, _inputs, tokens, prompt=prompt: replace_after_block(prompt, tokens))
        for block, prompt in zip(layout.blocks, prompts[1:], strict=False)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_depth(depth: int, layout: VitLayout) -> None:
    if not 1 <= depth <= len(layout.blocks):
        raise OvsegError(
            f"prompts of depth {depth}: the depth must be 1 to {len(layout.blocks)}, the number of blocks of the image tower"
        )
