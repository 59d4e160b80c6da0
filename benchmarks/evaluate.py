"""Speed of evaluating several benchmarks on the same images, with and without what earlier evaluations have kept.

    python -m benchmarks evaluate     about 16 minutes on two cores

The demo's proposal network and CLIP on the five benchmarks of its drawn images. "apart" evaluates each benchmark with nothing
kept, as if it were the only one; "together" one after the other, keeping predictions of the network and embeddings of regions;
"again" once more with another weight of CLIP. "embed" writes the tables of embeddings one after the other, and "tables"
evaluates each benchmark with its table and nothing else, as on a machine that was given the tables. Every evaluation has CLIP
alone, the proposal network alone, their ensemble and both oracles. The regions that "together" encodes are compared with the
distinct masks of all images and benchmarks, which are counted apart from it.

"sweep" is the step `calibrate` on one of the benchmarks: 11 weights of CLIP with each of 3 mask thresholds, from loading the
models to the choice. It starts with an empty store, then with what it has stored; each is measured once, as one takes as long
as a turn of the others.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from torch import Tensor

from benchmarks.inputs import ROOT
from benchmarks.results import Options, Result, Row, Target, interleave, medians
from data.demo.world.make import ROLES, make_split
from ovseg.core.images import ImageArray
from ovseg.core.options import CalibrateOptions, CropOptions, SegmentOptions
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.calibrate import calibrate
from ovseg.evaluation.embed import embed
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.oracles import gt_masks
from ovseg.evaluation.settings import three_classifiers
from ovseg.proposals.network import NetworkOutput, ProposalNetwork
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.region_encoder import RegionEncoder
from ovseg.segmentation.segmenter import Segmenter

IMAGES, REPEATS = 100, 3
MODELS = ROOT / "data" / "demo"
NETWORK, CLIP = MODELS / "proposal_network", MODELS / "clip"
THRESHOLD, OPTIONS = 0.4, SegmentOptions(precision="bf16")
SETTINGS = {weight: three_classifiers("clip", THRESHOLD, weight) for weight in (0.6, 0.7)}
SWEPT = "all"  # the benchmark of the sweep: the one with all of the demo's names, as the held-out split that `calibrate` uses
EMPTY, FULL = "sweep, empty store", "sweep, full store"


def run(options: Options) -> Result:
    number = 2 if options.smoke else IMAGES
    drawn, work, out, tables = (options.folder / name for name in ("drawn", "work", "out", "tables"))
    make_split(drawn, "benchmark", number, seed=0)
    names = ROLES["benchmark"][:2] if options.smoke else ROLES["benchmark"]
    benchmarks = [drawn / name for name in names]
    calibration = CalibrateOptions(benchmark=drawn / SWEPT)
    networks: dict[str, Counter[str]] = {}

    def evaluate_all(variant: str, *, keep: bool, weight: float) -> float:
        start = time.perf_counter()
        with counted() as networks[variant]:
            for benchmark in benchmarks:
                if not keep:
                    shutil.rmtree(work, ignore_errors=True)
                _evaluate(benchmark, work, out, weight, tables / benchmark.name if variant == "tables" else None)
        return len(benchmarks) * number / (time.perf_counter() - start)

    def embed_all(_: int) -> float:
        for folder in (work, tables):
            shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        with counted() as networks["embed"]:
            for benchmark in benchmarks:
                _embed(benchmark, work, tables / benchmark.name)
        return len(benchmarks) * number / (time.perf_counter() - start)

    def together(_: int) -> float:
        shutil.rmtree(work, ignore_errors=True)
        return evaluate_all("together", keep=True, weight=0.7)

    def sweep(variant: str) -> float:
        start = time.perf_counter()
        with counted() as networks[variant]:
            _sweep(calibration, work, out)
        return number / (time.perf_counter() - start)

    def sweep_empty(_: int) -> float:
        shutil.rmtree(work, ignore_errors=True)
        return sweep(EMPTY)

    variants = {
        "apart": lambda _: evaluate_all("apart", keep=False, weight=0.7),
        "together": together,
        "again": lambda _: evaluate_all("again", keep=True, weight=0.6),
        "embed": embed_all,
        "tables": lambda _: evaluate_all("tables", keep=False, weight=0.7),
    }
    sweeps = {EMPTY: sweep_empty, FULL: lambda _: sweep(FULL)}
    measurements = interleave(variants, 1 if options.smoke else REPEATS) | interleave(sweeps, 1)
    rates = medians(measurements)
    rows: list[Row] = [
        {
            "variant": name,
            "seconds": (number if name in sweeps else len(benchmarks) * number) / rate,
            "images/s": rate,
            "ratio": rate / rates[EMPTY if name in sweeps else "apart"],
            **networks[name],
        }
        for name, rate in rates.items()
    ]
    distinct = distinct_regions(benchmarks)
    targets = [
        Target("again / apart", rates["again"] / rates["apart"], 3.0),
        Target("regions encoded again", networks["again"]["regions encoded"], 0, is_maximum=True),
        Target("regions encoded with tables", networks["tables"]["regions encoded"], 0, is_maximum=True),
        Target("tables / apart", rates["tables"] / rates["apart"], 1.5),
        Target("images predicted again", networks["again"]["images predicted"], 0, is_maximum=True),
        Target(
            "regions encoded together, difference from the distinct ones",
            abs(networks["together"]["regions encoded"] - distinct),
            0,
            is_maximum=True,
        ),
        Target("seconds of the sweep with a full store", number / rates[FULL], 60.0, is_maximum=True),
        Target("sweep, full store / empty store", rates[FULL] / rates[EMPTY], 1.5),
    ]
    setup: dict[str, str | float] = {
        "benchmarks": len(benchmarks),
        "images": number,
        "distinct regions": distinct,
        "settings of the sweep": len(calibration.weights) * len(calibration.thresholds),
    }
    return Result(setup, rows, targets, measurements)


def _embed(benchmark: Path, work: Path, out: Path) -> None:
    clips, thresholds = {"clip": CLIP}, {"clip": [THRESHOLD]}
    embed(
        benchmark, NETWORK, clips, out, Runtime(workers=1, work=work), thresholds, options=OPTIONS, crop=CropOptions()
    )


def _evaluate(benchmark: Path, work: Path, out: Path, weight: float, embeddings: Path | None) -> None:
    shutil.rmtree(out, ignore_errors=True)
    runtime = Runtime(workers=1, work=work, fresh=True)
    clips, settings = {"clip": CLIP}, SETTINGS[weight]
    crop = CropOptions()
    evaluate(benchmark, NETWORK, clips, out, runtime, settings, options=OPTIONS, crop=crop, embeddings=embeddings)


def _sweep(calibration: CalibrateOptions, work: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    runtime, report = Runtime(workers=1, work=work, fresh=True), out.with_name("choice")
    calibrate(NETWORK, {"clip": CLIP}, out, report, runtime, calibration, options=OPTIONS, crop=CropOptions())


def distinct_regions(benchmarks: Sequence[Path]) -> int:
    """Count the different masks that evaluations of benchmarks on the same images need: proposals, and those of the labels.

    Nothing is encoded: the proposal network sees each image once more.

    Args:
        benchmarks: the folders of the benchmarks.
    """
    segmenter = Segmenter.load(NETWORK, CLIP, mask_threshold=THRESHOLD, options=OPTIONS)
    masks: dict[bytes, set[bytes | None]] = {}
    for opened in map(read_benchmark, benchmarks):
        for item in range(len(opened.items)):
            pixels, gt = opened.read(item)
            image = pixels.tobytes()
            if image not in masks:
                masks[image] = set(segmenter.binarize(pixels, segmenter.network.predict(pixels)))
            masks[image] |= set(gt_masks(gt, opened.ignore)[1])
    return sum(len(of_image - {None}) for of_image in masks.values())


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
