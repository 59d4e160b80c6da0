"""What CLIP encodes of each proposal: the crop recipe, and ZegFormer's variants of it.

Shapes: Q proposals, V valid ones among them, S side of CLIP's input, H, W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.regions import masks_on_grid, whole_image, with_cells
from ovseg.core import crops, masks
from ovseg.core.images import ImageArray
from ovseg.core.options import Fill, View


@dataclass(frozen=True)
class RegionCrops:
    """The proposals of an image as CLIP encodes them.

    Attributes:
        crops: uint8 `[V, 3, S, S]`; for a CLIP that encodes regions in one pass the whole image, `[1, 3, S, S]`.
        masks: bool `[V, S, S]`; for one pass the masks on its grid, float32 `[V, g, g]`, and behind them, for a CLIP with
            pseudo-texts, each of the C cells alone, `[V + C, g, g]`.
        valid: bool `[Q]`, which proposals have a pixel, and so a crop.
        rles: the binary mask of each of the Q proposals as compressed RLE; None for one without a pixel.
    """

    crops: Tensor
    masks: Tensor
    valid: Tensor
    rles: tuple[bytes | None, ...]


def crop_regions(
    pixels: ImageArray,
    rles: Sequence[bytes | None],
    *,
    size: int,
    mean: Sequence[float],
    fill: Fill,
    antialias: bool,
    view: View,
    pool: Executor,
) -> RegionCrops:
    """Crop the regions of an image.

    Args:
        pixels: uint8 `[H, W, 3]`.
        rles: the masks of Q proposals; None for an empty one.
        size: S.
        mean: CLIP's normalization mean of each channel, in [0, 1], for the fill color.
        fill: the background of a crop, see `crops.fill_color`.
        antialias: see `crops.resize`.
        view: "crop-and-mask" is the box with its background filled (SimBaseline, OVSeg); "crop" is the box as it is, and "mask"
            the whole image with the background filled (both are variants of ZegFormer).
        pool: the threads that crop.
    """
    height, width = pixels.shape[:2]
    color = crops.fill_color("keep" if view == "crop" else fill, mean)

    def crop(rle: bytes) -> tuple[Tensor, Tensor]:
        mask = masks.decode(rle, height, width)
        box = (0, 0, width, height) if view == "mask" else masks.box(rle, height, width)
        region, region_mask = crops.crop_region(pixels, mask, box, size, color, antialias)
        # An unmasked crop has no blank patch, so mask prompts must not replace any.
        return region, torch.ones_like(region_mask) if view == "crop" else region_mask

    cropped = list(pool.map(crop, [rle for rle in rles if rle is not None]))
    return RegionCrops(
        torch.stack([region for region, _ in cropped]) if cropped else torch.zeros(0, 3, size, size, dtype=torch.uint8),
        torch.stack([mask for _, mask in cropped]) if cropped else torch.zeros(0, size, size, dtype=torch.bool),
        torch.tensor([rle is not None for rle in rles], dtype=torch.bool),
        tuple(rles),
    )


def whole_image_regions(clip: Clip, pixels: ImageArray, rles: Sequence[bytes | None]) -> RegionCrops:
    """Prepare an image and its regions for a CLIP that encodes them in one pass.

    Args:
        clip: the CLIP.
        pixels: uint8 `[H, W, 3]`.
        rles: the masks of Q proposals; None for an empty one.
    """
    height, width = pixels.shape[:2]
    on_grid = masks_on_grid(clip, (masks.decode(rle, height, width) for rle in rles if rle is not None))
    if clip.pseudo_text is not None:
        on_grid = with_cells(on_grid)
    valid = torch.tensor([rle is not None for rle in rles], dtype=torch.bool)
    return RegionCrops(whole_image(clip, pixels)[None], on_grid, valid, tuple(rles))
