"""One pass over an image with 100 masks, compared with a crop of each: arithmetic, time, memory, segmentation, training.

    python -m benchmarks regions      about 8 minutes on two cores

ViT-B-16 with the same random weights for all, bf16, and one image of 640 pixels with masks of blobs. Crops have 224 pixels; one
pass has the image at 480, as in MAFT, and regions from block 8 of 12 on. Arithmetic is what torch counts of the image tower,
without what fills the last forward pass of crops (see `clip.passes`), which time has. The break-even is the smallest number of
masks of which crops cost more than one pass. A segmentation runs a MaskFormer of ResNet-50 with random weights in bf16, but all
after it gets the synthetic masks, as in `benchmarks.segment`. A step of training has 32 images with 100 regions each, at the
size of crops, against twice as many crops; at 480 pixels it has four images.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs, segment, train
from benchmarks.results import Options, Result, Row, Target, Variant, interleave, medians
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import encode_in_one_pass, encode_regions, masks_on_grid, whole_image, with_regions
from ovseg.core.images import ImageArray, decode_image
from ovseg.core.masks import MaskArray
from ovseg.core.options import Encoder, FinetuneOptions
from ovseg.proposals.mask_logits import binary_masks
from ovseg.proposals.network import ProposalNetwork, build_network
from ovseg.segmentation.segmenter import Segmenter
from ovseg.training.distributed import World
from ovseg.training.objectives import OBJECTIVES
from ovseg.training.region_dataset import RegionBatch
from ovseg.training.region_step import RegionStep
from ovseg.training.region_tower import RegionTower
from ovseg.training.region_training import region_optimizer

MODEL, REGIONS, NAMES, IMAGE_SIZE, START_BLOCK, THRESHOLD = "ViT-B-16", 100, 150, 480, 8, 0.4
ROUNDS, TRAINED, LARGE = 3, 32, 4
ENCODERS: tuple[Encoder, ...] = ("crops", "region_tokens", "biased_tokens")
NETWORK, CROPS_STEP = "proposal network", "training, crops"


def run(options: Options) -> Result:
    regions, rounds = (8, 1) if options.smoke else (REGIONS, ROUNDS)
    data = inputs.images(options.folder / "images", 1)
    # before this process grows: the peak of a child counts the memory of the process that starts it
    peaks = {e: peak(e, regions, data.images) for e in ENCODERS}
    pixels = decode_image(next(data.images.iterdir()).read_bytes())
    masks, clips = blobs(pixels, regions), made_for_each(load_clip(MODEL, "random", precision="bf16"))
    network = mask_network(clips["crops"].width).for_prediction("bf16")
    variants: dict[str, Variant] = {e: encoding(clip, pixels, masks) for e, clip in clips.items()}
    variants[NETWORK] = _rate(lambda: network.predict(pixels))
    variants |= {_segmentation(e): segmentation(network, clip, pixels, regions) for e, clip in clips.items()}
    sizes = (2, 1) if options.smoke else (TRAINED, LARGE)
    steps = training_steps(*sizes, regions)
    measurements = interleave(variants, rounds) | interleave(steps, 1)
    rates = medians(measurements)
    flops = {e: count_flops(clip, pixels, masks) for e, clip in clips.items()}
    rows: list[Row] = []
    for e, clip in clips.items():
        pair = (clips["crops"], clip, pixels, masks)
        rows.append(
            {
                "encoder": e,
                "GFLOP": flops[e] / 1e9,
                "seconds": 1 / rates[e],
                "peak MiB": peaks[e],
                "break-even, FLOP": "" if e == "crops" else break_even(count_flops, *pair),
                "break-even, time": "" if e == "crops" else break_even(seconds_of, *pair),
                "segmentation, s": 1 / rates[_segmentation(e)],
                "of it the network": rates[_segmentation(e)] / rates[NETWORK],
            }
        )
    setup: dict[str, str | float] = {
        "clip": MODEL,
        "masks": regions,
        "image": f"{pixels.shape[1]} x {pixels.shape[0]}",
        "photographs": str(data.real).lower(),
        **{f"{name}, samples/s": round(rates[name], 3) for name in steps},
    }
    after = {e: 1 / rates[_segmentation(e)] - 1 / rates[NETWORK] for e in ENCODERS}
    targets = []
    for e in ENCODERS[1:]:
        targets += [
            Target(f"FLOP of crops / of {e}", flops["crops"] / flops[e], 15.0),
            Target(f"time of crops / of {e}", rates[e] / rates["crops"], 8.0),
            Target(f"segmentation with crops / with {e}", rates[_segmentation(e)] / rates[_segmentation("crops")], 4.0),
            Target(f"the same without the proposal network, {e}", after["crops"] / after[e], 4.0),
        ]
    pairs_an_image = rates[CROPS_STEP] / rates[_step(clips["crops"].size)]
    targets.append(Target("pairs trained in the time of an image", pairs_an_image, 2.0, is_maximum=True))
    return Result(setup, rows, targets, measurements)


def made_for_each(clip: Clip) -> dict[Encoder, Clip]:
    """The same weights, made for each of `ENCODERS`."""
    clips: dict[Encoder, Clip] = {"crops": clip}
    for encoder in ENCODERS[1:]:
        clips[encoder] = with_regions(clip, RegionSettings(encoder, START_BLOCK, IMAGE_SIZE))
    return clips


def encoding(clip: Clip, pixels: ImageArray, masks: MaskArray) -> Variant:
    """Encode all masks of an image; the rate is in images a second."""
    return _rate(lambda: encode_regions(clip, pixels, masks))


def blobs(pixels: ImageArray, number: int) -> MaskArray:
    """The masks of the proposals of `benchmarks.segment`, bool `[Q, H, W]`."""
    queries = segment.synthetic_queries(number, 1)
    height, width = pixels.shape[:2]
    found = binary_masks(queries.mask_logits, queries.extent, height, width, THRESHOLD)
    return np.stack(list(found))


def mask_network(width: int) -> ProposalNetwork:
    """MaskFormer of the recipes' sizes, with ResNet-50 and random weights."""
    torch.manual_seed(0)
    network = build_network(
        "resnet50",
        pretrained=False,
        num_queries=REGIONS,
        hidden_dim=256,
        decoder_layers=6,
        dropout=0.1,
        text_proj_dim=1024,
        width=width,
        classes=171,
    )
    return ProposalNetwork(network.eval(), {"short_side": 640, "long_side": 2560})


def segmentation(network: ProposalNetwork, clip: Clip, pixels: ImageArray, number: int) -> Variant:
    """Segment one image; the rate is in images a second."""
    queries, vocabulary = segment.synthetic_queries(number, clip.width), segment.synthetic_vocabulary(NAMES, clip.width)
    segmenter = Segmenter(network, clip)

    def once() -> None:
        network.predict(pixels)
        segment.ours_once(segmenter, pixels, queries, vocabulary)

    return _rate(once)


def training_steps(images: int, large: int, regions: int) -> dict[str, Variant]:
    """Steps on whole images at the size of crops and at `IMAGE_SIZE`, and on twice as many crops; rates in samples a second."""
    cpu, size = torch.device("cpu"), load_clip(MODEL, "random").size
    return {
        _step(size): region_step(images, size, regions),
        _step(IMAGE_SIZE): region_step(large, IMAGE_SIZE, regions),
        CROPS_STEP: train.finetune_rate(MODEL, 2 * images, cpu),
    }


def region_step(images: int, size: int, regions: int) -> Variant:
    """A step of OVSeg's contrastive loss on whole images, the image tower being trained."""

    def variant(_: int) -> float:
        clip, world = load_clip(MODEL, "random"), World(0, 1, torch.device("cpu"))
        clip.model.visual.requires_grad_(True)
        options = FinetuneOptions(method="regions", batch_size=images, image_size=size, start_block=START_BLOCK)
        tower, scale = RegionTower(clip, RegionSettings("region_tokens", START_BLOCK)), nn.Parameter(torch.tensor(4.0))
        optimizer = region_optimizer(tower, scale, options)
        step = RegionStep(
            objective=OBJECTIVES["regions"],
            tower=tower,
            frozen=None,
            teach=None,
            log_scale=scale,
            texts=F.normalize(torch.randn(1, train.NOUNS, clip.width), dim=-1),
            synonyms=None,
            template_weights=torch.ones(1),
            pseudo_text=None,
            batches=itertools.repeat(random_batch(images, size, regions)),
            micro_size=images,
            options=options,
            world=world,
        )
        numbers = 3
        for number in range(numbers):
            if number == 1:  # the first one warms up
                start = time.perf_counter()
            optimizer.zero_grad()
            step(number)
            optimizer.step()
        return images * (numbers - 1) / (time.perf_counter() - start)

    return variant


def random_batch(images: int, size: int, regions: int) -> RegionBatch:
    """Images of noise, each with one pair and the same masks on the grid of patches of 16 pixels."""
    grid = size // 16
    masks = blobs(np.zeros((grid, grid, 3), np.uint8), regions)
    numbers = torch.arange(images)
    return {
        "image": torch.randint(256, (images, 3, size, size), dtype=torch.uint8),
        "masks": torch.from_numpy(masks).float().expand(images, -1, -1, -1),
        "real": torch.ones(images, regions, dtype=torch.bool),
        "overlaps": torch.zeros(0, regions),
        "references": torch.zeros(0, 2, dtype=torch.int64),
        "pairs": torch.stack([numbers, numbers % regions, numbers % train.NOUNS], dim=1),
        "taught": [None] * images,
        "crops": torch.zeros(0, 3, 0, 0, dtype=torch.uint8),
        "crop_masks": torch.zeros(0, 0, 0, dtype=torch.bool),
        "teacher_files": [None] * images,
        "keys": [""] * images,
    }


def count_flops(clip: Clip, pixels: ImageArray, masks: MaskArray) -> float:
    """Arithmetic operations of the image tower for all masks of an image, as torch counts them."""
    if clip.regions.encoder == "crops":
        return crop_flops(clip) * len(masks)
    with counted_flops() as counter:
        encode_in_one_pass(clip, whole_image(clip, pixels), masks_on_grid(clip, masks))
    return float(counter.get_total_flops())


def crop_flops(clip: Clip) -> float:
    """Arithmetic operations of the image tower for one crop, as torch counts them."""
    crop = torch.zeros(1, 3, clip.size, clip.size, dtype=clip.dtype, device=clip.mean.device)
    with counted_flops() as counter, torch.no_grad():
        clip.model.visual(crop)  # type: ignore[operator]
    return float(counter.get_total_flops())


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Count the operations of a forward pass in this context, also those of attention.

    Without gradients torch computes attention by one kernel, which it does not count.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def seconds_of(clip: Clip, pixels: ImageArray, masks: MaskArray) -> float:
    """Seconds of encoding the masks of an image."""
    start = time.perf_counter()
    encode_regions(clip, pixels, masks)
    return time.perf_counter() - start


def break_even(
    cost: Callable[[Clip, ImageArray, MaskArray], float],
    crops: Clip,
    one_pass: Clip,
    pixels: ImageArray,
    masks: MaskArray,
) -> int:
    """The smallest number of masks of which crops cost more than one pass."""
    costlier = (
        number
        for number in range(1, len(masks))
        if cost(crops, pixels, masks[:number]) > cost(one_pass, pixels, masks[:number])
    )
    return next(costlier, len(masks))


def peak(encoder: Encoder, regions: int, images: Path) -> float:
    """Peak resident size in MiB of a process that encodes the masks of one image."""
    command = [sys.executable, "-m", "benchmarks.regions", encoder, str(regions), str(images)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(process.stdout.splitlines()[-1]))


def child(encoder: Encoder, regions: int, images: Path) -> None:
    """Encode the masks of one image and print the peak resident size in MiB; `peak` runs this in a process of its own."""
    pixels = decode_image(next(images.iterdir()).read_bytes())
    clip = made_for_each(load_clip(MODEL, "random", precision="bf16"))[encoder]
    encode_regions(clip, pixels, blobs(pixels, regions))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def _rate(once: Callable[[], object]) -> Variant:
    def variant(_: int) -> float:
        start = time.perf_counter()
        once()
        return 1 / (time.perf_counter() - start)

    return variant


def _segmentation(encoder: Encoder) -> str:
    return f"segmentation, {encoder}"


def _step(size: int) -> str:
    return f"training, images of {size} pixels"


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))  # type: ignore[arg-type]
