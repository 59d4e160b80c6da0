"""Masks from any MaskFormer or Mask2Former of `transformers`, used class-agnostically: the masks of its queries.

Classes are ignored, as in the paper (4.3.1: "usually 100" masks an image). A query's mask is its sigmoid above the
threshold; its score is the mean of the sigmoid inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from torch import Tensor

from ovseg import masks
from ovseg.errors import BadItem, OvsegError
from ovseg.proposals import Picture, Proposal, Source

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
        return iter(binarise(queries, _used(inputs), picture.height, picture.width, mask_threshold)[:max_proposals])

    return source


def _used(inputs: dict[str, Tensor]) -> tuple[float, float]:
    """The share of the network's input, down and across, that is picture and not padding."""
    if "pixel_mask" not in inputs:
        return 1.0, 1.0
    inside = inputs["pixel_mask"][0].bool()
    height, width = inside.shape
    return float(inside.any(1).sum()) / height, float(inside.any(0).sum()) / width


def binarise(logits: Tensor, used: tuple[float, float], height: int, width: int, threshold: float) -> list[Proposal]:
    """Masks of the queries that have a foreground pixel, best score first.

    Args:
        logits: float `[Q, h, w]`.
        used: share of h and w that is picture.
        height, width: of the picture; the sigmoid is resized to it (bilinear) before the threshold.
        threshold: in (0, 1).
    """
    rows, columns = (max(1, round(share * side)) for share, side in zip(used, logits.shape[1:], strict=True))
    found = []
    for query in logits[:, :rows, :columns].float():  # one by one: 100 masks at full size would be gigabytes
        soft = F.interpolate(query[None, None].sigmoid(), (height, width), mode="bilinear", align_corners=False)[0, 0]
        mask = soft > threshold
        if mask.any():
            found.append(Proposal(masks.encode(np.asarray(mask.cpu())), float(soft[mask].mean())))
    return sorted(found, key=lambda proposal: -proposal.score)
