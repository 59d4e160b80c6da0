"""Speed of the step `score`, from JPEG to candidates, compared with the encoder alone and with a plain loop.

    python -m benchmarks score          about 6 minutes on two cores
    python -m benchmarks score --all    fp32 as a second row, some 6 minutes more

40 COCO images with panoptic masks, ViT-B-16 with random weights, one device, the same crops for all three variants:

    encoder   the image tower alone on prepared tensors (normalized, in its precision), in the same batches
    ours      the task of the step `score` on its units, run by `run_step`: decode, RLE, crop, encode, rank, write. Loading the
              model and embedding the nouns is not counted, because a run does it once
    plain     for each image and mask: crop, fill, PIL resize, to tensor, normalize; encode the crops of an image in fp32

Medians of interleaved measurements are compared. A measurement of the plain loop takes a part of the images.

What writing the table `regions` costs is measured apart, on the first 10 images: they are scored with the table (`keep_regions`
"candidates", the default) and without it ("none") in many short turns, since single turns differ by more than the table costs.
The ratio is the median of those of the turns.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import inputs
from benchmarks.results import Measurement, Options, Result, Row, Target, Variant, interleave, medians
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.passes import crops_per_pass
from ovseg.core import crops, masks
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import ImageArray
from ovseg.core.options import (
    ClipOptions,
    CropOptions,
    IndexOptions,
    KeptRegions,
    NounsOptions,
    Precision,
    ProposeOptions,
    ScoreOptions,
)
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.runtime import Runtime, devices
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task, unit_names
from ovseg.mining.index import build_index
from ovseg.mining.nouns import extract_nouns
from ovseg.mining.propose import propose_masks
from ovseg.mining.score_unit import ScoreTaskFactory, rows_by_image
from ovseg.mining.texts import encode_nouns, read_texts

IMAGES, REPEATS, BATCH = 40, 3, 64
FEW, TURNS = 10, 12  # images and turns of the measurement with and without the table `regions`
MODEL = "ViT-B-16"
CLIP = ClipOptions(model=MODEL, pretrained="random")


@dataclass(frozen=True)
class Tables:
    """The inputs of step `score`."""

    images: Path
    index: Path
    nouns: Path
    proposals: Path


class Job(NamedTuple):
    """An image of the plain loop with its rows of the table `proposals` and the embeddings of its nouns."""

    image: ImageRecord
    regions: list[dict[str, Any]]
    texts: Tensor


def run(options: Options) -> Result:
    runtime = Runtime(devices=devices("auto")[:1], batch_size=BATCH, work=options.folder / "work")
    data = inputs.images(options.folder / "data", 3 if options.smoke else IMAGES)
    tables = make_tables(data, options.folder, runtime)
    few = inputs.images(options.folder / "few" / "data", 2 if options.smoke else FEW)
    few_tables = make_tables(few, options.folder / "few", runtime)
    precisions: list[Precision] = ["bf16", "fp32"] if options.all_variants else ["bf16"]
    repeats = 1 if options.smoke else REPEATS
    plain = load_clip(MODEL, "random", runtime.devices[0], "fp32")
    rows: list[Row] = []
    targets: list[Target] = []
    measurements: dict[str, list[Measurement]] = {}
    for precision in precisions:
        clip = load_clip(MODEL, "random", runtime.devices[0], precision)
        texts = embed_texts(tables, precision, runtime)
        jobs = list(_jobs(tables, read_texts(texts)))
        variants = {
            "encoder": _encoder(clip, jobs),
            "ours": _ours(tables, texts, precision, options.folder / "out", runtime),
            "plain": _plain(plain, jobs, repeats),
        }
        of_precision = interleave(variants, repeats)
        rates = medians(of_precision)
        pair = _with_and_without_regions(few_tables, precision, options.folder / "out", runtime)
        of_precision |= interleave(pair, 1 if options.smoke else TURNS)
        turns = zip(*(of_precision[name] for name in pair), strict=True)
        kept = median(regions.rate / none.rate for regions, none in turns)
        rows.append(_row(precision, rates, kept))
        measurements |= {f"{name}, {precision}": values for name, values in of_precision.items()}
        if precision == "bf16":
            targets = [
                Target("ours / encoder, bf16", rates["ours"] / rates["encoder"], 0.9),
                Target("ours bf16 / plain loop fp32", rates["ours"] / rates["plain"], 3.0),
                Target("with the table regions / without, bf16", kept, 0.97),
            ]
    setup: dict[str, str | float] = {
        "images": data.number,
        "photographs": str(data.real).lower(),
        "crops": sum(len(job.regions) for job in jobs),
        "nouns": sum(len(job.texts) for job in jobs),
        "model": MODEL,
        "batch": BATCH,
        "device": runtime.devices[0],
        "images, with and without regions": few.number,
    }
    return Result(setup, rows, targets, measurements)


def _row(precision: str, rates: dict[str, float], kept: float) -> Row:
    return {
        "precision": precision,
        "encoder crops/s": rates["encoder"],
        "ours crops/s": rates["ours"],
        "plain fp32 crops/s": rates["plain"],
        "ours / encoder": rates["ours"] / rates["encoder"],
        "ours / plain": rates["ours"] / rates["plain"],
        "with regions / without": kept,
    }


def make_tables(data: inputs.Images, folder: Path, runtime: Runtime, max_proposals: int = 100) -> Tables:
    """Run the steps before `score`."""
    tables = Tables(data.images, folder / "index", folder / "nouns", folder / "proposals")
    build_index(tables.index, runtime, IndexOptions(images=data.images, captions=data.captions))
    extract_nouns(tables.index, tables.nouns, runtime, NounsOptions(model=inputs.tagger()))
    options = ProposeOptions(source="ground_truth", path=data.masks, max_proposals=max_proposals)
    propose_masks(tables.index, data.images, tables.proposals, runtime, options)
    return tables


def embed_texts(tables: Tables, precision: Precision, runtime: Runtime) -> Path:
    out = tables.index.with_name(f"texts-{precision}")
    encode_nouns(tables.nouns, tables.proposals, out, runtime, CLIP, "single", precision)
    return out


def _jobs(tables: Tables, embeddings: dict[str, Tensor]) -> Iterator[Job]:
    """The images that the step scores: those with nouns and masks."""
    for unit in unit_names(tables.index):
        nouns = rows_by_image(tables.nouns / f"{unit}.parquet", "nouns")
        regions = rows_by_image(tables.proposals / f"{unit}.parquet", "proposals")
        for image in read_image_records(tables.index / f"{unit}.parquet", tables.images):
            if nouns[image.image_id] and regions[image.image_id]:
                texts = torch.stack([embeddings[row["noun"]] for row in nouns[image.image_id]])
                yield Job(image, regions[image.image_id], texts)


def _encoder(clip: Clip, jobs: list[Job]) -> Variant:
    """The image tower on prepared tensors on its device."""
    color = crops.fill_color("mean", clip.mean.tolist())
    crops_ = torch.stack([_region(job, row, clip.size, color) for job in jobs for row in job.regions])
    size, device = crops_per_pass(clip.mean.device), clip.mean.device
    batches = (crops_[i : i + size].to(device) for i in range(0, len(crops_), size))
    prepared = [crops.normalize(batch, clip.mean, clip.std).to(clip.dtype) for batch in batches]

    @torch.inference_mode()
    def variant(_: int) -> float:
        start = time.perf_counter()
        for batch in prepared:
            clip.model.encode_image(batch)  # type: ignore[operator]
        if clip.mean.is_cuda:
            torch.cuda.synchronize()
        return len(crops_) / (time.perf_counter() - start)

    variant(0)
    return variant


def _region(job: Job, row: dict[str, Any], size: int, color: ImageArray | None) -> Tensor:
    mask = masks.decode(row["rle"], row["height"], row["width"])
    return crops.crop_region(job.image.pixels, mask, tuple(row["box"]), size, color, antialias=True)[0]


def _with_and_without_regions(tables: Tables, precision: Precision, out: Path, runtime: Runtime) -> dict[str, Variant]:
    """The step `score` on the same units, with the table `regions` and without it, in this order."""
    texts = embed_texts(tables, precision, runtime)
    both: tuple[KeptRegions, ...] = ("candidates", "none")
    return {f"regions of {kept}": _ours(tables, texts, precision, out / kept, runtime, kept) for kept in both}


def _ours(
    tables: Tables, texts: Path, precision: Precision, out: Path, runtime: Runtime, kept: KeptRegions = "candidates"
) -> Variant:
    """The task of the step `score`, created once; only its calls for the units are timed."""
    factory = task_factory(tables, texts, precision, runtime, kept)
    task = factory(runtime.devices[0])

    numbers = itertools.count()

    def variant(_: int) -> float:
        seconds: list[float] = []
        key = StepKey("score", f"benchmark-{precision}-{out.name}-{next(numbers)}", {})
        units = list(unit_names(tables.index))
        counts = run_step(key, units, partial(_timed, task, seconds), out / key.fingerprint, runtime, uses_model=True)
        return counts["crops"] / sum(seconds)

    return variant


def task_factory(
    tables: Tables, texts: Path, precision: Precision, runtime: Runtime, kept: KeptRegions = "candidates"
) -> ScoreTaskFactory:
    """What makes the task of the step `score`."""
    return ScoreTaskFactory(
        index=tables.index,
        images=tables.images,
        nouns=tables.nouns,
        proposals=tables.proposals,
        texts_folder=texts,
        fingerprint="benchmark",
        clip=CLIP,
        options=ScoreOptions(precision=precision, keep_regions=kept),
        crop=CropOptions(),
        workers=runtime.workers,
        batch_size=runtime.batch_size,
        metadata={},
        vectors=None,  # nothing may be kept, or a second turn would encode nothing
    )


def _timed(task: Task, seconds: list[float], _device: str) -> Task:
    def timed(unit: str, folder: Path) -> Counts:
        start = time.perf_counter()
        counts = task(unit, folder)
        seconds.append(time.perf_counter() - start)
        return counts

    return timed


def _plain(clip: Clip, jobs: list[Job], repeats: int) -> Variant:
    """A straightforward loop over images and masks in float32, with a batch for each image."""
    mean, std = clip.mean.cpu()[:, None, None], clip.std.cpu()[:, None, None]

    def prepare(pixels: ImageArray, row: dict[str, Any]) -> Tensor:
        mask = masks.decode(row["rle"], row["height"], row["width"])
        x, y, width, height = row["box"]
        crop, inside = pixels[y : y + height, x : x + width].copy(), mask[y : y + height, x : x + width]
        crop[~inside] = np.round(255 * np.array(mean.flatten()))
        small = Image.fromarray(crop).resize((clip.size, clip.size), Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255 - mean) / std

    @torch.inference_mode()
    def variant(repeat: int) -> float:
        start, number = time.perf_counter(), 0
        for job in jobs[repeat::repeats]:
            with Image.open(job.image.root / job.image.file) as image:
                pixels = np.array(image.convert("RGB"))
            batch = torch.stack([prepare(pixels, row) for row in job.regions])
            features = clip.model.encode_image(batch.to(clip.mean.device))  # type: ignore[operator]
            (job.texts @ torch.nn.functional.normalize(features, dim=-1).cpu().T).argmax(1).tolist()
            number += len(batch)
        return number / (time.perf_counter() - start)

    return variant
