"""Which class was taken for which, in integers. N images, K classes, H, W image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def confusion(
    truth: NDArray[np.unsignedinteger], guess: NDArray[np.integer], classes: int, ignore: int
) -> tuple[IntArray, IntArray]:
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
    starts = _starts(truth.ravel(), guess.ravel())
    lengths = np.empty(len(starts))
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = truth.size - starts[-1]
    rows = np.minimum(truth.take(starts), classes).astype(np.int64)  # what is ignored may be 65535
    guessed, columns = _few(guess.take(starts))
    pixels = np.bincount(rows * len(guessed) + columns, lengths, (classes + 1) * len(guessed)).astype(np.int64)
    pixels.reshape(classes + 1, -1)[min(ignore, classes)] = 0
    found = np.flatnonzero(pixels)
    return found // len(guessed) * (classes + 1) + guessed[found % len(guessed)], pixels[found]


def _starts(truth: NDArray[np.integer], guess: NDArray[np.integer]) -> IntArray:
    """Where a run of equal pairs begins, int64."""
    begins = np.empty(truth.size + -truth.size % 8, bool)
    begins[0], begins[truth.size :] = True, False
    inner = begins[1 : truth.size]
    np.not_equal(truth[1:], truth[:-1], out=inner)
    inner |= guess[1:] != guess[:-1]
    # most eights are 0: looking for the others first is twice as fast as np.flatnonzero(begins)
    eights = begins.view(np.uint64)
    some = np.flatnonzero(eights != 0)
    within = np.flatnonzero(eights[some].view(bool))
    starts: IntArray = some[within >> 3] * 8 + (within & 7)
    return starts


def _few(values: NDArray[np.integer]) -> tuple[IntArray, IntArray]:
    """The values that occur, ascending, and the place of each among them; of few small numbers, so without sorting."""
    there = np.bincount(values) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1).take(values)


@dataclass(frozen=True)
class Totals:
    """What both rules of mIoU need of some images, int64 `[N, K]`: pixels that are right, true, and guessed, by class."""

    right: IntArray
    true: IntArray
    guessed: IntArray

    def sum(self) -> Totals:
        """All images as one."""
        return Totals(*(part.sum(0, keepdims=True) for part in (self.right, self.true, self.guessed)))


def totals(cells: list[IntArray], pixels: list[IntArray], classes: int) -> Totals:
    """The totals of images from what `confusion` gave for each."""
    right, true, guessed = (np.zeros((len(cells), classes + 1), np.int64) for _ in range(3))
    for i, (cell, number) in enumerate(zip(cells, pixels, strict=True)):
        truth, guess = np.divmod(cell, classes + 1)
        np.add.at(true[i], truth, number)
        np.add.at(guessed[i], guess, number)
        np.add.at(right[i], truth[truth == guess], number[truth == guess])
    return Totals(right[:, :classes], true[:, :classes], guessed[:, :classes])
