"""Speed of evaluating several benchmarks on the same images, with and without the region embeddings of earlier evaluations.

    python -m benchmarks evaluate     about 5 minutes on two cores

The demo's proposal network and CLIP on the five benchmarks of its drawn images. "apart" evaluates each benchmark with nothing
kept, as if it were the only one; "together" one after the other, keeping embeddings; "again" once more with another weight of
CLIP. Every evaluation has CLIP alone, the proposal network alone, their ensemble and both oracles.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from torch import Tensor

from benchmarks.inputs import ROOT
from benchmarks.results import Options, Result, Row, Target, interleave, medians
from data.demo.world.make import ROLES, make_split
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.settings import three_classifiers
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.segmenter import Segmenter

IMAGES, REPEATS = 100, 3
MODELS = ROOT / "data" / "demo"
SETTINGS = {weight: three_classifiers("clip", 0.4, weight) for weight in (0.6, 0.7)}


def run(options: Options) -> Result:
    number = 2 if options.smoke else IMAGES
    make_split(options.folder / "drawn", "benchmark", number, seed=0)
    names = ROLES["benchmark"][:2] if options.smoke else ROLES["benchmark"]
    benchmarks = [options.folder / "drawn" / name for name in names]
    work, crops = options.folder / "work", {"apart": 0, "together": 0, "again": 0}

    def evaluate_all(variant: str, *, keep: bool, weight: float) -> float:
        start = time.perf_counter()
        with counted() as encoded:
            for benchmark in benchmarks:
                if not keep:
                    shutil.rmtree(work, ignore_errors=True)
                _evaluate(benchmark, work, options.folder / "out", weight)
        crops[variant] = sum(encoded)
        return len(benchmarks) * number / (time.perf_counter() - start)

    def together(_: int) -> float:
        shutil.rmtree(work, ignore_errors=True)
        return evaluate_all("together", keep=True, weight=0.7)

    variants = {
        "apart": lambda _: evaluate_all("apart", keep=False, weight=0.7),
        "together": together,
        "again": lambda _: evaluate_all("again", keep=True, weight=0.6),
    }
    measurements = interleave(variants, 1 if options.smoke else REPEATS)
    rates = medians(measurements)
    rows: list[Row] = [
        {"variant": name, "images/s": rate, "ratio": rate / rates["apart"], "regions encoded": crops[name]}
        for name, rate in rates.items()
    ]
    targets = [
        Target("again / apart", rates["again"] / rates["apart"], 3.0),
        Target("regions encoded again", crops["again"], 0, is_maximum=True),
    ]
    return Result({"benchmarks": len(benchmarks), "images": number}, rows, targets, measurements)


def _evaluate(benchmark: Path, work: Path, out: Path, weight: float) -> None:
    shutil.rmtree(out, ignore_errors=True)
    runtime = Runtime(workers=1, work=work, fresh=True)
    clips, options = {"clip": MODELS / "clip"}, SegmentOptions(precision="bf16")
    network, settings = MODELS / "proposal_network", SETTINGS[weight]
    evaluate(benchmark, network, clips, out, runtime, settings, options=options, crop=CropOptions())


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the regions that CLIP encodes within the context: the list gets their number for each image."""
    numbers: list[int] = []
    encode = Segmenter.embed_regions

    def counting(segmenter: Segmenter, regions: RegionCrops) -> Tensor:
        numbers.append(int(regions.valid.sum()))
        return encode(segmenter, regions)

    with patch.object(Segmenter, "embed_regions", counting):
        yield numbers
