"""THE crop recipe (paper 3.2 and appendix): tight box, background filled, resized to the model's square input.

One set of functions for mining, shards, training and inference, so that CLIP receives the same pixels everywhere:
`crop_to_box` -> `fill_background` -> `resize` (uint8) -> `normalize` (floats). Training calls `random_crop` before `resize`.

Shapes: H, W image; h, w box; S side of the model's input; N crops.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.core.images import ImageArray
from ovseg.core.masks import Box, MaskArray
from ovseg.core.options import Fill

MAX_THREADS = 4


def crop_threads(number: int | None = None) -> ThreadPoolExecutor:
    """Start threads that crop.

    Each limits torch to itself, since the cores are the encoder's; other threads keep the number that is set now. Half of a
    crop is work of pycocotools and NumPy that holds Python's lock, so that many threads take longer than a few.

    Args:
        number: of threads; at most `MAX_THREADS` are started. None for one per core.
    """
    threads = min(MAX_THREADS, number or os.cpu_count() or 1)
    return ThreadPoolExecutor(threads, initializer=_use_one_thread, initargs=(torch.get_num_threads(),))


def _use_one_thread(of_others: int) -> None:
    """Limit torch in this thread alone: what a thread sets is also the number of all threads that use torch later on."""
    torch.get_num_threads()  # from now on this thread does not take over the number that another one sets
    torch.set_num_threads(1)
    restore = threading.Thread(target=torch.set_num_threads, args=(of_others,))
    restore.start()
    restore.join()


def crop_to_box(image: ImageArray, mask: MaskArray, box: Box) -> tuple[ImageArray, MaskArray]:
    """Cut the same box out of an image and its mask, without resizing.

    Args:
        image: uint8 `[H, W, 3]`.
        mask: bool `[H, W]`.
        box: x, y, width and height in pixels.

    Returns:
        views `[h, w, 3]` and `[h, w]` of both.
    """
    x, y, width, height = box
    return image[y : y + height, x : x + width], mask[y : y + height, x : x + width]


def fill_color(fill: Fill, mean: Sequence[float]) -> ImageArray | None:
    """Return the color that replaces the background of a crop.

    Args:
        fill: "mean" is the color that becomes 0 after normalization (the choice of SimBaseline and OVSeg), "zero" is
            black, "keep" leaves the background as it is.
        mean: the mean of the model's normalization for each channel, in [0, 1].

    Returns:
        uint8 `[3]`, or None for "keep".
    """
    if fill == "keep":
        return None
    return np.round(255 * np.asarray(mean)).astype(np.uint8) if fill == "mean" else np.zeros(3, np.uint8)


def fill_background(crop: ImageArray, mask: MaskArray, color: ImageArray | None) -> ImageArray:
    """Set every pixel outside the mask to one color.

    Args:
        crop: uint8 `[h, w, 3]`.
        mask: bool `[h, w]`, True is foreground.
        color: uint8 `[3]`; None returns the crop unchanged. See `fill_color`.
    """
    if color is None:
        return crop
    filled, background = crop.copy(), ~mask
    for channel, value in enumerate(color):  # one by one: a quarter of the time of np.where over all three
        filled[..., channel][background] = value
    return filled


def random_crop(
    crop: ImageArray, mask: MaskArray, scale: float, rng: np.random.Generator
) -> tuple[ImageArray, MaskArray]:
    """Cut a random part out of a crop and its mask, for training: RandomResizedCrop (paper A.4) without its resizing.

    Args:
        crop: uint8 `[h, w, 3]`, as `crop_to_box` returns it.
        mask: bool `[h, w]`.
        scale: smallest fraction of the crop's area, in (0, 1]; the largest is 1. The aspect ratio changes by a factor of up
            to 4 / 3, and a side that would be longer than the crop's is clipped to it, so the area can become a
            little smaller than `scale`.
        rng: source of the random choice.

    Returns:
        views of both; the whole crop if the part would contain no foreground.
    """
    height, width = mask.shape
    fraction, aspect = rng.uniform(scale, 1), math.exp(rng.uniform(-1, 1) * math.log(4 / 3))
    h, w = (
        max(1, round(side * min(1, math.sqrt(part))))
        for side, part in ((height, fraction / aspect), (width, fraction * aspect))
    )
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    mask_part = mask[y : y + h, x : x + w]
    return (crop[y : y + h, x : x + w], mask_part) if mask_part.any() else (crop, mask)


def resize(crop: ImageArray, mask: MaskArray, size: int, antialias: bool) -> tuple[Tensor, Tensor]:
    """Resize a filled crop and its mask to the model's square input; the aspect ratio is not kept (paper, appendix).

    Args:
        crop: uint8 `[h, w, 3]`, h and w at least 1.
        mask: bool `[h, w]`.
        size: S, the side of the model's input in pixels.
        antialias: False is the reference's bicubic interpolation, which skips pixels when it shrinks an image.

    Returns:
        uint8 `[3, S, S]` (bicubic) and bool `[S, S]` (nearest).
    """
    pixels = torch.from_numpy(np.require(crop, requirements=["C", "W"])).permute(2, 0, 1)[None]
    inside = torch.from_numpy(np.require(mask, requirements=["C", "W"])).to(torch.uint8)[None, None]
    pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=antialias)
    inside = F.interpolate(inside, (size, size), mode="nearest")
    return pixels[0].contiguous(), inside[0, 0].bool()


def normalize(crops: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert crops to the model's floats: (x / 255 - mean) / std for each channel.

    Args:
        crops: uint8 `[N, 3, S, S]`.
        mean: float `[3]`, channels in [0, 1]; the result has its device and dtype.
        std: float `[3]`.

    Returns:
        float `[N, 3, S, S]`.
    """
    scale, shift = 1 / (255 * std), -mean / std
    return crops.to(mean) * scale[:, None, None] + shift[:, None, None]


def crop_region(
    image: ImageArray, mask: MaskArray, box: Box, size: int, color: ImageArray | None, antialias: bool
) -> tuple[Tensor, Tensor]:
    """Apply the recipe to one region of an image: `crop_to_box`, `fill_background` and `resize`.

    Args:
        image: uint8 `[H, W, 3]`.
        mask: bool `[H, W]`, True is foreground.
        box: x, y, width and height in pixels, as `masks.box` returns it.
        size: S, the side of the model's input in pixels.
        color: uint8 `[3]`, see `fill_color`; None keeps the background.
        antialias: see `resize`.

    Returns:
        the crop, uint8 `[3, S, S]`, and its mask, bool `[S, S]`.
    """
    crop, crop_mask = crop_to_box(image, mask, box)
    return resize(fill_background(crop, crop_mask, color), crop_mask, size, antialias)
