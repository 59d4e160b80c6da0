"""Speed of the loader of mined shards with 0, 1 and 2 workers, compared with what a finetune step needs, and from an S3 server.

    python -m benchmarks loader       about 4 minutes on two cores

Shards are mined from COCO images with panoptic masks and all captions; crops have 224 pixels. They are read with resampling,
which never ends; the first batches, while processes start and buffers fill, are not counted. The finetune step is that of
ViT-B-16 in bf16 with batches of 32. The S3 server is moto's, on this machine: it shares the cores with the loader. With one
worker both have one; disk and server are measured in turns.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks import inputs
from benchmarks.results import Options, Result, Row, Target, Variant, interleave
from benchmarks.storage import in_s3
from benchmarks.train import finetune_rate
from ovseg.core.options import (
    ClipOptions,
    IndexOptions,
    NounsOptions,
    ProposeOptions,
    RunOptions,
    ScoreOptions,
    ShardsOptions,
)
from ovseg.engine.runtime import Runtime, devices
from ovseg.mining.run import mine_pairs
from ovseg.mining.shards import CLIP_MEAN, SIZES
from ovseg.training.loader import load_shards

IMAGES, BATCH, SIZE, SECONDS, WARM_UP_BATCHES = 108, 64, 224, 10.0, 12
ROUNDS = 3
SHARDS = 4  # with some hundred samples each, since opening one is two requests
WORKERS = (0, 1, 2)


def run(options: Options) -> Result:
    data = inputs.images(options.folder / "data", 4 if options.smoke else IMAGES)
    shards = _mined(data, options.folder)
    seconds = 1.0 if options.smoke else SECONDS
    rates = {workers: _rate(shards, workers, seconds) for workers in WORKERS}
    rows: list[Row] = [{"workers": str(workers), "samples/s": rate} for workers, rate in rates.items()]
    needed = finetune_rate("ViT-B-16", 32, torch.device(devices("auto")[0]))(0)
    rows.append({"workers": "finetune step", "samples/s": needed})
    with in_s3(shards) as there:
        places = {"disk": shards, "S3": there}
        variants = {f"1, {name}": _variant(place, seconds) for name, place in places.items()}
        measurements = interleave(variants, 1 if options.smoke else ROUNDS)
    medians = {name: median(m.rate for m in rates_of) for name, rates_of in measurements.items()}
    rows += [{"workers": name, "samples/s": rate} for name, rate in medians.items()]
    number = sum(json.loads((shards / SIZES).read_text(encoding="utf-8")).values())
    setup: dict[str, str | float] = {
        "images": data.number,
        "photographs": str(data.real).lower(),
        "samples": number,
        "shards": len(list(shards.glob("*.tar"))),
        "batch": BATCH,
        "pixels": SIZE,
    }
    targets = [
        Target("2 workers / finetune step", rates[2] / needed, 2.0),
        Target("S3 / disk, 1 worker", medians["1, S3"] / medians["1, disk"], 0.8),
    ]
    return Result(setup, rows, targets, measurements)


def _variant(shards: Path, seconds: float) -> Variant:
    return lambda _: _rate(shards, 1, seconds)


def _mined(data: inputs.Images, folder: Path) -> Path:
    options = RunOptions(
        index=IndexOptions(images=data.images, captions=data.captions),
        nouns=NounsOptions(model=inputs.tagger(), captions_per_image="all"),
        propose=ProposeOptions(source="ground_truth", path=data.masks),
        clip=ClipOptions(model="ViT-B-32", pretrained="random"),
        score=ScoreOptions(templates="single", precision="bf16"),
        shards=ShardsOptions(min_shards=SHARDS),
    )
    mine_pairs(options, folder / "run", Runtime(work=folder / "work", workers=os.cpu_count() or 1))
    return folder / "run" / "shards"


def _rate(shards: Path, workers: int, seconds: float) -> float:
    batches = iter(load_shards(shards, SIZE, BATCH, mean=CLIP_MEAN, workers=workers, resampled=True))
    for _ in itertools.islice(batches, WARM_UP_BATCHES):
        pass
    start, number = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        number += len(next(batches)["key"])
    return number / elapsed
