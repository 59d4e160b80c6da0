"""What CLIP is shown of each proposal: the crop recipe, and the neighbours' variants of it.

Shapes: Q proposals, V of them valid, S CLIP's input, H, W image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ovseg.core import crops, masks
from ovseg.core.images import ImageArray

View = Literal["crop-and-mask", "crop", "mask"]
"""The box with its background blank (SimBaseline, OVSeg), the box as it is, or the whole image with the rest blank (the last
two: ZegFormer's variants)."""


@dataclass(frozen=True)
class Regions:
    """The valid proposals as CLIP sees them.

    Attributes:
        crop: uint8 `[V, 3, S, S]`.
        mask: bool `[V, S, S]`.
        valid: which proposals they are, bool `[Q]`.
        rles: the binary mask of each proposal, as compressed RLE; None for one without a pixel.
    """

    crop: Tensor
    mask: Tensor
    valid: Tensor
    rles: tuple[bytes | None, ...]


def threads(number: int | None = None) -> ThreadPoolExecutor:
    """Threads that cut, as many as there are cores by default; torch's own threads are left to the encoder."""
    return ThreadPoolExecutor(number or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))


def crop_regions(
    pixels: ImageArray,
    rles: Sequence[bytes | None],
    *,
    size: int,
    mean: Sequence[float],
    fill: crops.Fill,
    antialias: bool,
    view: View,
    pool: Executor,
) -> Regions:
    """Cut the regions of some masks out of an image.

    Args:
        pixels: uint8 `[H, W, 3]`.
        rles: Q masks of the image; None for an empty one.
        size: S.
        mean: CLIP's normalisation mean, for the fill colour.
        fill, antialias: of the crop recipe.
        view: see `View`.
        pool: threads that crop.
    """
    height, width = pixels.shape[:2]
    colour = crops.fill_colour("keep" if view == "crop" else fill, mean)

    def one(rle: bytes) -> tuple[Tensor, Tensor]:
        mask = masks.decode(rle, height, width)
        box = (0, 0, width, height) if view == "mask" else masks.box(rle, height, width)
        crop, inside = crops.crop_region(pixels, mask, box, size, colour, antialias)
        return crop, torch.ones_like(inside) if view == "crop" else inside  # nothing is blank there: no prompts

    cut = list(pool.map(one, [rle for rle in rles if rle is not None]))
    return Regions(
        torch.stack([crop for crop, _ in cut]) if cut else torch.zeros(0, 3, size, size, dtype=torch.uint8),
        torch.stack([mask for _, mask in cut]) if cut else torch.zeros(0, size, size, dtype=torch.bool),
        torch.tensor([rle is not None for rle in rles], dtype=torch.bool),
        tuple(rles),
    )
