"""THE crop recipe (paper 3.2 and appendix): tight box, background filled, squashed to the model's input.

One set of functions for mining, shards, training and inference, so that CLIP sees the same thing everywhere:
`cut` (box out of the image) -> `fill` (background to one colour) -> `fit` (square, uint8) -> `normalise` (floats).
Training has `jitter` before `fit`.
Shapes: H, W image; h, w box; S model input; N crops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.core.images import ImageArray
from ovseg.core.masks import Box, MaskArray

Fill = Literal["mean", "zero", "keep"]


def cut(image: ImageArray, mask: MaskArray, box: Box) -> tuple[ImageArray, MaskArray]:
    """The part of an image `[H, W, 3]` and of its mask `[H, W]` inside a box (x, y, width, height), at full size."""
    x, y, width, height = box
    return image[y : y + height, x : x + width], mask[y : y + height, x : x + width]


def fill_colour(fill: Fill, mean: Sequence[float]) -> ImageArray | None:
    """The uint8 colour `[3]` that stands for "blank": CLIP's mean (0 after normalisation), black, or None to keep.

    Args:
        fill: "mean" (SimBaseline's and OVSeg's choice), "zero" or "keep".
        mean: the model's normalisation mean, channels in [0, 1].
    """
    if fill == "keep":
        return None
    return np.round(255 * np.asarray(mean)).astype(np.uint8) if fill == "mean" else np.zeros(3, np.uint8)


def fill_background(crop: ImageArray, mask: MaskArray, colour: ImageArray | None) -> ImageArray:
    """The crop `[h, w, 3]` with every pixel outside the mask `[h, w]` set to `colour`; unchanged if that is None."""
    if colour is None:
        return crop
    return np.where(mask[..., None], crop, colour)


def jitter(crop: ImageArray, mask: MaskArray, scale: float, rng: np.random.Generator) -> tuple[ImageArray, MaskArray]:
    """A random part of a crop `[h, w, 3]` and of its mask, for training (paper A.4's RandomResizedCrop, without resizing).

    Args:
        crop, mask: what `cut` gave.
        scale: the part covers `scale` to 1 of the crop and changes its aspect by up to 4 / 3; a side that would be longer
            than the crop's is cut to it, so that the share can be a little less.
        rng: source of the choice.

    Returns:
        views of both; the whole crop where the part would hold no foreground.
    """
    height, width = mask.shape
    share, aspect = rng.uniform(scale, 1), math.exp(rng.uniform(-1, 1) * math.log(4 / 3))
    h, w = (
        max(1, round(side * min(1, math.sqrt(part))))
        for side, part in ((height, share / aspect), (width, share * aspect))
    )
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    inside = mask[y : y + h, x : x + w]
    return (crop[y : y + h, x : x + w], inside) if inside.any() else (crop, mask)


def fit(crop: ImageArray, mask: MaskArray, size: int, antialias: bool) -> tuple[Tensor, Tensor]:
    """Squash a filled crop and its mask to the model's input; the aspect is not kept (reference, appendix).

    Args:
        crop: uint8 `[h, w, 3]`, h and w >= 1.
        mask: bool `[h, w]`.
        size: S, the side of the model's input in pixels.
        antialias: False is the reference's bicubic, which skips pixels when it shrinks.

    Returns:
        uint8 `[3, S, S]` (bicubic) and bool `[S, S]` (nearest).
    """
    pixels = torch.from_numpy(np.require(crop, requirements=["C", "W"])).permute(2, 0, 1)[None]
    inside = torch.from_numpy(np.require(mask, requirements=["C", "W"])).to(torch.uint8)[None, None]
    pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=antialias)
    inside = F.interpolate(inside, (size, size), mode="nearest")
    return pixels[0].contiguous(), inside[0, 0].bool()


def normalise(crops: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 `[N, 3, S, S]` to floats, (x / 255 - mean) / std by channel, on the device and in the type of `mean`."""
    scale, shift = 1 / (255 * std), -mean / std
    return crops.to(mean) * scale[:, None, None] + shift[:, None, None]


def region(
    image: ImageArray, mask: MaskArray, box: Box, size: int, colour: ImageArray | None, antialias: bool
) -> tuple[Tensor, Tensor]:
    """The whole recipe for one region of an image: uint8 `[3, S, S]` and bool `[S, S]`. See the single steps."""
    crop, inside = cut(image, mask, box)
    return fit(fill_background(crop, inside, colour), inside, size, antialias)
