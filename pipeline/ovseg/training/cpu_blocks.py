"""The blocks of a ViT that is trained on a CPU: the same arithmetic, with fewer passes over the activations.

Under autocast, open_clip's blocks copy activations to float32 and back around each normalization, and torch's attention copies
and transposes them several times. Here normalizations read and write the data type of the tokens (inside, they compute in
float32), and attention is two batched products around a softmax, whose backward is faster here than that of the fused kernel.
Measured in docs/speed.md. `clip.cpu_blocks` is for towers that learn nothing.

Shapes: N images, T tokens, W tower width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg.clip.cpu_blocks import is_standard_block, normalized


@contextmanager
def trainable_cpu_blocks(visual: nn.Module, device: torch.device) -> Iterator[None]:
    """Let an image tower run on these blocks in this context; elsewhere than on a CPU, and with other blocks, it runs as it is.

    Args:
        visual: an image tower of open_clip; gradients reach its weights.
        device: where it is.
    """
    blocks: list[Any] = []
    if device.type == "cpu" and isinstance(visual, VisionTransformer) and visual.transformer.batch_first:
        blocks = [block for block in visual.transformer.resblocks if is_standard_block(block)]
    for block in blocks:
        block.forward = partial(run_block, block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def run_block(block: Any, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Run a block of open_clip, see `is_standard_block`, in the data type of autocast, or else of the tokens.

    Args:
        block: the block.
        tokens: `[N, T, W]`.
        attn_mask: added to the attention scores, `[N * heads, T, T]`; None for no mask. Each token sees one at least.

    Returns:
        tokens `[N, T, W]`; gradients reach the weights, the tokens and the mask.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tokens.dtype
    with torch.autocast("cpu", enabled=False):
        tokens = tokens.to(dtype)
        tokens = tokens + _attend(block.attn, normalized(block.ln_1, tokens), attn_mask)
        hidden = block.mlp.gelu(_linear(normalized(block.ln_2, tokens), block.mlp.c_fc.weight, block.mlp.c_fc.bias))
        return tokens + _linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias)


def _attend(attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor | None) -> Tensor:
    images, length, width = tokens.shape
    heads = attention.num_heads
    shape = (images * heads, length, width // heads)
    assert attention.in_proj_weight is not None
    qkv = _linear(tokens, attention.in_proj_weight, attention.in_proj_bias).view(images, length, 3, heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).reshape(3, *shape)
    scores = torch.bmm(query * shape[-1] ** -0.5, key.transpose(1, 2))
    weights = (scores if mask is None else scores + mask.to(scores.dtype)).softmax(-1)
    attended = torch.bmm(weights, value).view(images, heads, length, -1).transpose(1, 2).reshape(tokens.shape)
    return _linear(attended, attention.out_proj.weight, attention.out_proj.bias)


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(inputs, weight.to(inputs.dtype), bias.to(inputs.dtype))
