"""Masks from SAM 2 (or SAM) of `transformers`: automatic masks from a grid of points. Apache-2.0, unlike MaskFormer's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from ovseg import masks
from ovseg.errors import BadItem, OvsegError
from ovseg.proposals import Picture, Proposal, Source

MODELS = ("sam", "sam2", "sam_hq")
POINTS_PER_BATCH = 64


def sam2(model: str, max_proposals: int, device: str) -> Source:
    """The automatic masks of a checkpoint on the Hub ("facebook/sam2.1-hiera-large"), or of a folder that holds one.

    Args:
        model: name or folder.
        max_proposals: the best that many by predicted overlap.
        device: torch device.

    Raises:
        OvsegError: transformers is not installed; the checkpoint cannot be loaded or is not a SAM.
    """
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForMaskGeneration, pipeline
    except ImportError:
        raise OvsegError("the proposal source 'sam2' needs transformers: pip install 'ovseg[propose]'") from None
    try:
        kind = AutoConfig.from_pretrained(model).model_type.removesuffix("_video")
        if kind not in MODELS:
            raise OvsegError(f"{model} is a {kind}; the source 'sam2' takes {' or '.join(MODELS)}")
        processor = AutoImageProcessor.from_pretrained(model)
        network, found = AutoModelForMaskGeneration.from_pretrained(model, output_loading_info=True)
        generate = pipeline("mask-generation", model=network, image_processor=processor, device=device)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        where = "folder" if Path(model).exists() else "checkpoint (is the name right, and is there a network?)"
        raise OvsegError(f"cannot load the {where} {model!r}: {[*str(error).splitlines(), error][0]}") from None

    absent = sorted(found["missing_keys"])
    if absent:  # transformers would leave them random
        raise OvsegError(f"the weights of {model!r} lack {len(absent)} keys, among them {', '.join(absent[:5])}")

    @torch.inference_mode()
    def source(picture: Picture) -> Iterator[Proposal | BadItem]:
        made = generate(Image.fromarray(picture.pixels), points_per_batch=POINTS_PER_BATCH)
        pairs = zip(made["masks"], made["scores"], strict=True)
        every = [(np.asarray(mask, dtype=bool), float(score)) for mask, score in pairs]
        good = [Proposal(masks.encode(mask), min(max(score, 0.0), 1.0)) for mask, score in every if mask.any()]
        return iter(sorted(good, key=lambda proposal: -proposal.score)[:max_proposals])

    return source
