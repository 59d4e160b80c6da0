"""How fast a CLIP is on this machine."""

from __future__ import annotations

import time

import torch

from ovseg.clip.load import Clip


def crops_per_second(clip: Clip, batch_size: int) -> float:
    """Measure how many crops a CLIP encodes per second, on one batch of zeros after another to warm up.

    Args:
        clip: CLIP on its device.
        batch_size: crops in one forward pass.
    """
    crops = torch.zeros(batch_size, 3, clip.size, clip.size, dtype=torch.uint8)
    clip.encode_crops(crops)
    start = time.monotonic()
    clip.encode_crops(crops)
    return batch_size / (time.monotonic() - start)
