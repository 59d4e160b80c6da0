"""Speed of label maps from the scores of proposals, in strips that fit the processor's cache and in larger ones.

    python -m benchmarks maps         about 2 minutes on two cores

Random masks and scores; three maps of an image, as an evaluation makes them of CLIP, the proposal network and their ensemble.
"""

from __future__ import annotations

import time

import torch

from benchmarks.results import Measurement, Options, Result, Row, Target, Variant, interleave, medians
from ovseg.segmentation.semantic_map import BUDGET, semantic_maps

MAPS, REPEATS = 3, 5
LARGE = 2**24  # numbers of a strip
CASES = ((480, 640, 100, 847), (480, 640, 100, 150), (375, 500, 100, 21), (128, 160, 30, 343))
"""Height and width of the image, proposals, classes."""


def run(options: Options) -> Result:
    rows: list[Row] = []
    measurements: dict[str, list[Measurement]] = {}
    targets: list[Target] = []
    for height, width, proposals, classes in CASES[-1:] if options.smoke else CASES:
        name = f"{height} x {width}, {proposals} proposals, {classes} classes"
        variants = {
            "strips of 64 MiB": _maps(height, width, proposals, classes, LARGE),
            "strips of 8 MiB": _maps(height, width, proposals, classes, BUDGET),
        }
        of_case = interleave(variants, 1 if options.smoke else REPEATS)
        rates = medians(of_case)
        measurements |= {f"{variant}, {name}": values for variant, values in of_case.items()}
        large, small = (rates[variant] for variant in variants)
        rows.append({"image": name, "64 MiB: ms": 1e3 / large, "8 MiB: ms": 1e3 / small, "ratio": small / large})
        targets.append(Target(f"8 MiB / 64 MiB, {name}", small / large, 1.0))
    return Result({"maps": MAPS, "strip": f"{4 * BUDGET >> 20} MiB"}, rows, targets, measurements)


def _maps(height: int, width: int, proposals: int, classes: int, budget: int) -> Variant:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(proposals, classes, dtype=torch.float64, generator=generator) for _ in range(MAPS)]
    logits = 3 * torch.randn(proposals, height // 4, width // 4, generator=generator)

    def variant(_: int) -> float:
        start = time.perf_counter()
        semantic_maps(scores, logits, (height / 4, width / 4), height, width, budget=budget)
        return 1 / (time.perf_counter() - start)

    return variant
