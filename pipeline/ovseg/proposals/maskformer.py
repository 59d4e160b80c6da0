"""Proposals from any MaskFormer or Mask2Former of `transformers`: the masks of its queries, without their classes.

The paper uses its proposal network in the same way (4.3.1: "usually 100" masks for each image). See `mask_logits` for masks
and scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal, Source

if TYPE_CHECKING:
    from torch import Tensor

    from ovseg.proposals.mask_logits import Extent

MODELS = ("maskformer", "mask2former")


def maskformer(model: str, mask_threshold: float, max_proposals: int, device: str) -> Source:
    """Create a source that yields the query masks of a checkpoint.

    Args:
        model: name on the Hub ("facebook/maskformer-swin-base-coco") or local folder.
        mask_threshold: foreground is where the mask probability is above it (0.4 in the paper's Swin-B model).
        max_proposals: largest number of proposals for one image; those with the best scores are kept.
        device: torch device.

    Raises:
        OvsegError: transformers is not installed; the checkpoint cannot be loaded, or is not a MaskFormer.
    """
    import torch

    from ovseg.proposals.checkpoint import load_checkpoint
    from ovseg.proposals.mask_logits import binarize_proposals

    network, processor = load_checkpoint(model, "maskformer", MODELS, "AutoModelForUniversalSegmentation")
    network = network.to(device)

    @torch.inference_mode()
    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        inputs = processor(images=image.pixels.copy(), return_tensors="pt").to(device)
        logits = network(**inputs).masks_queries_logits[0]
        extent = _extent(inputs, *logits.shape[1:])
        return iter(binarize_proposals(logits, extent, image.height, image.width, mask_threshold)[:max_proposals])

    return source


def _extent(inputs: dict[str, Tensor], height: int, width: int) -> Extent:
    """Return the extent of the image in a grid of `height` x `width` cells, from the processor's padding mask."""
    if "pixel_mask" not in inputs:
        return float(height), float(width)
    inside = inputs["pixel_mask"][0].bool()
    rows, columns = inside.shape
    return float(inside.any(1).sum()) / rows * height, float(inside.any(0).sum()) / columns * width
