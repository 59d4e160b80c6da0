"""Which class was taken for which, in integers. N images, K classes, H, W picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def confusion(
    truth: NDArray[np.unsignedinteger], guess: NDArray[np.integer], classes: int, ignore: int
) -> tuple[Ints, Ints]:
    """Count the pixels of an image by true and guessed class.

    Maps are made of regions: it is runs of equal pairs that are counted, of which there are hundreds of times fewer than
    pixels (benchmarks/evaluator.py).

    Args:
        truth: classes, or `ignore` where nothing is scored, `[H, W]`.
        guess: classes 0 to K `[H, W]`; K is none of the classes ("others").
        classes: K.
        ignore: number of pixels that are not scored.

    Returns:
        cells (truth * (K + 1) + guess) that occur, ascending, and how many pixels each has.
    """
    kind = np.uint16 if max(int(truth.max(initial=0)), classes) < 2**8 else np.uint32
    shift = 8 * np.dtype(kind).itemsize // 2
    pairs: NDArray[Any] = truth.astype(kind).ravel()
    np.left_shift(pairs, kind(shift), out=pairs)
    np.bitwise_or(pairs, guess.astype(kind).ravel(), out=pairs)
    starts = np.concatenate([[0], np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])
    lengths = np.diff(starts, append=len(pairs))
    first = pairs[starts].astype(np.int64)
    of_truth, of_guess = first >> shift, first & ((1 << shift) - 1)
    scored = of_truth != ignore
    cells, place = np.unique(of_truth[scored] * (classes + 1) + of_guess[scored], return_inverse=True)
    return cells, np.bincount(place, lengths[scored], len(cells)).astype(np.int64)


@dataclass(frozen=True)
class Totals:
    """What both rules of mIoU need of some images, int64 `[N, K]`: pixels that are right, true, and guessed, by class."""

    right: Ints
    true: Ints
    guessed: Ints

    def sum(self) -> Totals:
        """All images as one."""
        return Totals(*(part.sum(0, keepdims=True) for part in (self.right, self.true, self.guessed)))


def totals(cells: list[Ints], pixels: list[Ints], classes: int) -> Totals:
    """The totals of images from what `confusion` gave for each."""
    right, true, guessed = (np.zeros((len(cells), classes + 1), np.int64) for _ in range(3))
    for i, (cell, number) in enumerate(zip(cells, pixels, strict=True)):
        truth, guess = np.divmod(cell, classes + 1)
        np.add.at(true[i], truth, number)
        np.add.at(guessed[i], guess, number)
        np.add.at(right[i], truth[truth == guess], number[truth == guess])
    return Totals(right[:, :classes], true[:, :classes], guessed[:, :classes])
