"""What a run will handle and write, told before it is run: for `ovseg-mine run --dry-run` and `ovseg plan`.

Bytes were measured on tables and shards of two runs of 2026-11-21: the demo, and 100 COCO photographs with annotated masks.
"""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["demo", "photographs"]

COCO_IMAGES = 118_287  # train2017
COCO_PAIRS = {1: 442_117, 5: 1_300_000}  # by captions an image (paper, table 2)
DEMO_NOUNS = {1: 8_702 / 4_000, 5: 16_725 / 4_000}  # an image, by its captions; measured
ANNOTATED = {"demo": 12_956 / 4_000, "coco": 965_036 / COCO_IMAGES}  # masks an image; COCO-Stuff's (paper, table 2)
BYTES = {"index": 260, "nouns": 30, "candidates": 157, "pairs": 29}  # of a row of these tables
BYTES |= {"drawn": 18_000, "calibrate": 3_800, "evaluate": 730, "report": 6_500_000}  # of an image; of the whole report
BYTES |= {"label map": 4_200, "written image": 173_000}  # of an image of a converted benchmark
BYTES_PER_MASK: dict[Kind, int] = {"demo": 217, "photographs": 359}
BYTES_PER_SAMPLE: dict[Kind, int] = {"demo": 9_900, "photographs": 32_400}  # jpg, mask and json


def nouns_per_image(captions: float, kind: Kind = "photographs") -> float:
    """Nouns of an image that has that many captions, repetitions left out: on the line through what is known of 1 and 5."""
    known = DEMO_NOUNS if kind == "demo" else {number: pairs / COCO_IMAGES for number, pairs in COCO_PAIRS.items()}
    return known[1] + (captions - 1) * (known[5] - known[1]) / 4


def number_of_shards(samples: int, samples_per_shard: int, min_shards: int) -> int:
    """How many shards the step `shards` writes."""
    return min(samples, max(min_shards, math.ceil(samples / samples_per_shard)))


def size(bytes_: float) -> str:
    """Bytes as people read them."""
    if bytes_ < 1e6:
        return f"{bytes_ / 1e3:.0f} KB"
    return f"{bytes_ / 1e6:.0f} MB" if bytes_ < 1e9 else f"{bytes_ / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
