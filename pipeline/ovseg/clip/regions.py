"""Region encoders: how a region of an image becomes a vector. One signature for all, `encode_regions`.

`crops` encodes the masked crop of each region (OVSeg); the others see the image once, whatever the number of its regions. A
CLIP says which one it is made for (`Clip.regions`).

Shapes: H, W image, Q regions, S side of the encoder's input, g rows and columns of its cells, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ovseg.clip.biased_tokens import biased_tokens, new_log_bias
from ovseg.clip.load import Clip
from ovseg.clip.mask_adapter import ADAPTER, MaskAdapter, adapted_regions, mask_cells
from ovseg.clip.pooled_regions import STRIDE, pooled_regions
from ovseg.clip.prompts import vit_layout
from ovseg.clip.pseudo_text import PSEUDO_TEXT
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.region_tokens import mean_of_cells, region_tokens
from ovseg.clip.save import PROMPTS
from ovseg.clip.vit_parts import vit_parts
from ovseg.core import crops, masks
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.masks import MaskArray
from ovseg.core.options import Encoder, Fill

DEFAULT_START = 2 / 3  # of the blocks: MAFT's 8 of 12


class Learned(NamedTuple):
    """What a region encoder has learned beside the image tower.

    Attributes:
        log_bias: `[L, heads]`, of `biased_tokens`; None for the value before training.
        adapter: of `mask_adapter`.
    """

    log_bias: Tensor | None = None
    adapter: MaskAdapter | None = None


OnePass = Callable[[nn.Module, Tensor, Tensor, RegionSettings, Learned], Tensor]
"""From an image tower, normalized images `[B, 3, S, S]` and masks `[B, Q, g, g]` to unit vectors `[B, Q, D]`."""


def _region_tokens(visual: nn.Module, images: Tensor, on_grid: Tensor, settings: RegionSettings, _: Learned) -> Tensor:
    return region_tokens(visual, images, on_grid, start_block(visual, settings), settings.coverage)


def _biased_tokens(
    visual: nn.Module, images: Tensor, on_grid: Tensor, settings: RegionSettings, learned: Learned
) -> Tensor:
    start = start_block(visual, settings)
    log_bias = new_log_bias(visual, start) if learned.log_bias is None else learned.log_bias
    return biased_tokens(visual, images, on_grid, start, log_bias.to(images.device))


def _pooled(visual: nn.Module, images: Tensor, on_grid: Tensor, _settings: RegionSettings, _: Learned) -> Tensor:
    return pooled_regions(visual, images, on_grid)


def _mask_adapter(
    visual: nn.Module, images: Tensor, on_grid: Tensor, _settings: RegionSettings, learned: Learned
) -> Tensor:
    if learned.adapter is None:
        raise OvsegError(
            f"it needs a trained adapter, {ADAPTER} in the folder of the CLIP, and there is none; train one with "
            "finetune.method=mask_adapter and take its folder, or take region_tokens, which needs no training"
        )
    return adapted_regions(visual, images, on_grid, learned.adapter)


def _visual(clip: Clip) -> nn.Module:
    return cast(nn.Module, clip.model.visual)


ONE_PASS: Mapping[str, OnePass] = {
    "region_tokens": _region_tokens,
    "biased_tokens": _biased_tokens,
    "pooled": _pooled,
    "mask_adapter": _mask_adapter,
}


def encode_regions(
    clip: Clip, pixels: ImageArray, region_masks: MaskArray, *, fill: Fill = "mean", antialias: bool = True
) -> Tensor:
    """Encode regions of an image with the region encoder that the CLIP is made for.

    Args:
        clip: the CLIP.
        pixels: uint8 RGB `[H, W, 3]`.
        region_masks: bool `[Q, H, W]`; Q may be 0, and masks may be empty.
        fill: the background of crops, see `crops.fill_color`.
        antialias: whether crops are resized with antialiasing.

    Returns:
        float32 unit vectors `[Q, D]` on the CPU.
    """
    if clip.regions.encoder != "crops":
        return encode_in_one_pass(clip, whole_image(clip, pixels), masks_on_grid(clip, region_masks))
    if not len(region_masks):
        return torch.zeros(0, clip.width)
    color = crops.fill_color(fill, clip.mean.tolist())
    cut = [cut_region(pixels, mask, clip.size, color, antialias) for mask in region_masks]
    return clip.encode_crops(torch.stack([crop for crop, _ in cut]), torch.stack([mask for _, mask in cut]))


def cut_region(
    pixels: ImageArray, mask: MaskArray, size: int, color: ImageArray | None, antialias: bool
) -> tuple[Tensor, Tensor]:
    """Crop a region to its tight box, see `crops.crop_region`; one without a pixel to the whole image."""
    height, width = mask.shape
    box = masks.box(masks.encode(mask), height, width) if mask.any() else (0, 0, width, height)
    return crops.crop_region(pixels, mask, box, size, color, antialias)


@torch.inference_mode()
def encode_in_one_pass(clip: Clip, image: Tensor, on_grid: Tensor) -> Tensor:
    """Encode regions of an image with a CLIP that is made for an encoder of one pass.

    Args:
        clip: the CLIP.
        image: uint8 `[3, S, S]`, see `whole_image`.
        on_grid: float32 `[Q, g, g]`, see `masks_on_grid`.

    Returns:
        float32 unit vectors `[Q, D]` on the CPU.
    """
    if not len(on_grid):
        return torch.zeros(0, clip.width)
    device = clip.mean.device
    images = crops.normalize(image[None].to(device, non_blocking=True), clip.mean, clip.std).to(clip.dtype)
    log_bias = None if clip.regions.log_bias is None else torch.tensor(clip.regions.log_bias)
    encode = ONE_PASS[clip.regions.encoder]
    vectors = encode(_visual(clip), images, on_grid[None].to(device), clip.regions, Learned(log_bias, clip.adapter))
    return F.normalize(vectors[0].float(), dim=-1).cpu()


def whole_image(clip: Clip, pixels: ImageArray) -> Tensor:
    """Resize an image to the square input of the CLIP's region encoder; the aspect ratio is not kept (as in MAFT).

    Args:
        clip: a CLIP that is made for an encoder of one pass.
        pixels: uint8 RGB `[H, W, 3]`.

    Returns:
        uint8 `[3, S, S]`, with antialiasing.
    """
    return squash_image(pixels, input_size(clip))


def squash_image(pixels: ImageArray, size: int) -> Tensor:
    """Resize an image `[H, W, 3]` to a square of S pixels, uint8 `[3, S, S]`, with antialiasing; its aspect ratio is lost."""
    return crops.resize(pixels, np.ones(pixels.shape[:2], bool), size, antialias=True)[0]


def masks_on_grid(clip: Clip, region_masks: Iterable[MaskArray]) -> Tensor:
    """Return the fraction of each cell that each mask covers, see `grid_side`.

    Args:
        clip: a CLIP that is made for an encoder of one pass.
        region_masks: Q masks, bool `[H, W]` each.

    Returns:
        float32 `[Q, g, g]` in [0, 1].
    """
    cells = grid_side(_visual(clip), clip.regions, input_size(clip))
    parts = [mean_of_cells(torch.from_numpy(mask)[None, None], (cells, cells))[0] for mask in region_masks]
    return torch.cat(parts) if parts else torch.zeros(0, cells, cells)


def with_cells(on_grid: Tensor) -> Tensor:
    """Put a mask for each of the C cells of the grid, which covers it alone, behind the Q masks of each image.

    Args:
        on_grid: `[..., Q, g, g]`.

    Returns:
        `[..., Q + C, g, g]`.
    """
    side = on_grid.shape[-1]
    cells = torch.eye(side * side).reshape(-1, side, side).to(on_grid)
    return torch.cat([on_grid, cells.expand(*on_grid.shape[:-3], -1, -1, -1)], dim=-3)


def input_size(clip: Clip) -> int:
    """S of the CLIP's region encoder in pixels."""
    return clip.regions.image_size or clip.size


def grid_side(visual: nn.Module, settings: RegionSettings, size: int) -> int:
    """g for an input of `size` pixels: a cell is a patch of a ViT or a place of a ConvNeXt's last map; for `mask_adapter` a
    quarter of its side.
    """
    if settings.encoder == "mask_adapter":
        return mask_cells(visual, size)
    return size // (STRIDE if settings.encoder == "pooled" else vit_layout(visual).patch[0])


def start_block(visual: nn.Module, settings: RegionSettings) -> int:
    """The number of a ViT's blocks that run without regions."""
    return int(DEFAULT_START * len(vit_parts(visual).blocks)) if settings.start_block is None else settings.start_block


def with_regions(clip: Clip, settings: RegionSettings, source: object = "the CLIP") -> Clip:
    """Return a CLIP that is made for another region encoder, after a trial run.

    Args:
        clip: the CLIP.
        settings: the region encoder and its parameters.
        source: where the settings come from, for messages.

    Raises:
        OvsegError: encoder, parameters and tower do not belong together; the message says what to change.
    """
    problem = _problem(clip, settings)
    if problem:
        raise OvsegError(f"{source}: {problem}")
    made_for = replace(clip, regions=settings)
    if settings.encoder != "crops":
        try:
            cells = grid_side(_visual(clip), settings, input_size(made_for))
            encode_in_one_pass(
                made_for,
                torch.zeros(3, input_size(made_for), input_size(made_for), dtype=torch.uint8),
                torch.ones(1, cells, cells),
            )
        except OvsegError as error:
            raise OvsegError(f"{source}: the region encoder {settings.encoder} cannot be used: {error}") from None
    return made_for


def _problem(clip: Clip, settings: RegionSettings) -> str | None:
    """What parameters do not belong together, with a remedy."""
    encoder, start = settings.encoder, settings.start_block
    if start is not None and encoder not in ("region_tokens", "biased_tokens"):
        return f"start_block={start} is not for the region encoder {encoder}; leave it out, or take region_tokens"
    if settings.coverage != "half" and encoder != "region_tokens":
        return f"coverage={settings.coverage} is not for the region encoder {encoder}; set it to half, or take region_tokens"
    if settings.log_bias is not None and encoder != "biased_tokens":
        return f"log_bias is not for the region encoder {encoder}, but for biased_tokens"
    if encoder == "crops" and settings.image_size not in (None, clip.size):
        return (
            f"image_size={settings.image_size} is not for the region encoder crops, whose input is the CLIP's, {clip.size} "
            "pixels; leave it out, or take region_tokens"
        )
    return _problem_of_parts(clip, encoder)


def _problem_of_parts(clip: Clip, encoder: Encoder) -> str | None:
    """What a CLIP has learned besides its weights and does not belong to a region encoder, with a remedy."""
    if encoder != "crops" and clip.prompts is not None:
        return (
            f"the region encoder {encoder} sees whole images, and mask prompts replace the background of crops; take a copy "
            f"of the CLIP's folder without {PROMPTS}, or the region encoder crops"
        )
    if encoder != "pooled" and clip.pseudo_text is not None:
        return (
            f"pseudo-texts are for the region encoder pooled, not {encoder}; take a copy of the CLIP's folder without "
            f"{PSEUDO_TEXT}, or the region encoder pooled"
        )
    return None
