"""The blocks of a frozen ViT on a CPU: the same arithmetic, with packed weights and fused passes over the activations.

torch lays a weight out anew for the processor's matrix units in every product, passes over the activations once more for GELU
and for each residual, and open_clip copies them to float32 and back around each normalization. Here weights are laid out once,
GELU and residuals are part of the product before them, and attention takes its fused kernel. In bfloat16 a ViT-B/16 is 1.2
times as fast as with open_clip's own blocks, and a ViT of six blocks of width 192 2.3 times; embeddings keep a cosine of 0.9996
or more with those of float32 (`python -m benchmarks encoder`, docs/speed.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

Forward = Callable[..., Tensor]


class PackedBlocks:
    """Packed copies of the blocks of an image tower, which take their place while crops are encoded.

    They are packed with the first crop, and again when the weights have changed. Towers of other kinds, and processors that
    oneDNN has no such product for, run as they are.

    Args:
        visual: an image tower of open_clip on the CPU.
    """

    def __init__(self, visual: nn.Module) -> None:
        transformer: Any = visual.transformer if isinstance(visual, VisionTransformer) else None
        blocks = list(transformer.resblocks) if transformer is not None and transformer.batch_first else []
        self.blocks: list[Any] = blocks if all(map(is_standard_block, blocks)) else []
        self._forwards: list[Forward] = []
        self._versions: list[int] = []
        self._lock = threading.Lock()  # several threads may encode with one model, and the blocks are the model's own

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the tower run on the packed blocks in this context; others wait."""
        with self._lock:
            versions = [_version(p) for block in self.blocks for p in block.parameters()]
            if versions != self._versions:
                self._forwards, self._versions = _pack_all(self.blocks), versions
            for block, forward in zip(self.blocks, self._forwards, strict=False):
                block.forward = forward
            try:
                yield
            finally:
                for block in self.blocks[: len(self._forwards)]:
                    del block.forward


def _version(parameter: Tensor) -> int:
    """A number that grows with each change of a tensor in place."""
    return 0 if parameter.is_inference() else parameter._version


def is_standard_block(block: Any) -> bool:
    """Whether a block is attention and a two-layer perceptron with biases, each behind a normalization, and nothing else."""
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention, activation = block.attn, block.mlp.gelu
    return bool(
        attention.in_proj_bias is not None
        and attention.dropout == 0
        and isinstance(block.ls_1, nn.Identity)
        and isinstance(block.ls_2, nn.Identity)
        and isinstance(activation, (nn.GELU, QuickGELU))
    )


def _pack_all(blocks: list[Any]) -> list[Forward]:
    """The packed forward of each block; none if a trial run fails."""
    try:
        forwards = [_packed_forward(block) for block in blocks]
        if blocks:
            weight = blocks[0].mlp.c_fc.weight
            forwards[0](torch.zeros(1, 2, weight.shape[1], dtype=weight.dtype))
    except (RuntimeError, AttributeError, NotImplementedError):  # oneDNN has no such product here
        return []
    return forwards


def _packed_forward(block: Any) -> Forward:
    """The function of a block, of tokens `[N, T, W]` in the data type of its weights; others are left to the block itself."""
    attention, mlp = block.attn, block.mlp
    heads, width, dtype = attention.num_heads, attention.embed_dim, mlp.c_fc.weight.dtype
    project_qkv = _packed_linear(attention.in_proj_weight, attention.in_proj_bias)
    project_out = _packed_linear(attention.out_proj.weight, attention.out_proj.bias)
    expand, shrink = (_packed_linear(layer.weight, layer.bias) for layer in (mlp.c_fc, mlp.c_proj))
    gelu = None if isinstance(mlp.gelu, QuickGELU) else mlp.gelu.approximate

    def forward(tokens: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Tensor | None = None) -> Tensor:
        if k_x is not None or v_x is not None or attn_mask is not None or tokens.dtype != dtype:
            return ResidualAttentionBlock.forward(block, tokens, k_x, v_x, attn_mask)  # type: ignore[no-any-return]
        number, length = tokens.shape[:2]
        qkv = project_qkv(normalized(block.ln_1, tokens)).view(number, length, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(number, length, width)
        tokens = project_out(attended, add=tokens)
        hidden = expand(normalized(block.ln_2, tokens), gelu=gelu)
        if gelu is None:
            hidden = torch.sigmoid(1.702 * hidden).mul_(hidden)
        return shrink(hidden, add=tokens)

    return forward


def normalized(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    """Normalize tokens `[..., W]` in their own data type, without the copies of open_clip's layer under autocast."""
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _packed_linear(weight: Tensor, bias: Tensor) -> Callable[..., Tensor]:
    """`F.linear` with a weight that is laid out once, and optionally GELU or a sum after it.

    Args:
        weight: `[out, in]`.
        bias: `[out]`.
    """
    product = torch.ops.mkldnn._linear_pointwise
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def linear(inputs: Tensor, *, gelu: str | None = None, add: Tensor | None = None) -> Tensor:
        if add is not None:
            return product.binary(inputs, add, packed, bias, "add")  # type: ignore[no-any-return]
        if gelu is not None:
            return product(inputs, packed, bias, "gelu", [], gelu)  # type: ignore[no-any-return]
        return product(inputs, packed, bias, "none", [], "")  # type: ignore[no-any-return]

    return linear
