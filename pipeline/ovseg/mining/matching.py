"""Which proposals of an image match a noun: the ranking by similarity, and masks that are duplicates of others.

Shapes: N nouns and Q proposals of an image, D width of CLIP's joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from ovseg.core import masks
from ovseg.core.vocabulary import LOGIT_SCALE

DIGITS = 5  # decimals of a similarity: later ones differ between processors, and would decide ranks


class Match(NamedTuple):
    """A noun and one of its proposals.

    Attributes:
        position: position of the proposal among the unlabeled ones of the image.
        similarity: cosine, in [-1, 1].
        margin: similarity minus that of the next best proposal; None for the last-ranked one. Duplicates count as separate
            proposals, so the margin between a mask and its duplicate is 0.
        p_proposal: softmax of the similarities over the image's proposals; like `p_noun` not calibrated for SigLIP, since
            the factor on similarities is 100 for every model.
        p_noun: softmax of the similarities over the image's nouns.
    """

    position: int
    similarity: float
    margin: float | None
    p_proposal: float
    p_noun: float


def rank(noun_embeddings: Tensor, region_embeddings: Tensor, top_k: int) -> list[list[Match]]:
    """Rank the proposals of an image for each of its nouns.

    Args:
        noun_embeddings: unit vectors of the nouns, float32 `[N, D]`.
        region_embeddings: unit vectors of the proposals, float32 `[Q, D]`; duplicates have a row each.
        top_k: how many matches to keep for a noun.

    Returns:
        for each noun its matches, best first. Equal similarities are in the order of the proposals.
    """
    similarity: NDArray[np.float64] = np.round((noun_embeddings @ region_embeddings.T).double().numpy(), DIGITS)
    p_proposal, p_noun = softmax(LOGIT_SCALE * similarity, axis=1), softmax(LOGIT_SCALE * similarity, axis=0)
    matches = []
    for n, row in enumerate(similarity):
        order = np.argsort(-row, kind="stable")
        margins = [*(row[order[:-1]] - row[order[1:]]).tolist(), None]
        matches.append(
            [
                Match(int(q), float(row[q]), margins[i], float(p_proposal[n, q]), float(p_noun[n, q]))
                for i, q in enumerate(order[:top_k])
            ]
        )
    return matches


def originals_of(rles: Sequence[bytes], height: int, width: int, duplicate_iou: float) -> list[int]:
    """Find for each mask of an image the earlier mask that it duplicates.

    Args:
        rles: compressed RLE of the masks.
        height, width: size of the image in pixels.
        duplicate_iou: a mask is a duplicate of an earlier one if their IoU is above it, in (0, 1]; 1 finds none.

    Returns:
        for each mask the position of the mask whose embedding stands for it; its own if it is no duplicate. The table
        `candidates` still lists both, as separate proposals.
    """
    if duplicate_iou >= 1:
        return list(range(len(rles)))
    iou = masks.iou_matrix(rles, height, width)
    originals: list[int] = []
    for i in range(len(rles)):
        originals.append(next((j for j in range(i) if originals[j] == j and iou[i, j] > duplicate_iou), i))
    return originals
