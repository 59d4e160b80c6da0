"""The contrastive loss between masked crops and nouns. Shapes: G pairs of the global batch, D joint width."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Loss = Literal["multi_positive", "info_nce"]


def contrastive(crops: Tensor, texts: Tensor, noun_ids: Tensor, scale: Tensor, loss: Loss) -> Tensor:
    """Symmetric cross-entropy over the similarities of all crops and all texts of a batch (paper 3.2, CLIP's loss).

    Args:
        crops, texts: unit vectors `[G, D]`, row i of both is one pair.
        noun_ids: int64 `[G]`.
        scale: logit scale, the factor that cosines are multiplied with.
        loss: "info_nce", the paper's: the partner alone is right, so another crop of the same noun counts as wrong;
            "multi_positive": every pair of the same noun is right, in equal parts.

    Returns:
        a scalar; for "multi_positive" its least possible value is above 0 where nouns repeat.
    """
    logits = scale * crops @ texts.T
    if loss == "info_nce":
        target = torch.eye(len(crops), device=crops.device)
    else:
        same = (noun_ids[:, None] == noun_ids).float()
        target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
