"""Speed of segmentation with 100 proposals and 150 names compared with a plain loop, and memory with 847 names.

    python -m benchmarks segment      about 4 minutes on two cores

ViT-B-16 with random weights, and COCO images of 640 pixels. The plain loop does what the reference does: each proposal is
cropped, padded to a square, resized and encoded by itself in float32, and the maps of all classes are resized to the image
before the arg-max. Both get the same synthetic proposals and the same text embeddings. Peak memory is that of a child process
for each number of names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import inputs
from benchmarks.results import Options, Result, Row, Target, Variant, interleave, medians
from ovseg.clip.load import Clip, load_clip
from ovseg.core.crops import normalize
from ovseg.core.images import ImageArray, decode_image
from ovseg.proposals.mask_logits import upsample_mask_probs
from ovseg.proposals.network import NetworkOutput, ProposalNetwork, build_network
from ovseg.segmentation.class_names import Vocabulary
from ovseg.segmentation.segmenter import Segmenter

MODEL, QUERIES, NAMES, MANY, REPEATS = "ViT-B-16", 100, 150, 847, 3
GRID, RADIUS = (120, 160), 12  # grid of the synthetic masks, and their radius in cells
OURS, PLAIN = "ours, bf16", "plain loop, fp32"


def run(options: Options) -> Result:
    number = 1 if options.smoke else 2
    data = inputs.images(options.folder / "images", number)
    images = [decode_image(path.read_bytes()) for path in sorted(data.images.iterdir())[:number]]
    queries = synthetic_queries(8 if options.smoke else QUERIES, 512)
    ours, vocabulary = segmenter("bf16"), synthetic_vocabulary(NAMES, 512)
    clip = load_clip(MODEL, "random")

    def timed(segment_once: Callable[[ImageArray], object]) -> Variant:
        def variant(_: int) -> float:
            start = time.perf_counter()
            for pixels in images:
                segment_once(pixels)
            return len(images) / (time.perf_counter() - start)

        return variant

    variants = {
        OURS: timed(lambda pixels: ours_once(ours, pixels, queries, vocabulary)),
        PLAIN: timed(lambda pixels: plain_once(clip, pixels, queries, vocabulary)),
    }
    measurements = interleave(variants, 1 if options.smoke else REPEATS)
    rates = medians(measurements)
    peaks = {names: peak(names, 8 if options.smoke else QUERIES, options.folder) for names in (NAMES, MANY)}
    rows: list[Row] = [
        {
            "variant": name,
            "images/s": rates[name],
            "seconds an image": 1 / rates[name],
            "ratio": rates[name] / rates[PLAIN],
        }
        for name in variants
    ]
    setup: dict[str, str | float] = {
        "clip": MODEL,
        "proposals": len(queries.mask_logits),
        "names": NAMES,
        "photographs": str(data.real).lower(),
        **{f"peak MiB, {names} names": round(value) for names, value in peaks.items()},
    }
    targets = [
        Target("ours / plain loop", rates[OURS] / rates[PLAIN], 3.0),
        Target(f"peak with {MANY} names / with {NAMES}", peaks[MANY] / peaks[NAMES], 1.5, is_maximum=True),
    ]
    return Result(setup, rows, targets, measurements)


def segmenter(precision: str) -> Segmenter:
    """A segmenter with random weights, whose network is not used: see `synthetic_queries`."""
    network = ProposalNetwork(
        build_network(
            "resnet10t",
            pretrained=False,
            num_queries=2,
            hidden_dim=32,
            decoder_layers=1,
            dropout=0.0,
            text_proj_dim=16,
            width=512,
            classes=2,
        ),
        {},
    )
    return Segmenter(network, load_clip(MODEL, "random", precision=precision))  # type: ignore[arg-type]


def synthetic_queries(number: int, width: int) -> NetworkOutput:
    """Proposals of blobs, with edges as soft as those of a network's masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: GRID[0], : GRID[1]]
    distances = [np.hypot(y - rng.uniform(0, GRID[0]), x - rng.uniform(0, GRID[1])) for _ in range(number)]
    masks = torch.from_numpy(np.stack([rng.uniform(0.5, 3) * RADIUS - distance for distance in distances])).float() / 4
    classes = F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(0)), dim=-1)
    return NetworkOutput(classes, classes[0], masks, (float(GRID[0]), float(GRID[1])))


def synthetic_vocabulary(number: int, width: int) -> Vocabulary:
    texts = F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(1)), dim=-1)
    return Vocabulary(tuple(f"name {i}" for i in range(number)), texts, torch.arange(number))


def ours_once(
    ours: Segmenter, pixels: ImageArray, queries: NetworkOutput, vocabulary: Vocabulary
) -> NDArray[np.uint16]:
    regions = ours.crop_regions(pixels, ours.binarize(pixels, queries))
    labels, _ = ours.semantic_map(pixels, queries, ours.ensemble(ours.classify(queries, regions, vocabulary), 0.7))
    return labels


@torch.inference_mode()
def plain_once(clip: Clip, pixels: ImageArray, queries: NetworkOutput, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """One proposal after the other in float32, and maps of all classes at full size."""
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    blank = (255 * clip.mean)[:, None, None]
    probs = upsample_mask_probs(queries.mask_logits, queries.extent, height, width)
    features: list[Tensor] = []
    for mask in probs > 0.4:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inside = mask[top:bottom, left:right]
        crop = torch.where(inside, image[:, top:bottom, left:right], blank)
        side = max(crop.shape[1:])
        padded = blank.expand(3, side, side).clone()
        padded[:, : crop.shape[1], : crop.shape[2]] = crop
        square = F.interpolate(padded[None], (clip.size, clip.size), mode="bicubic").clamp(0, 255)
        features.append(F.normalize(clip.model.encode_image(normalize(square, clip.mean, clip.std)), dim=-1))  # type: ignore[operator]
    q = (100 * torch.cat(features) @ vocabulary.texts.T).softmax(1)
    p = (
        100
        * torch.cat(
            [
                queries.query_embeddings @ vocabulary.texts.T,
                (queries.query_embeddings @ queries.no_object_embedding)[:, None],
            ],
            1,
        )
    ).softmax(1)
    scores = p[:, :-1].pow(0.3) * q.pow(0.7)
    maps = torch.einsum("qc,qhw->chw", scores, queries.mask_logits.sigmoid())
    return np.asarray(F.interpolate(maps[None], (height, width), mode="bilinear")[0].argmax(0).numpy())


def peak(names: int, proposals: int, folder: Path) -> float:
    """Peak resident size in MiB of a process that segments one image with `names` names."""
    command = [sys.executable, "-m", "benchmarks.segment", str(names), str(proposals), str(folder / "images")]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(process.stdout.splitlines()[-1]))


def child(names: int, proposals: int, folder: Path) -> None:
    """Segment one image and print the peak resident size in MiB; `peak` runs this in a process of its own."""
    import resource

    path = next(path for path in sorted(folder.rglob("*.jpg")))
    ours_once(
        segmenter("bf16"),
        decode_image(path.read_bytes()),
        synthetic_queries(proposals, 512),
        synthetic_vocabulary(names, 512),
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
