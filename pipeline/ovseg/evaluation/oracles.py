"""The paper's two oracles (1, A.1): true masks named by CLIP, and proposals named by the truth. K classes, H, W image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.core import masks


def gt_masks(labels: NDArray[np.integer], ignore: int) -> tuple[list[int], list[bytes]]:
    """The classes in a map of labels `[H, W]`, and the mask of each as RLE."""
    classes = [int(value) for value in np.unique(labels) if value != ignore]
    return classes, [masks.encode(labels == value) for value in classes]


def relabel(
    labels: NDArray[np.integer], classes: Sequence[int], guesses: Sequence[int], none: int
) -> NDArray[np.uint16]:
    """The map that results if each true class is called what was guessed; `none` elsewhere."""
    table: NDArray[np.uint16] = np.full(int(labels.max(initial=0)) + 1, none, np.uint16)
    table[list(classes)] = guesses
    return np.asarray(table[labels])


def oracle_scores(rles: Sequence[bytes | None], labels: NDArray[np.integer], ignore: int, number: int) -> Tensor:
    """One-hot scores: each proposal is of the class whose true mask it overlaps most, by intersection over union.

    Args:
        rles: Q proposals; None for an empty one.
        labels: the truth `[H, W]`.
        ignore: number of pixels that are not scored; they do not count in a proposal either.
        number: K.

    Returns:
        float64 `[Q, K]`; 0 for a proposal that overlaps nothing.
    """
    height, width = labels.shape
    scored = labels != ignore
    true = np.bincount(labels[scored], minlength=number)
    scores = torch.zeros(len(rles), number, dtype=torch.float64)
    for i, rle in enumerate(rles):
        if rle is None:
            continue
        shared = np.bincount(labels[masks.decode(rle, height, width) & scored], minlength=number)
        iou = shared / np.maximum(true + shared.sum() - shared, 1)
        if shared.any():
            scores[i, int(iou.argmax())] = 1.0
    return scores
