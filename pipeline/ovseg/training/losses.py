"""The contrastive loss between masked crops and nouns. Shapes: G pairs of the global batch, D joint width."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.core.options import Loss


def contrastive(crops: Tensor, texts: Tensor, noun_ids: Tensor, scale: Tensor, loss: Loss) -> Tensor:
    """Compute the symmetric cross-entropy over the similarities of all crops and all texts (paper 3.2, CLIP's loss).

    Args:
        crops: unit vectors `[G, D]`.
        texts: unit vectors `[G, D]`; row i belongs to crop i.
        noun_ids: the noun of each pair, int64 `[G]`.
        scale: the logit scale, a scalar that cosines are multiplied with.
        loss: "info_nce", the paper's: only the own text is a positive, so another crop of the same noun is a negative;
            "multi_positive": all pairs of the same noun are positives with equal weights.

    Returns:
        a scalar; the minimum of "multi_positive" is above 0 where nouns repeat.
    """
    logits = scale * crops @ texts.T
    if loss == "info_nce":
        target = torch.eye(len(crops), device=crops.device)
    else:
        same = (noun_ids[:, None] == noun_ids).float()
        target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
