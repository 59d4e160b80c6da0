"""Masks from any MaskFormer or Mask2Former of `transformers`, used class-agnostically: the masks of its queries.

Classes are ignored, as in the paper (4.3.1: "usually 100" masks an image). A query's mask is its sigmoid above the
threshold; its score is the mean of the sigmoid inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ovseg.errors import BadItem, OvsegError
from ovseg.proposals import Picture, Proposal, Source
from ovseg.proposals.soft import Extent, binarise

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
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForUniversalSegmentation
    except ImportError:
        raise OvsegError("the proposal source 'maskformer' needs transformers: pip install 'ovseg[propose]'") from None
    try:
        config = AutoConfig.from_pretrained(model)
        if config.model_type not in MODELS:
            raise OvsegError(f"{model} is a {config.model_type}; the source 'maskformer' takes {' or '.join(MODELS)}")
        processor = AutoImageProcessor.from_pretrained(model)
        network, found = AutoModelForUniversalSegmentation.from_pretrained(model, output_loading_info=True)
        network = network.to(device).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        where = "folder" if Path(model).exists() else "checkpoint (is the name right, and is there a network?)"
        raise OvsegError(f"cannot load the {where} {model!r}: {[*str(error).splitlines(), error][0]}") from None
    absent = sorted(found["missing_keys"])
    if absent:  # transformers would leave them random
        raise OvsegError(f"the weights of {model!r} lack {len(absent)} keys, among them {', '.join(absent[:5])}")

    @torch.inference_mode()
    def source(picture: Picture) -> Iterator[Proposal | BadItem]:
        inputs = processor(images=picture.pixels.copy(), return_tensors="pt").to(device)
        queries = network(**inputs).masks_queries_logits[0]
        extent = _extent(inputs, *queries.shape[1:])
        return iter(binarise(queries, extent, picture.height, picture.width, mask_threshold)[:max_proposals])

    return source


def _extent(inputs: dict[str, Tensor], height: int, width: int) -> Extent:
    """How much of a grid of masks is picture and not padding."""
    if "pixel_mask" not in inputs:
        return float(height), float(width)
    inside = inputs["pixel_mask"][0].bool()
    rows, columns = inside.shape
    return float(inside.any(1).sum()) / rows * height, float(inside.any(0).sum()) / columns * width
