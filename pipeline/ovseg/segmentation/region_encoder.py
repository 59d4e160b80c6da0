"""How a CLIP sees the regions of images, and their embeddings. Segmentation, evaluation and mask accuracy share it.

Shapes: H, W image, Q masks of it, V of them with a pixel, C cells of the image, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ovseg.clip.load import Clip
from ovseg.clip.passes import whole_passes
from ovseg.clip.regions import encode_in_one_pass, grid_side, input_size
from ovseg.core.crops import crop_threads
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, View
from ovseg.segmentation.region_crops import RegionCrops, crop_regions, whole_image_regions


@dataclass(frozen=True)
class RegionEncoder:
    """A CLIP, and what it is shown of a region.

    Attributes:
        clip: the CLIP, with the region encoder that it is made for; its mask prompts are used if it has any.
        crop: the crop recipe.
        view: what a crop shows, see `region_crops.crop_regions`.
        batch_size: the number of crops that CLIP is given at a time, rounded up to whole forward passes (see `clip.passes`);
            it changes no result.
        pool: the threads that crop.

    Raises:
        OvsegError: the CLIP sees whole images, and the view is one of crops.
    """

    clip: Clip
    crop: CropOptions = field(default_factory=CropOptions)
    view: View = "crop-and-mask"
    batch_size: int = 64
    pool: Executor = field(default_factory=crop_threads, repr=False)

    def __post_init__(self) -> None:
        if not self.by_crops and self.view != "crop-and-mask":
            raise OvsegError(
                f"segment.view={self.view} is for the region encoder crops, and the CLIP is made for "
                f"{self.clip.regions.encoder}, which sees the whole image; leave segment.view at crop-and-mask, or take "
                "another CLIP"
            )

    @property
    def by_crops(self) -> bool:
        """Whether each region is encoded by itself, as a crop; otherwise all of an image are in one pass."""
        return self.clip.regions.encoder == "crops"

    def rows(self, rles: Sequence[bytes | None]) -> list[bytes | None]:
        """Return what `embed` has a row for, beside a None for each mask without a pixel.

        Args:
            rles: the Q masks of an image; None for one without a pixel.

        Returns:
            the masks; for a CLIP with pseudo-texts, which compare regions and texts by the cells of the image, then the names
            of the C cells, if any mask has a pixel.
        """
        if self.clip.pseudo_text is None or not any(rles):
            return list(rles)
        visual = cast(nn.Module, self.clip.model.visual)
        cells = grid_side(visual, self.clip.regions, input_size(self.clip)) ** 2
        return [*rles, *(f"cell {cell}".encode() for cell in range(cells))]

    @property
    def pass_size(self) -> int:
        """The number of crops of whole forward passes that hold a batch."""
        return whole_passes(self.batch_size, self.clip.mean.device)

    def crop_regions(self, pixels: ImageArray, rles: Sequence[bytes | None]) -> RegionCrops:
        """Return what CLIP encodes of Q masks of an image, uint8 RGB `[H, W, 3]`; None for a mask without a pixel."""
        if not self.by_crops:
            return whole_image_regions(self.clip, pixels, rles)
        return crop_regions(
            pixels,
            rles,
            size=self.clip.size,
            mean=self.clip.mean.tolist(),
            fill=self.crop.fill,
            antialias=self.crop.antialias,
            view=self.view,
            pool=self.pool,
        )

    def embed(self, regions: RegionCrops) -> Tensor:
        """Return CLIP's embeddings of the V masks with a pixel, float32 unit vectors `[V, D]` on the CPU.

        For a CLIP with pseudo-texts those of the C cells of the image follow, `[V + C, D]`, if V is not 0.
        """
        if not regions.valid.any():
            return torch.zeros(0, self.clip.width)
        if not self.by_crops:
            return encode_in_one_pass(self.clip, regions.crops[0], regions.masks)
        batches = zip(
            torch.split(regions.crops, self.pass_size), torch.split(regions.masks, self.pass_size), strict=True
        )
        return torch.cat([self.clip.encode_crops(crops, crop_masks) for crops, crop_masks in batches])
