"""Masks from any MaskFormer or Mask2Former of `transformers`, used class-agnostically: the masks of its queries.

Classes are ignored, as in the paper (4.3.1: "usually 100" masks an image). A query's mask is its sigmoid above the
threshold; its score is the mean of the sigmoid inside.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal, Source
from ovseg.proposals.checkpoint import load_checkpoint
from ovseg.proposals.mask_logits import Extent, binarize_proposals

MODELS = ("maskformer", "mask2former")


def maskformer(model: str, mask_threshold: float, max_proposals: int, device: str) -> Source:
    """The query masks of a checkpoint on the Hub, or of a folder that holds one.

    Args:
        model: e.g. "facebook/maskformer-swin-base-coco", or a local folder.
        mask_threshold: foreground is where the sigmoid is above it (0.4 in the paper's Swin-B model).
        max_proposals: the best that many by score.
        device: torch device.

    Raises:
        OvsegError: transformers is not installed; the checkpoint cannot be loaded or is not a MaskFormer.
    """
    network, processor = load_checkpoint(model, "maskformer", MODELS, "AutoModelForUniversalSegmentation")
    network = network.to(device)

    @torch.inference_mode()
    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        inputs = processor(images=image.pixels.copy(), return_tensors="pt").to(device)
        queries = network(**inputs).masks_queries_logits[0]
        extent = _extent(inputs, *queries.shape[1:])
        return iter(binarize_proposals(queries, extent, image.height, image.width, mask_threshold)[:max_proposals])

    return source


def _extent(inputs: dict[str, Tensor], height: int, width: int) -> Extent:
    """How much of a grid of masks is image and not padding."""
    if "pixel_mask" not in inputs:
        return float(height), float(width)
    inside = inputs["pixel_mask"][0].bool()
    rows, columns = inside.shape
    return float(inside.any(1).sum()) / rows * height, float(inside.any(0).sum()) / columns * width
