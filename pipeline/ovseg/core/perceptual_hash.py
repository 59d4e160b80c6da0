"""A perceptual hash: 63 bits that stay nearly the same if an image is encoded again, resized, brightened or slightly cropped.

The bits are the signs of the lowest frequencies of the gray image against their median (pHash). Mirroring an image changes the
sign of its odd horizontal frequencies, so the hash of the mirrored image comes with it at no cost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from ovseg.core.images import ImageArray

BITS = 63
SIDE, FREQUENCIES = 32, 8  # pixels that the image is reduced to, and frequencies of each direction that are compared
DIGITS = 3  # decimals of a frequency: of an image of one color all are 0, and so are its bits

Hashes = NDArray[np.uint64]


def perceptual_hashes(pixels: ImageArray) -> Hashes:
    """Return the hash of an image and that of its mirror image, uint64 `[2]`.

    Args:
        pixels: uint8 RGB `[H, W, 3]`; its aspect ratio does not count.
    """
    small = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    frequencies = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:FREQUENCIES, :FREQUENCIES]
    mirrored = frequencies * (-1.0) ** np.arange(FREQUENCIES)
    return np.array([_hash(frequencies), _hash(mirrored)], np.uint64)


def hash_distances(hashes: Hashes, others: Hashes) -> NDArray[np.uint8]:
    """Return the number of bits, 0 to `BITS`, in which hashes `[...]` differ from `others`, as numpy broadcasts both."""
    distances: NDArray[np.uint8] = np.bitwise_count(hashes ^ others)
    return distances


def _hash(frequencies: NDArray[np.float64]) -> np.uint64:
    """The bits of all frequencies but the first, which is the brightness."""
    values = np.round(frequencies.ravel()[1:], DIGITS)
    bits: Hashes = np.packbits(values > np.median(values)).view(np.uint64)
    return np.uint64(bits[0])
