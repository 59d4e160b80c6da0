"""What a region encoder costs for one image of the demo with 100 regions: operations counted, and time."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.regions import count_flops
from ovseg.clip.adapted import load_adapted
from ovseg.clip.regions import encode_regions
from ovseg.core.params import Params
from ovseg.datasets.benchmark import read_benchmark

REGIONS, ROUNDS, SIDE = 100, 9, 24


def cost_of(params: Params, clip: Path) -> dict[str, float]:
    """Return "gflops" and "ms", the median of nine rounds, of encoding the first benchmark image with 100 square regions.

    Cutting or resizing the image is part of the time; the proposal network is not.
    """
    model = load_adapted(clip, "cpu", params.segment.precision)
    pixels, _ = read_benchmark(params.evaluate.folder / params.evaluate.benchmarks[0]).read(0)
    height, width = pixels.shape[:2]
    masks = np.zeros((REGIONS, height, width), bool)
    corners = np.random.default_rng(0).integers(0, (height - SIDE, width - SIDE), (REGIONS, 2))
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + SIDE, x : x + SIDE] = True
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        encode_regions(model, pixels, masks)
        seconds.append(time.perf_counter() - begin)
    return {"gflops": round(count_flops(model, pixels, masks) / 1e9, 2), "ms": round(1000 * median(seconds), 1)}
