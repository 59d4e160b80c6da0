"""One command that shows that everything runs on a GPU, and how fast: correctness on the tiny recipe, then speed.

    python -m benchmarks gpu                       at most 8 minutes on one H100
    python -m benchmarks gpu --device cpu --tiny   the same code on two cores, in two minutes, with the demo's small models

Correctness (`gpu_checks`): each stage of the tiny recipe on the CPU and on the device, whose pairs and figures must agree but
for rounding; bf16; several processes that share the device; a training that is stopped and continued; two processes if there
are two GPUs; the message when memory is full. Speed, in bf16 with random weights: CLIP on crops, steps of finetuning and of
prompts, each encoder that sees an image once, a step of the proposal network at 640 pixels, whole segmentations with crops
and in one pass, mining's step `score` from JPEG to candidates in one process and in several, and the loader. The rates are
written into the planner's rates.json, so that `ovseg plan` knows this GPU.
"""

from __future__ import annotations

import filecmp
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_checks import Check, run_checks
from benchmarks.inputs import ROOT, images
from benchmarks.rates import Rate
from benchmarks.regions import NAMES, blobs, crop_flops, mask_network
from benchmarks.results import Options, Result, Row, Target, gpu_names, slug
from benchmarks.score import MODEL, embed_texts, make_tables, task_factory
from benchmarks.segment import ours_once, synthetic_queries, synthetic_vocabulary
from benchmarks.train import finetune_flops, finetune_rate, prompt_rate
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.mask_adapter import new_adapter
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import encode_in_one_pass, masks_on_grid, whole_image, with_regions
from ovseg.core.arithmetic import matrix_peak
from ovseg.core.crops import MAX_THREADS
from ovseg.core.options import Encoder
from ovseg.engine.executors import local
from ovseg.engine.runtime import Runtime, devices
from ovseg.engine.units import unit_names
from ovseg.proposals.network import build_network
from ovseg.segmentation.segmenter import Segmenter
from ovseg.training.annotated_dataset import Scene
from ovseg.training.distributed import World
from ovseg.training.loader import load_shards
from ovseg.training.mask_objective import MaskObjective, mask_step

SCORED = ("score in one process", "score")
"""The work of `score_speeds`, in one process and in several, and the folders of their tables."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


@dataclass(frozen=True)
class Sizes:
    """What the speed is measured with; the tiny ones are for the CPU.

    Attributes:
        models: names of CLIPs, as `load_clip` takes them.
        batch: crops or pairs of a batch.
        regions: regions of an image that are encoded in one pass.
        image: side of that image, as a number of input sizes of the CLIP.
        convnext: the CLIP with a ConvNeXt, for the region encoder `pooled`.
        adapter: width of the blocks of `mask_adapter`.
        backbone: backbone of the proposal network.
        pixels, images: side and number of its images.
        copies: copies of the 40 images that are scored, in units of 64: at least 6 for each process.
        processes: processes that share the device to score them.
        seconds: seconds of each measurement.
        splits: images of each split of the demo that the checks draw.
    """

    models: tuple[str, ...] = ("ViT-B-16", "ViT-L-14")
    batch: int = 256
    regions: int = 100
    image: int = 2
    convnext: str = "convnext_base"
    adapter: int = 768
    backbone: str = "resnet101c"
    pixels: int = 640
    images: int = 8
    copies: int = 39
    processes: int = 4
    seconds: float = 1.5
    splits: Mapping[str, int] = field(default_factory=lambda: {"train": 48, "val": 8, "benchmark": 8})


TINY = Sizes(
    models=(f"local-dir:{ROOT / 'data' / 'demo' / 'clip'}",),
    batch=32,
    regions=8,
    image=1,
    adapter=32,
    backbone="resnet10t",
    pixels=64,
    images=2,
    copies=1,
    processes=2,
    seconds=0.2,
    splits={"train": 16, "val": 4, "benchmark": 4},
)


class Speed(NamedTuple):
    """A measured speed in bf16, what it was measured with, and how long that took."""

    work: str
    model: str
    per_second: float
    unit: str
    detail: str
    seconds: float


def run(options: Options) -> Result:
    name = devices(options.device)[0]
    device, sizes = torch.device(name), TINY if options.smoke else Sizes()
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # the one that is waited for
    checks, stages = run_checks(options.folder / "checks", name, sizes.splits)
    peak = matrix_peak(device)
    speeds = [
        *(speed for model in sizes.models for speed in clip_speeds(model, sizes, device, peak)),
        *region_speeds(sizes, device),
        network_speed(sizes, device),
        *segmentation_speeds(sizes, device),
        *score_speeds(options.folder / "score", sizes, name),
        loader_speed(options.folder / "checks" / "device" / "shards", sizes),
    ]
    checks.append(same_bytes(*(options.folder / "score" / name for name in SCORED)))
    results = {True: "passed", False: "FAILED", None: "skipped"}
    rows: list[Row] = [
        {"what": c.name, "result": results[c.passed], "seconds": c.seconds, "detail": c.detail} for c in checks
    ]
    rows += [
        {
            "what": f"{speed.work} {speed.model}".rstrip(),
            "result": f"{speed.per_second:,.1f} {speed.unit}/s",
            "seconds": speed.seconds,
            "detail": speed.detail,
        }
        for speed in speeds
    ]
    (gpu,) = gpu_names(name) or ("",)
    source = f"measured: benchmarks/results/gpu-{slug(name)}.json"
    planner_name = short_gpu_name(gpu) if gpu else "cpu"
    rates = [Rate(speed.work, speed.model, "bf16", planner_name, speed.per_second, source) for speed in speeds]
    setup: dict[str, str | float] = {
        "device": gpu or name,
        "peak TFLOP/s": peak / 1e12,
        **{f"stage {stage}, s": seconds for stage, seconds in stages.items()},
    }
    targets = [Target(check.name, float(bool(check.passed)), 1.0) for check in checks if check.passed is not None]
    return Result(setup, rows, targets, rates=rates)


def clip_speeds(model: str, sizes: Sizes, device: torch.device, peak: float) -> list[Speed]:
    """How fast a CLIP encodes crops, is finetuned and learns mask prompts.

    Args:
        model: the name of the CLIP.
        sizes: batches and times.
        device: the torch device.
        peak: operations a second of the fastest matrix product on the device, in bf16.
    """
    clip = load_clip(model, None if model.startswith("local-dir:") else "random", str(device), "bf16")
    crops = torch.randint(256, (sizes.batch, 3, clip.size, clip.size), dtype=torch.uint8)
    per_crop = crop_flops(clip)

    def encode() -> int:
        return len(clip.encode_crops(crops))

    def train(variant: Callable[[int], float]) -> Callable[[], float]:
        return lambda: variant(0)

    speeds = [_measure("encode", model, "crops", encode, sizes, lambda rate: _share(rate * per_crop / peak))]
    flops = finetune_flops(model, device)
    for work, variant in (
        ("finetune", finetune_rate(model, sizes.batch, device)),
        ("prompt", prompt_rate(model, sizes.batch, device)),
    ):
        start = time.perf_counter()
        per_second = train(variant)()
        detail = f"batch {sizes.batch}" + (f", {_share(per_second * flops / peak)}" if work == "finetune" else "")
        speeds.append(_speed(work, model, per_second, "pairs", detail, time.perf_counter() - start))
    return speeds


def region_speeds(sizes: Sizes, device: torch.device) -> list[Speed]:
    """How fast all regions of an image are encoded at once: region tokens by each CLIP, the other encoders by one."""
    first = sizes.models[0]
    encoders: list[tuple[str, Encoder]] = [
        *((model, "region_tokens") for model in sizes.models),
        (first, "biased_tokens"),
        (first, "mask_adapter"),
        (sizes.convnext, "pooled"),
    ]
    speeds = []
    for model, encoder in encoders:
        clip = load_clip(model, None if model.startswith("local-dir:") else "random", str(device), "bf16")
        side = sizes.image * clip.size
        if encoder == "mask_adapter":
            clip = replace(clip, adapter=new_adapter(clip.width, sizes.adapter, 0).eval().to(device, clip.dtype))
        clip = with_regions(clip, RegionSettings(encoder, None, side))
        pixels = np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8)
        image, on_grid = whole_image(clip, pixels), masks_on_grid(clip, blobs(pixels, sizes.regions))
        work = "encode regions" if encoder == "region_tokens" else f"encode regions, {encoder}"

        detail = f"{sizes.regions} regions, {side} pixels"
        speeds.append(_measure(work, model, "images", one_pass(clip, image, on_grid), sizes, _constant(detail)))
    return speeds


def one_pass(clip: Clip, image: Tensor, on_grid: Tensor) -> Callable[[], int]:
    """A function that encodes the regions of one image."""

    def encode() -> int:
        encode_in_one_pass(clip, image, on_grid)
        return 1

    return encode


def network_speed(sizes: Sizes, device: torch.device) -> Speed:
    """How fast the proposal network is trained: forward, backward and optimizer, on images with two masks each."""
    model = build_network(
        sizes.backbone,
        pretrained=False,
        num_queries=100,
        hidden_dim=256,
        decoder_layers=6,
        dropout=0.1,
        text_proj_dim=256,
        width=512,
        classes=2,
    )
    model.class_predictor.text_embeddings = torch.nn.functional.normalize(torch.randn(2, 512), dim=-1)
    objective = MaskObjective(model.train(), "bf16").to(device)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-6, fused=True)
    masks = torch.zeros(2, sizes.pixels, sizes.pixels, dtype=torch.bool)
    masks[0, : sizes.pixels // 2], masks[1, sizes.pixels // 2 :] = True, True
    image = torch.randint(256, (3, sizes.pixels, sizes.pixels), dtype=torch.uint8)
    scene: Scene = {"image": image, "masks": masks, "classes": torch.arange(2), "key": "0"}
    world = World(0, 1, device)

    def step() -> int:
        optimizer.zero_grad()
        mask_step(objective, objective, [scene] * sizes.images, sizes.images, world)
        optimizer.step()
        return sizes.images

    detail = f"{sizes.images} of {sizes.pixels} pixels"
    return _measure("train network", sizes.backbone, "images", step, sizes, _constant(detail))


def segmentation_speeds(sizes: Sizes, device: torch.device) -> list[Speed]:
    """How fast one image after the other is segmented: MaskFormer of ResNet-50, the first CLIP, 150 names.

    The network has random weights, so that all after it gets synthetic masks, as in `benchmarks.segment`.
    """
    model = sizes.models[0]
    crops = load_clip(model, None if model.startswith("local-dir:") else "random", str(device), "bf16")
    network = mask_network(crops.width).for_prediction("bf16")
    network.model.to(device)
    queries = synthetic_queries(sizes.regions, crops.width)
    queries = replace(queries, mask_logits=queries.mask_logits.to(device))
    vocabulary = synthetic_vocabulary(NAMES, crops.width)
    pixels = np.random.default_rng(0).integers(256, size=(480, 640, 3), dtype=np.uint8)

    def speed(work: str, clip: Clip) -> Speed:
        segmenter, detail = Segmenter(network, clip), f"{clip.regions.encoder}, {sizes.regions} regions, 480 x 640"

        def once() -> int:
            network.predict(pixels)
            ours_once(segmenter, pixels, queries, vocabulary)
            return 1

        return _measure(work, model, "images", once, sizes, _constant(detail))

    in_one_pass = with_regions(crops, RegionSettings("region_tokens", None, sizes.image * crops.size))
    return [speed("segment", crops), speed("segment in one pass", in_one_pass)]


def score_speeds(folder: Path, sizes: Sizes, device: str) -> list[Speed]:
    """How fast mining scores crops from JPEG to candidates, ViT-B-16 in bf16: in one process, and in several on one device.

    What is timed is `steady_rate`, so that neither the start of a process nor the load of a model counts.
    """
    cpu = Runtime(devices=("cpu",), work=folder / "work")
    tables = make_tables(images(folder / "data", 40 if sizes.copies > 1 else 3, sizes.copies), folder, cpu)
    texts = embed_texts(tables, "bf16", cpu)
    units = list(unit_names(tables.index))
    on_device = Runtime(devices=(device,), batch_size=sizes.batch, work=folder / "work")
    speeds = []
    for work, processes in zip(SCORED, ((device,), (device,) * sizes.processes), strict=True):
        (folder / work).mkdir()
        times, crops = [time.perf_counter()], []
        for _, counts in local(task_factory(tables, texts, "bf16", on_device), units, folder / work, processes):
            times.append(time.perf_counter())
            crops.append(counts["crops"])
        detail = f"{len(processes)} processes, {min(MAX_THREADS, on_device.workers)} threads each"
        rate = steady_rate(times, crops, len(processes))
        speeds.append(_speed(work, MODEL, rate, "crops", detail, times[-1] - times[0]))
    return speeds


def steady_rate(times: Sequence[float], items: Sequence[int], processes: int) -> float:
    """Return the items a second while all processes work.

    The first two units of each process are left out, and the last unit of each, since those who are done first have no other.
    With too few units for that, one is timed.

    Args:
        times: the start, then the end of each unit, in seconds.
        items: the items of each unit, in the order of their ends.
        processes: the number of processes.
    """
    first = min(2 * processes, len(items) - 1)
    last = max(len(items) - processes, first + 1)
    return sum(items[first:last]) / (times[last] - times[first])


def same_bytes(one: Path, several: Path) -> Check:
    """Whether several processes write the tables that one writes."""
    start = time.perf_counter()
    names = {path.name for folder in (one, several) for path in folder.glob("*.parquet")}
    _, different, missing = filecmp.cmpfiles(one, several, names, shallow=False)
    other = sorted(different + missing)
    detail = f"{len(names)} files" + (f", other ones: {', '.join(other)}" if other else "")
    return Check("several processes write the bytes of one", not other, detail, time.perf_counter() - start)


def loader_speed(shards: Path, sizes: Sizes) -> Speed:
    """How fast the processes of the loader read the crops that were mined for the checks, at 224 pixels."""
    workers = min(8, os.cpu_count() or 1)
    batches = iter(load_shards(shards, 224, sizes.batch, mean=CLIP_MEAN, workers=workers, resampled=True))
    return _measure(
        "load", "", "samples", lambda: len(next(batches)["key"]), sizes, lambda _: f"{workers} processes, 224 pixels"
    )


def _measure(
    work: str,
    model: str,
    unit: str,
    function: Callable[[], int],
    sizes: Sizes,
    describe: Callable[[float], str],
) -> Speed:
    """Call a function that returns how many items it has done, for the time of a measurement, after once to warm up."""
    began = time.perf_counter()
    function()
    _wait()
    start, number = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < sizes.seconds or not number:
        number += function()
        _wait()
    return _speed(work, model, number / elapsed, unit, describe(number / elapsed), time.perf_counter() - began)


def _speed(work: str, model: str, per_second: float, unit: str, detail: str, seconds: float) -> Speed:
    print(f"{work} {_short(model)}: {per_second:,.1f} {unit}/s, {detail}", flush=True)
    return Speed(work, _short(model), per_second, unit, detail, seconds)


def short_gpu_name(name: str) -> str:
    """The part of a GPU's name that `ovseg plan --gpu` takes: "h100" of "NVIDIA H100 80GB HBM3"."""
    model = re.search(r"[a-z]*\d+[a-z]*", name.lower())
    return model[0] if model else name.lower()


def _short(model: str) -> str:
    return "demo CLIP" if model.startswith("local-dir:") else model


def _constant(detail: str) -> Callable[[float], str]:
    return lambda _: detail


def _share(fraction: float) -> str:
    return f"{fraction:.1%} of the peak"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
