"""Speed of evaluating several benchmarks on the same images, with and without what earlier evaluations have kept.

    python -m benchmarks evaluate     about 5 minutes on two cores

The demo's proposal network and CLIP on the five benchmarks of its drawn images. "apart" evaluates each benchmark with nothing
kept, as if it were the only one; "together" one after the other, keeping predictions of the network and embeddings of regions;
"again" once more with another weight of CLIP. Every evaluation has CLIP alone, the proposal network alone, their ensemble and
both oracles.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from torch import Tensor

from benchmarks.inputs import ROOT
from benchmarks.results import Options, Result, Row, Target, interleave, medians
from data.demo.world.make import ROLES, make_split
from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.settings import three_classifiers
from ovseg.proposals.network import NetworkOutput, ProposalNetwork
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.region_encoder import RegionEncoder

IMAGES, REPEATS = 100, 3
MODELS = ROOT / "data" / "demo"
SETTINGS = {weight: three_classifiers("clip", 0.4, weight) for weight in (0.6, 0.7)}


def run(options: Options) -> Result:
    number = 2 if options.smoke else IMAGES
    make_split(options.folder / "drawn", "benchmark", number, seed=0)
    names = ROLES["benchmark"][:2] if options.smoke else ROLES["benchmark"]
    benchmarks = [options.folder / "drawn" / name for name in names]
    work, networks = (
        options.folder / "work",
        {"apart": Counter[str](), "together": Counter[str](), "again": Counter[str]()},
    )

    def evaluate_all(variant: str, *, keep: bool, weight: float) -> float:
        start = time.perf_counter()
        with counted() as networks[variant]:
            for benchmark in benchmarks:
                if not keep:
                    shutil.rmtree(work, ignore_errors=True)
                _evaluate(benchmark, work, options.folder / "out", weight)
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
        {"variant": name, "images/s": rate, "ratio": rate / rates["apart"], **networks[name]}
        for name, rate in rates.items()
    ]
    targets = [
        Target("again / apart", rates["again"] / rates["apart"], 3.0),
        Target("regions encoded again", networks["again"]["regions encoded"], 0, is_maximum=True),
        Target("images predicted again", networks["again"]["images predicted"], 0, is_maximum=True),
    ]
    return Result({"benchmarks": len(benchmarks), "images": number}, rows, targets, measurements)


def _evaluate(benchmark: Path, work: Path, out: Path, weight: float) -> None:
    shutil.rmtree(out, ignore_errors=True)
    runtime = Runtime(workers=1, work=work, fresh=True)
    clips, options = {"clip": MODELS / "clip"}, SegmentOptions(precision="bf16")
    network, settings = MODELS / "proposal_network", SETTINGS[weight]
    evaluate(benchmark, network, clips, out, runtime, settings, options=options, crop=CropOptions())


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the images that the proposal network sees within the context, and the regions that CLIP encodes."""
    counts = Counter({"images predicted": 0, "regions encoded": 0})
    predict, encode = ProposalNetwork.predict, RegionEncoder.embed

    def counting_images(network: ProposalNetwork, pixels: ImageArray) -> NetworkOutput:
        counts["images predicted"] += 1
        return predict(network, pixels)

    def counting_regions(encoder: RegionEncoder, regions: RegionCrops) -> Tensor:
        counts["regions encoded"] += int(regions.valid.sum())
        return encode(encoder, regions)

    with (
        patch.object(ProposalNetwork, "predict", counting_images),
        patch.object(RegionEncoder, "embed", counting_regions),
    ):
        yield counts
