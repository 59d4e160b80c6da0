"""What encoding the regions of one image costs in a row of the leaderboard: operations counted, and time.

Neither depends on what was trained, so the base CLIP stands for all rows, with new mask prompts or the row's region encoder.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks.regions import count_flops
from experiments.method_rows import Method
from experiments.method_runs import BASE, crop_of
from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import new_prompts
from ovseg.clip.region_settings import CROPS, RegionSettings
from ovseg.clip.regions import encode_regions, with_regions
from ovseg.core.options import CropOptions, FinetuneOptions, PromptOptions
from ovseg.core.params import Params
from ovseg.datasets.benchmark import read_benchmark

REGIONS, ROUNDS, SIDE = 100, 9, 24


def costs_of_method(params: Params, method: Method) -> dict[str, float]:
    """Return the costs of a row, see `costs_of_clip`."""
    return costs_of_clip(params, untrained_clip(params, method), crop_of(params, method))


def untrained_clip(params: Params, method: Method) -> Clip:
    """Return the base CLIP of the run, as it encodes regions in a row."""
    clip = load_adapted(BASE, "cpu", params.segment.precision)
    if method.prompt is not None:
        prompt = PromptOptions.model_validate(params.prompt.model_dump() | dict(method.prompt))
        return replace(clip, prompts=new_prompts(clip.model.visual, prompt.depth, prompt.seed))  # type: ignore[arg-type]
    return with_regions(clip, settings_of(params, method))


def settings_of(params: Params, method: Method) -> RegionSettings:
    """Return the region encoder of a row whose encoder needs no training: crops, region tokens or biased tokens."""
    finetune = FinetuneOptions.model_validate(params.finetune.model_dump() | dict(method.finetune or {}))
    if finetune.method in ("crops", "text_prompts"):
        return CROPS
    return RegionSettings(
        finetune.region_encoder, finetune.start_block, finetune.image_size, coverage=finetune.coverage
    )


def costs_of_clip(params: Params, clip: Clip, crop: CropOptions) -> dict[str, float]:
    """Return "gflops" and "ms", the median of nine rounds, of encoding the first benchmark image with 100 square regions.

    Cutting or resizing the image is part of the time; the proposal network is not.
    """
    pixels, _ = read_benchmark(params.evaluate.folder / params.evaluate.benchmarks[0]).read(0)
    height, width = pixels.shape[:2]
    masks = np.zeros((REGIONS, height, width), bool)
    corners = np.random.default_rng(0).integers(0, (height - SIDE, width - SIDE), (REGIONS, 2))
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + SIDE, x : x + SIDE] = True
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        encode_regions(clip, pixels, masks, fill=crop.fill, antialias=crop.antialias)
        seconds.append(time.perf_counter() - begin)
    return {"gflops": round(count_flops(clip, pixels, masks) / 1e9, 2), "ms": round(1000 * median(seconds), 1)}
