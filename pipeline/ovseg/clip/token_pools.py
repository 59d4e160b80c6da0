"""How tokens become one vector for each region: the tower's own pooling, limited to the tokens that the region sees.

A region that sees all tokens has what the tower makes of the whole image.

Shapes: B images, Q regions, T tokens, W tower width, E width of the pooled vectors, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import AttentionalPooler
from torch import Tensor, nn


def mean_pool(tokens: Tensor, visible: Tensor) -> Tensor:
    """Average tokens.

    Args:
        tokens: `[B, T, W]`.
        visible: which tokens each region sees, bool `[B, Q, T]`.

    Returns:
        `[B, Q, W]`; zeros for a region that sees none.
    """
    weights = visible.to(tokens.dtype)
    return weights @ tokens / weights.sum(-1, keepdim=True).clamp(min=1)


def probe_pool(pool: Any, tokens: Tensor, visible: Tensor) -> Tensor:
    """Pool tokens by the attention of one learned probe, as SigLIP does (timm's `AttentionPoolLatent` of one latent).

    Args:
        pool: the tower's pooling, see `has_probe`.
        tokens: `[B, T, W]`.
        visible: which tokens each region's probe attends to, bool `[B, Q, T]`.

    Returns:
        `[B, Q, E]`; for a region that sees no token what the pooling makes of an attention of zeros.
    """
    keys, values = pool.kv(tokens).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T, d]
    probe = pool.q_norm(pool.q(pool.latent).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2))  # [1, heads, 1, d]
    probes = probe.expand(len(tokens), -1, visible.shape[1], -1)
    sees_any = visible.any(-1, keepdim=True)
    mask = (visible | ~sees_any)[:, None]  # the softmax of no score at all is not a number
    attended = F.scaled_dot_product_attention(probes, pool.k_norm(keys), values, attn_mask=mask)
    pooled: Tensor = pool.proj_drop(pool.proj(attended.transpose(1, 2).flatten(2) * sees_any))
    if pool.mlp is not None:
        pooled = pooled + pool.mlp(pool.norm(pooled))
    return pooled


def has_probe(pool: nn.Module | None) -> bool:
    """Whether a pooling of timm is the attention of one probe to tokens without positions of their own."""
    from timm.layers.attention_pool import AttentionPoolLatent

    if not isinstance(pool, AttentionPoolLatent):
        return False
    return pool.latent_len == 1 and pool.pos_embed is None and pool.pool in ("token", "avg")


def first_query_pool(pool: AttentionalPooler, tokens: Tensor, visible: Tensor) -> Tensor:
    """Pool tokens by the attention of the first of many learned queries, as CoCa of open_clip does for its embedding.

    Args:
        pool: the tower's pooling.
        tokens: `[B, T, W]`.
        visible: which tokens each region's query attends to, bool `[B, Q, T]`, at least one.

    Returns:
        `[B, Q, E]`.
    """
    keys = pool.ln_k(tokens)
    queries = pool.ln_q(pool.query[:1]).expand(*visible.shape[:2], -1)
    # torch's attention takes one mask for each image and head, in one dimension
    hidden = ~visible.repeat_interleave(pool.attn.num_heads, dim=0)
    pooled: Tensor = pool.attn(queries.to(keys.dtype), keys, keys, attn_mask=hidden, need_weights=False)[0]
    return pooled
