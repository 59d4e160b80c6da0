"""How fast a CLIP is on this machine."""

from __future__ import annotations

import time

import torch

from ovseg.clip.load import Clip
from ovseg.clip.passes import crops_per_pass


def crops_per_second(clip: Clip) -> float:
    """Measure how many crops a CLIP encodes per second, on one batch of zeros after another to warm up.

    Args:
        clip: CLIP on its device.
    """
    number = crops_per_pass(clip.mean.device)
    crops = torch.zeros(number, 3, clip.size, clip.size, dtype=torch.uint8)
    clip.encode_crops(crops)
    start = time.monotonic()
    clip.encode_crops(crops)
    return number / (time.monotonic() - start)
