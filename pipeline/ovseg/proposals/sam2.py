"""Proposals from SAM 2 or SAM of `transformers`: automatic masks from a grid of points.

SAM's weights are licensed under Apache-2.0, unlike those of MaskFormer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal, Source

MODELS = ("sam", "sam2", "sam_hq")
POINTS_PER_BATCH = 64


def sam2(model: str, max_proposals: int, device: str) -> Source:
    """Create a source that yields the automatic masks of a checkpoint.

    Args:
        model: name on the Hub ("facebook/sam2.1-hiera-large") or local folder.
        max_proposals: largest number of proposals for one image; those with the best predicted IoU are kept.
        device: torch device.

    Raises:
        OvsegError: transformers is not installed; the checkpoint cannot be loaded, or is not a SAM.
    """
    import torch

    from ovseg.proposals.checkpoint import load_checkpoint

    network, processor = load_checkpoint(model, "sam2", MODELS, "AutoModelForMaskGeneration")
    from transformers import pipeline

    generate = pipeline("mask-generation", model=network, image_processor=processor, device=device)

    @torch.inference_mode()
    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        output = generate(Image.fromarray(image.pixels), points_per_batch=POINTS_PER_BATCH)
        scored = [
            (np.asarray(mask, dtype=bool), float(score))
            for mask, score in zip(output["masks"], output["scores"], strict=True)
        ]
        proposals = [Proposal(masks.encode(mask), min(max(score, 0.0), 1.0)) for mask, score in scored if mask.any()]
        return iter(sorted(proposals, key=lambda proposal: -proposal.score)[:max_proposals])

    return source
